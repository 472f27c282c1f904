"""Progress: a bar on a terminal, a plain line every so often in a file."""

import sys
import time

from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, Progress, TextColumn


class Report(Callback):
    """What bar and lines share: the pace of training and the last figure of `monitor` (None: no figure)."""

    def __init__(self, monitor: str | None):
        self.monitor, self.figure = monitor, ""

    def on_train_start(self, trainer, module) -> None:
        self.start, self.first = time.monotonic(), trainer.global_step

    def pace(self, trainer) -> str:
        """Loss, seconds a step, time left; validation and saving are in both times."""
        done = trainer.global_step - self.first
        loss = trainer.callback_metrics.get("train/loss")
        words = [] if loss is None else [f"loss {loss:.3f}"]
        if done:
            each = (time.monotonic() - self.start) / done
            words += [f"{each:.2f} s a step", f"{span((trainer.max_steps - trainer.global_step) * each)} left"]
        return "  ".join(words)

    def remember(self, trainer) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None:
            self.figure = f"{self.monitor} {100 * value:.2f} %"


class Lines(Report):
    """A line at most every `seconds` in training and in evaluation; one after each validation of a training."""

    def __init__(self, monitor: str | None, seconds: float = 10.0):
        super().__init__(monitor)
        self.seconds, self.last = seconds, time.monotonic()

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if self._due(trainer, trainer.global_step == trainer.max_steps):
            print(f"step {trainer.global_step}/{trainer.max_steps}  {self.pace(trainer)}", flush=True)

    def on_validation_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0) -> None:
        total = trainer.num_val_batches[dataloader_idx]
        if self._due(trainer):
            print(f"val {index + 1}/{total}", flush=True)

    def on_test_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0) -> None:
        total = trainer.num_test_batches[dataloader_idx]
        if self._due(trainer):
            print(f"test {index + 1}/{total}", flush=True)

    def on_validation_end(self, trainer, module) -> None:
        self.remember(trainer)
        if trainer.is_global_zero and trainer.state.fn == "fit" and self.figure:
            print(f"step {trainer.global_step}/{trainer.max_steps}  {self.figure}", flush=True)

    def _due(self, trainer, last: bool = False) -> bool:
        due = trainer.is_global_zero and (last or time.monotonic() - self.last >= self.seconds)
        if due:
            self.last = time.monotonic()
        return due


class Bar(Report):
    """A bar of the training's steps with one of the evaluation's batches below it."""

    def __init__(self, monitor: str | None):
        super().__init__(monitor)
        self.bars: Progress | None = None                   # what is on the screen

    def on_train_start(self, trainer, module) -> None:
        super().on_train_start(trainer, module)
        if trainer.is_global_zero:
            self.training = self._add("step", trainer.max_steps, trainer.global_step)

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self._tell(trainer)

    def on_train_end(self, trainer, module) -> None:
        self._stop()

    def on_exception(self, trainer, module, exception) -> None:
        self._stop()

    def on_validation_start(self, trainer, module) -> None:
        self._begin(trainer, "val", trainer.num_val_batches)

    def on_test_start(self, trainer, module) -> None:
        self._begin(trainer, "test", trainer.num_test_batches)

    def on_validation_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0) -> None:
        self._advance(trainer)

    def on_test_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0) -> None:
        self._advance(trainer)

    def on_validation_end(self, trainer, module) -> None:
        self.remember(trainer)
        self._finish(trainer)

    def on_test_end(self, trainer, module) -> None:
        self._finish(trainer)

    def _add(self, name: str, total: int, completed: int = 0):
        if self.bars is None:
            words = TextColumn("{task.completed}/{task.total}  {task.fields[words]}")
            self.bars = Progress(TextColumn("{task.description}"), BarColumn(24), words, refresh_per_second=4)
            self.bars.start()
        return self.bars.add_task(name, total=total, completed=completed, words="")

    def _tell(self, trainer) -> None:
        if trainer.is_global_zero:
            words = "  ".join(filter(None, (self.pace(trainer), self.figure)))
            self.bars.update(self.training, completed=trainer.global_step, words=words)

    def _begin(self, trainer, name: str, batches: list[int]) -> None:
        if trainer.is_global_zero:
            self.evaluation = self._add(name, sum(batches))

    def _advance(self, trainer) -> None:
        if trainer.is_global_zero:
            self.bars.advance(self.evaluation)

    def _finish(self, trainer) -> None:
        if trainer.is_global_zero:
            self.bars.remove_task(self.evaluation)
        if trainer.state.fn == "fit":
            self._tell(trainer)
        else:
            self._stop()

    def _stop(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


def span(seconds: float) -> str:
    """h:mm:ss, with days in front where there are any."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours}:{minutes:02}:{seconds:02}" if days else f"{hours}:{minutes:02}:{seconds:02}"


def progress(monitor: str | None) -> Callback:
    return Bar(monitor) if sys.stdout.isatty() else Lines(monitor)
