"""DeepLabV3+ in training, and how a picture becomes a label map."""

from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.errors import UserError
from zoo.base import Segmenter
from zoo.deeplabv3plus.loss import cross_entropy
from zoo.deeplabv3plus.net import DeepLabV3PlusNet, widen_rows
from zoo.inference import Inference, bands
from zoo.metrics import SceneMetrics
from zoo.optim import Optimisation


class DeepLabV3Plus(Segmenter):
    """net: makes the net given the number of classes; the rest as in `Segmenter`."""

    def __init__(
        self,
        net: Callable[[int], DeepLabV3PlusNet],
        classes: list[str],
        palette: list[tuple[int, int, int]] | None = None,
        ignore: int = 255,
        optimisation: Optimisation | None = None,
        inference: Inference | None = None,
    ):
        built = net(classes=len(classes))
        super().__init__(classes, palette, ignore, built.mean, built.std, optimisation, inference=inference)
        self.net = built

    def on_train_start(self) -> None:
        synced = any(isinstance(m, torch.nn.SyncBatchNorm) for m in self.modules())
        if self.trainer.datamodule.batch_size == 1 and not (synced and self.trainer.world_size > 1):
            raise UserError(
                "one picture per process: DeepLabV3+ has a batch norm over a 1x1 map, which needs two or more values",
                "data.batch_size=1",
                "use data.batch_size=2, or several processes with trainer.sync_batchnorm=true",
            )

    def training_step(self, batch: dict, index: int) -> Tensor:
        labels = batch["labels"].long()
        size = tuple(labels.shape[-2:])
        logits = self.net(self.normalise(batch["image"]))
        with torch.autocast(labels.device.type, enabled=False):
            loss = cross_entropy(widen_rows(logits, size, 0, size[0]), labels, self.ignore)
        return self.log_losses({"loss_ce": loss})

    def evaluator(self, split: str) -> SceneMetrics:
        return SceneMetrics(self.classes, ignore=self.ignore)

    def scores(self, images: Tensor) -> Tensor:
        size = tuple(images.shape[-2:])
        return widen_rows(self.net(self.normalise(images)), size, 0, size[0]).softmax(1)

    def label_map(self, image: Tensor, rows: int) -> Tensor:
        size = tuple(image.shape[-2:])
        logits = self.net(self.normalise(image[None]))
        return bands(lambda start, stop: widen_rows(logits, size, start, stop)[0], size[0], rows)

    def saved_recipe(self) -> dict:
        """What is saved holds the encoder, so nothing need be fetched for it."""
        model = self.recipe["model"]
        return self.recipe | {"model": model | {"net": model["net"] | {"encoder_weights": None}}}
