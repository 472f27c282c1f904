"""Each step's randomness is a function of (seed, rank, batch number): what makes a resumed run go on bit-equal."""

import random

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class Reseed(Callback):
    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        loop = trainer.fit_loop.epoch_loop
        done = loop.batch_progress.total.processed
        # Lightning validates and logs by these two, which are wrong after some resumes (stopped within a step, say)
        loop.batch_progress.total.ready = done + 1
        loop._batches_that_stepped = done // trainer.accumulate_grad_batches
        a, b, c = np.random.SeedSequence((self.seed, trainer.global_rank, done)).generate_state(3)
        random.seed(int(a))
        np.random.seed(int(b))
        torch.manual_seed(int(c))
