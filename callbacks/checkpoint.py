"""Checkpoints that are whole or absent, and where a run goes on."""

import os
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from datamodules.errors import UserError
from datamodules.files import atomic, check_zip, disk_is_full


class AtomicIO(TorchCheckpointIO):
    """Writes beside the file's place, syncs, renames: a kill or a full disk leaves the old checkpoint whole."""

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with atomic(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            if not disk_is_full(error):
                raise
            mend = "free some space, then go on with resume="
            raise UserError("the disk is full: the checkpoint was not written, the one before is whole", path, mend) from error


def check_monitor(monitor: str | None, model) -> None:
    """Refuses a figure for best.ckpt that the method's evaluator does not give."""
    if monitor is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                      # torchmetrics: computed before anything was seen
        names = [f"val/{name}" for name in model.evaluator("val").compute()]
    if monitor not in names:
        few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        mend = f"choose one of {few}, or null" if names else "this method gives none here: set it to null"
        raise UserError(f"{monitor} is not a figure of validation", "save.monitor", mend)


class Last(ModelCheckpoint):
    """last.ckpt every few steps and when a run is interrupted, but never between a step and the validation due at it:
    a resumed run would go on without that validation, so the checkpoint waits for its end."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        interval = trainer.val_check_batch // trainer.accumulate_grad_batches if trainer.enable_validation else 0
        if not interval or trainer.global_step % interval:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer, pl_module) -> None:
        if trainer.state.fn == "fit":
            super().on_train_batch_end(trainer, pl_module, None, None, 0)

    def on_train_end(self, trainer, pl_module) -> None:
        """The steps since the last one that was due are kept, too: what a run without best.ckpt ends with."""
        super().on_train_end(trainer, pl_module)
        if trainer.global_step % self._every_n_train_steps:
            trainer.save_checkpoint(os.path.join(self.dirpath, f"{self.filename}.ckpt"))

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        if not trainer.validating:
            super().on_exception(trainer, pl_module, exception)


def checkpoints(folder: Path, monitor: str | None, every: int) -> list[ModelCheckpoint]:
    """`Last` every `every` steps; best.ckpt by the largest `monitor`."""
    place = {"dirpath": str((folder / "checkpoints").absolute()), "enable_version_counter": False}
    last = Last(
        filename="last", every_n_train_steps=every, save_on_exception=True, auto_insert_metric_name=False, **place
    )
    if monitor is None:
        return [last]
    return [ModelCheckpoint(filename="best", monitor=monitor, mode="max", auto_insert_metric_name=False, **place), last]


def resume_point(folder: Path) -> str | None:
    """The newest checkpoint of a run that can be read; None when there is none yet (the run begins again).

    Half-written temporary files of a killed process are removed.
    """
    for leftover in folder.rglob("*.tmp*-*"):                # of a process killed while it wrote
        leftover.unlink(missing_ok=True)
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True)
    best: tuple[int, str] | None = None
    for path in found:
        try:
            check_zip(path)
            step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        except Exception as error:  # a damaged file may fail in any way: the next one is tried, and this one is named
            print(f"{path} cannot be read ({type(error).__name__}) and is passed over")
            continue
        if best is None or step > best[0]:
            best = (step, str(path))
    return best[1] if best else None
