"""EMA of what is trained: validation, the best checkpoint and the export use the mean, training goes on with the weights."""

from lightning.pytorch.callbacks import Callback

from zoo.optim import Average


class EMA(Callback):
    """decay: of the exponential mean, once an optimiser step. A checkpoint keeps weights and mean (`ema`) side by side."""

    def __init__(self, decay: float = 0.999):
        self.decay, self.average, self.steps = decay, None, 0

    def on_train_start(self, trainer, module) -> None:
        if self.average is None:
            self.average = Average(module, self.decay)
        self.average.values = {name: value.to(module.device) for name, value in self.average.values.items()}
        self.steps = trainer.global_step

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if trainer.global_step > self.steps:            # not while gradients are still being gathered
            self.steps = trainer.global_step
            self.average.update(module)

    def on_validation_start(self, trainer, module) -> None:
        if trainer.state.fn == "fit":
            self.average.swap(module)

    def on_validation_end(self, trainer, module) -> None:
        if trainer.state.fn == "fit":
            self.average.swap(module)

    def on_save_checkpoint(self, trainer, module, checkpoint) -> None:
        if self.average is not None:
            checkpoint["ema"] = {name: value.clone() for name, value in self.average.values.items()}

    def on_load_checkpoint(self, trainer, module, checkpoint) -> None:
        if "ema" in checkpoint:
            self.average = Average(module, self.decay)
            self.average.values = {name: value.clone() for name, value in checkpoint["ema"].items()}
