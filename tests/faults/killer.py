"""A callback that kills its own process, for tests."""

import os
import signal

from lightning.pytorch.callbacks import Callback


class Kill(Callback):
    """Sends `how` at the `moment` of batch `batch` (counted over the run), unless the file `once` is there already."""

    def __init__(self, batch: int, once: str, how: str = "SIGKILL", moment: str = "start"):
        self.batch, self.once, self.how, self.moment = batch, once, how, moment

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        self._perhaps("start", trainer)

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self._perhaps("end", trainer)

    def on_validation_start(self, trainer, module) -> None:
        self._perhaps("validation", trainer)

    def _perhaps(self, moment: str, trainer) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.ready if trainer.state.fn == "fit" else -1
        if moment == self.moment and done == self.batch and not os.path.exists(self.once):
            with open(self.once, "w"):
                pass
            os.kill(os.getpid(), getattr(signal, self.how))
