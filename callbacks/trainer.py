"""The trainer of a run: its plugins, callbacks and logs, from a plain config."""

import logging
import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

from callbacks.checkpoint import AtomicIO, checkpoints
from callbacks.csv_log import CSVLog
from callbacks.progress import progress
from callbacks.reseed import Reseed
from callbacks.throughput import Throughput
from datamodules.errors import UserError
from datamodules.settings import make

WHOLE = ("max_steps", "val_check_interval", "accumulate_grad_batches", "log_every_n_steps", "num_nodes")


def start_seed(seed: int) -> None:
    """Seeds the net's first weights; steps and samples have seeds of their own."""
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    seed_everything(seed, verbose=False)


def build_trainer(cfg: dict, folder: Path, training: bool = True) -> Trainer:
    """cfg: the config of train.py or evaluate.py; folder: where the run writes."""
    _quiet()
    options = dict(cfg["trainer"])
    for key in WHOLE:
        if not isinstance(options[key], int) or options[key] < 1:
            raise UserError(f"{options[key]!r} is not a positive whole number", f"trainer.{key}", f"e.g. trainer.{key}=100")
    if options["accelerator"] == "mps":
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    if options["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise UserError("no GPU is to be seen by torch", "trainer=gpu", "use trainer=cpu, or install a CUDA build of torch")
    interval = min(options["val_check_interval"], options["max_steps"])
    options["val_check_interval"] = interval * options["accumulate_grad_batches"]
    return make(
        options,
        default_root_dir=str(folder),
        callbacks=_callbacks(cfg, folder) if training else [progress(None)],
        logger=_loggers(cfg, folder) if training else False,
        plugins=[AtomicIO()],
        enable_checkpointing=training,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,          # ours is a plain callback
        num_sanity_val_steps=0,
    )


def _callbacks(cfg: dict, folder: Path) -> list:
    extra = [make(c) for c in cfg["callbacks"].values() if c is not None]
    save = checkpoints(folder, cfg["save"]["monitor"], cfg["save"]["every"])
    return [Reseed(cfg["seed"]), progress(cfg["save"]["monitor"]), *extra, Throughput(), *save]


def _loggers(cfg: dict, folder: Path) -> list:
    return [CSVLog(folder), *(make(c, folder=folder) for c in cfg["logger"].values())]


def fit(trainer: Trainer, model, data, checkpoint: str | None) -> None:
    """Trains from the start or from a checkpoint, whose rows are kept in the log."""
    step = 0
    if checkpoint:
        step = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        if trainer.is_global_zero:
            print(f"going on from step {step}", flush=True)
    trainer.logger.cut(step)
    try:
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to SIGTERM and Ctrl-C, with a status that looks like success or a crash
        if trainer.is_global_zero:
            print(f"stopped at step {trainer.global_step}; go on with: python train.py resume={trainer.default_root_dir}")
        sys.stdout.flush()
        sys.exit(143 if trainer.received_sigterm else 130)
    trainer.strategy.barrier()                      # so that every process finds the checkpoints rank 0 wrote


def judge(trainer: Trainer, model, data, split: str) -> dict[str, float]:
    """The evaluator's figures on val or test, as fractions."""
    data.setup({"val": "validate", "test": "test"}[split])
    work = {"val": trainer.validate, "test": trainer.test}[split]
    loggers, trainer.loggers = trainer.loggers, []  # the log is the training's: its last row stays what it was
    (figures,) = work(model, data, verbose=False)
    trainer.loggers = loggers
    return {key.removeprefix(f"{split}/"): value for key, value in figures.items() if key != "step"}


def _quiet() -> None:
    """Leaves out Lightning's banners and the warnings that do not concern our loaders."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        "The number of training batches .*",
        ".*Checkpoint directory.*exists.*",
        ".*module.s. in eval mode at the start of training.*",  # metric objects
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # our order of samples goes on by itself
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", text)
