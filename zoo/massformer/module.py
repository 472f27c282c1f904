"""MaSSFormer in training: targets, losses, and how a picture becomes a label map."""

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError
from zoo.base import Segmenter
from zoo.inference import Inference, to_labels
from zoo.massformer.fast import plain_bands, score_bands
from zoo.massformer.graph import PictureToScores
from zoo.massformer.loss import Criterion, Target
from zoo.massformer.net import MaSSFormerNet
from zoo.metrics import SceneMetrics
from zoo.optim import Optimisation
from zoo.visualize import heat

ROWS = 256                  # of scores at full size that are made at a time


class MaSSFormer(Segmenter):
    """net: makes the net given the number of classes; the rest as in `Segmenter`."""

    def __init__(
        self,
        net: Callable[[int], MaSSFormerNet],
        classes: list[str],
        palette: list[tuple[int, int, int]] | None = None,
        ignore: int = 255,
        optimisation: Optimisation | None = None,
        inference: Inference | None = None,
        criterion: Criterion | None = None,
    ):
        built = net(classes=len(classes))
        mean, std = built.encoder.mean, built.encoder.std
        super().__init__(classes, palette, ignore, mean, std, optimisation, inference=inference)
        self.net, self.criterion = built, criterion or Criterion()
        self.bands = score_bands

    def on_train_start(self) -> None:
        synced = any(isinstance(m, torch.nn.SyncBatchNorm) for m in self.modules())
        if self.trainer.datamodule.batch_size == 1 and not (synced and self.trainer.world_size > 1):
            raise UserError(
                "one picture per process: MaSSFormer has batch norms over 1x1 maps, which need two or more values",
                "data.batch_size=1",
                "use data.batch_size=2 (with trainer.accumulate_grad_batches for memory), "
                "or several processes with trainer.sync_batchnorm=true",
            )

    def training_step(self, batch: dict, index: int) -> Tensor:
        labels = batch["labels"].long()
        targets = [Target.of(one, self.ignore) for one in labels]
        prediction = self.net(self.normalise(batch["image"]), auxiliary=True)
        with torch.autocast(labels.device.type, enabled=False):
            losses = self.criterion(prediction, targets, labels, self.ignore, self._num_masks(targets))
        return self.log_losses(losses)

    def _num_masks(self, targets: list[Target]) -> float:
        """Masks of the batch, a mean over processes, at least 1."""
        count = torch.tensor(float(sum(len(t.classes) for t in targets)), device=self.device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(count)
            count /= dist.get_world_size()
        return max(count.item(), 1.0)

    def evaluator(self, split: str) -> SceneMetrics:
        return SceneMetrics(self.classes, ignore=self.ignore)

    def compile(self) -> None:
        """torch.compile of the net, in place. Prediction then takes the plain path, which is what is compiled."""
        self.net.compile()
        self.bands = plain_bands

    def scores(self, images: Tensor) -> Tensor:
        images = self.normalise(images)
        return torch.stack([torch.cat(list(self.bands(self.net, image[None], ROWS)), 1) for image in images])

    def label_map(self, image: Tensor, rows: int) -> Tensor:
        return torch.cat([to_labels(scores) for scores in self.bands(self.net, self.normalise(image[None]), rows)])

    def exportable(self) -> PictureToScores:
        return PictureToScores(self.net, self.mean, self.std)

    def saved_recipe(self) -> dict:
        """What is saved holds the encoder, so nothing need be fetched for it."""
        model = self.recipe["model"]
        return self.recipe | {"model": model | {"net": model["net"] | {"encoder_weights": None}}}

    @torch.inference_mode()
    def panel(self, sample: dict) -> dict[str, np.ndarray]:
        out = self.net(self.normalise(sample["image"][None].to(self.device)), auxiliary=True)
        edge = F.interpolate(out.edge.float(), out.padded, mode="bilinear")[0, 0, : out.size[0], : out.size[1]].sigmoid()
        return super().panel(sample) | {"edge": heat(edge.cpu().numpy())}
