"""Each step's randomness is a function of (seed, rank, batch number): what makes a resumed run go on bit-equal."""

import random

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class Reseed(Callback):
    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        a, b, c = np.random.SeedSequence((self.seed, trainer.global_rank, done)).generate_state(3)
        random.seed(int(a))
        np.random.seed(int(b))
        torch.manual_seed(int(c))
