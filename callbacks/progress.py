"""Progress: a bar on a terminal, a plain line every so often in a file."""

import sys
import time

from lightning.pytorch.callbacks import Callback, RichProgressBar


class Lines(Callback):
    """A line at most every `seconds`: step, loss, seconds a step, time left; one after each validation."""

    def __init__(self, seconds: float = 10.0):
        self.seconds = seconds

    def on_train_start(self, trainer, module) -> None:
        self.start, self.first, self.last = time.monotonic(), trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        now, step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero and (now - self.last >= self.seconds or step == trainer.max_steps):
            self.last = now
            each = (now - self.start) / max(1, step - self.first)
            left = (trainer.max_steps - step) * each
            loss = trainer.callback_metrics.get("train/loss", float("nan"))
            print(f"step {step}/{trainer.max_steps}  loss {loss:.3f}  {each:.2f} s a step  {left / 60:.1f} min left", flush=True)

    def on_validation_end(self, trainer, module) -> None:
        value = trainer.callback_metrics.get("val/mIoU")
        if trainer.is_global_zero and value is not None:
            print(f"step {trainer.global_step}/{trainer.max_steps}  val mIoU {100 * value:.2f} %", flush=True)


def progress() -> Callback:
    return RichProgressBar() if sys.stdout.isatty() else Lines()
