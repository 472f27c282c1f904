"""The same few validation pictures after each validation: what the net sees, should say, and says."""

from pathlib import Path

import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from callbacks.wandb_log import WandbLog
from zoo.base import Segmenter
from zoo.visualize import beside, legend, panel, save_png, shrink, stack

MAX_SIDE = 512


def panel_picture(method, source, indices: list[int]) -> np.ndarray:
    """One row a sample (image, truth, prediction, ... as the method shows it), the legend at the right."""
    rows = []
    training = method.training
    method.eval()
    for index in indices:
        sample = source.read(index)
        shown = method.panel(sample)
        captions = [f"{name} {sample['name']}" if i == 0 else name for i, name in enumerate(shown)]
        rows.append(panel([shrink(p, MAX_SIDE) for p in shown.values()], captions))
    method.train(training)
    return beside([stack(rows), legend(method.classes, method.palette)])


class Panels(Callback):
    """Writes panels/step_<n>.png of `count` validation samples spread over the set."""

    def __init__(self, count: int = 3):
        if count < 0:
            raise ValueError(f"count={count} must not be negative")
        self.count = count

    def indices(self, n: int) -> list[int]:
        return sorted({round(i * (n - 1) / max(1, self.count - 1)) for i in range(min(self.count, n))})

    @rank_zero_only
    def on_validation_end(self, trainer, module) -> None:
        judging_the_best = trainer.state.fn != "fit" and trainer.global_step > 0     # its picture is another one
        if self.count and not judging_the_best:
            source = trainer.datamodule.source("val")
            indices = self.indices(len(source))
            picture = panel_picture(module, source, indices)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLog) and isinstance(module, Segmenter) and module.samples == "scenes":
                    logger.log_panels(module, source, indices, trainer.global_step)
                elif isinstance(logger, WandbLog):
                    logger.log_picture(picture, trainer.global_step)
            self.path = Path(trainer.default_root_dir) / "panels" / f"step_{trainer.global_step:07d}.png"
            save_png(self.path, picture)


def save_panels(method, source, path: Path, count: int = 3) -> Path:
    """The same picture on its own, after a run."""
    save_png(path, panel_picture(method, source, Panels(count).indices(len(source))))
    return path
