"""Mask2Former in training, with transformers' criterion, and how a picture becomes a label map."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.base import Segmenter
from zoo.inference import Inference, bands, resize_rows
from zoo.mask2former.net import Mask2FormerNet, Prediction
from zoo.metrics import SceneMetrics
from zoo.optim import Optimisation


class Mask2Former(Segmenter):
    """net: makes the net given the number of classes; the rest as in `Segmenter`."""

    def __init__(
        self,
        net: Callable[[int], Mask2FormerNet],
        classes: list[str],
        palette: list[tuple[int, int, int]] | None = None,
        ignore: int = 255,
        optimisation: Optimisation | None = None,
        inference: Inference | None = None,
    ):
        built = net(classes=len(classes))
        super().__init__(classes, palette, ignore, built.mean, built.std, optimisation, inference=inference)
        self.net = built

    def training_step(self, batch: dict, index: int) -> Tensor:
        out = self.net(self.normalise(batch["image"]), auxiliary=True)
        targets = [as_masks(labels, self.ignore, out.padded) for labels in batch["labels"].long()]
        with torch.autocast(self.device.type, enabled=False):
            losses = self.net.whole.get_loss_dict(
                masks_queries_logits=out.masks.float(),
                class_queries_logits=out.logits.float(),
                mask_labels=[masks for _, masks in targets],
                class_labels=[classes for classes, _ in targets],
                auxiliary_predictions=[{name: x.float() for name, x in layer.items()} for layer in out.auxiliary],
            )
        return self.log_losses(losses)

    def evaluator(self, split: str) -> SceneMetrics:
        return SceneMetrics(self.classes, ignore=self.ignore)

    def scores(self, images: Tensor) -> Tensor:
        out = self.net(self.normalise(images))
        return semantic_rows(out, 0, out.size[0])

    def label_map(self, image: Tensor, rows: int) -> Tensor:
        out = self.net(self.normalise(image[None]))
        return bands(lambda start, stop: semantic_rows(out, start, stop)[0], out.size[0], rows)

    def saved_recipe(self) -> dict:
        """What is saved holds the whole net, so nothing need be fetched for it."""
        model = self.recipe["model"]
        return self.recipe | {"model": model | {"net": model["net"] | {"encoder_weights": None, "weights": None}}}


def as_masks(labels: Tensor, ignore: int, padded: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Classes of a label map (N, ascending) and their masks, N Hp Wp in {0, 1}; N is 0 where all is ignored. labels: H W."""
    classes = labels.unique()
    classes = classes[classes != ignore]
    masks = (labels == classes[:, None, None]).float()
    return classes, F.pad(masks, (0, padded[1] - labels.shape[1], 0, padded[0] - labels.shape[0]))


def semantic_rows(out: Prediction, start: int, stop: int) -> Tensor:
    """Scores (sum over queries of class x mask) of rows start..stop of the picture, B K stop-start W."""
    masks = resize_rows(out.masks, out.padded, start, stop)[..., : out.size[1]].sigmoid()          # B Q rows W
    return torch.einsum("bqk,bqhw->bkhw", out.logits.float().softmax(-1)[..., :-1], masks)
