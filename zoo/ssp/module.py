"""Self-support prototypes in training and in use: episodes to prototypes and logits, and how examples label a picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError
from datamodules.samples import default_palette
from zoo.base import Segmentation, Segmenter, as_image
from zoo.diffusion.base import digest
from zoo.inference import Inference
from zoo.metrics import EpisodeIoU
from zoo.nn.prototypes import prototypes
from zoo.optim import Optimisation
from zoo.ssp.examples import Support, load_kinds, read_support, save_kinds
from zoo.ssp.net import SSPNet, mixed
from zoo.visualize import overlay, to_picture

BACKGROUND = "background"
IGNORE = 255
ROOM = 128                               # pixels, for a caption


class SSP(Segmenter):
    """Labels a picture by examples, with two prototypes a class. net: makes the net. threshold: of the object's probability.

    Pictures are seen at their own size, rounded to what the encoder needs; in training and evaluation at data.size.
    """

    samples = "episodes"

    def __init__(
        self,
        net: Callable[..., SSPNet],
        classes: list[str],
        palette: list[tuple[int, int, int]] | None = None,
        ignore: int = 255,
        optimisation: Optimisation | None = None,
        inference: Inference | None = None,
        threshold: float = 0.5,
    ):
        if not 0 < threshold < 1:
            raise UserError(f"{threshold} is no probability of an object", "model.threshold", "give a number between 0 and 1")
        built = net()
        super().__init__(classes, palette, ignore, built.mean, built.std, optimisation, inference=inference)
        self.net, self.threshold = built, threshold
        self.sha256 = getattr(built.encoder, "sha256", {})
        self.frozen = ("net.encoder.vae",) if self.sha256 else ()
        self.freeze()

    def bases(self) -> dict[str, str]:
        return self.sha256

    def take_classes(self, classes: list[str], palette: list[tuple[int, int, int]] | None, where: str) -> None:
        """Any will do: what is meant is shown, not learnt."""
        self.classes, self.palette = list(classes), list(palette or default_palette(len(classes)))

    # -- episodes --
    def logits(self, queries: Tensor, supports: Tensor, masks: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Two rounds' logits B 2 h w. queries: uint8 B 3 H W; supports: B S 3 H W; masks: B S H W in {0, 1}; weights: B S."""
        shots = supports.shape[1]
        features = self.net.features(self.normalise(torch.cat([queries, supports.flatten(0, 1)])))
        shown = features[len(queries):].unflatten(0, (-1, shots))                         # B S C h w
        kinds = [self.kinds_of(*part) for part in zip(shown, masks, weights if weights is not None else [None] * len(shown))]
        return self.net(features[: len(queries)], torch.stack(kinds))

    @staticmethod
    def kinds_of(features: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
        """2 C, background and object, of S supports' features S C h w."""
        thing, ground = prototypes(features, masks, weights)
        return torch.stack([ground, thing])

    def training_step(self, batch: dict, index: int) -> Tensor:
        first, second = self.logits(batch["query"], batch["supports"], batch["support_masks"])
        truth = batch["query_mask"].long()
        size = tuple(truth.shape[-2:])
        given = (truth != IGNORE).sum().clamp(min=1)
        losses = {}
        for name, logits in (("loss_first", first), ("loss_second", second)):
            grown = F.interpolate(logits.float(), size, mode="bilinear", align_corners=True)
            losses[name] = F.cross_entropy(grown, truth, ignore_index=IGNORE, reduction="sum") / given
        return self.log_losses(losses)

    def evaluator(self, split: str) -> EpisodeIoU:
        """Means are over the classes that the trainer's data judge on this split."""
        data = None if self._trainer is None else self.trainer.datamodule
        return EpisodeIoU(self.classes, None if data is None else data.class_ids(split))

    def _judge(self, split: str, batch: dict) -> None:
        logits = self.logits(batch["query"], batch["supports"], batch["support_masks"], batch.get("support_weights"))
        found = self.marked(*logits, tuple(batch["query_mask"].shape[-2:]), self.threshold)
        for mask, truth, class_id in zip(found, batch["query_mask"], batch["class_id"]):
            self.metrics[split].update(mask, truth, int(class_id))

    @staticmethod
    def marked(first: Tensor, second: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
        """bool B H W."""
        return mixed(first.float(), second.float(), size).softmax(1)[:, 1] > threshold

    @torch.inference_mode()
    def panel(self, sample: dict) -> dict[str, np.ndarray]:
        one = {key: sample[key][None].to(self.device) for key in ("query", "supports", "support_masks")}
        mask = self.marked(*self.logits(*one.values()), tuple(sample["query_mask"].shape), self.threshold)[0]
        query, truth, support = sample["query"], sample["query_mask"], (sample["supports"][0], sample["support_masks"][0])
        shown = {"query": (query, torch.ones_like(truth)), "support": support, "truth": (query, truth == 1),
                 "prediction": (query, mask)}
        return {title: cut_out(picture, part) for title, (picture, part) in shown.items()}

    # -- use --
    @torch.inference_mode()
    def condition(self, support: Support) -> dict[str, Tensor]:
        """Prototypes 2 C by class, of examples (see examples.py)."""
        self.eval()
        kinds = {}
        for word, pairs in read_support(support).items():
            each = [self.kinds_of(self.features_of(picture), mask[None], None) for picture, mask in pairs]
            shows = [torch.stack([kind[side] for kind in each if kind[side].any()] or [each[0][side]]) for side in (0, 1)]
            kinds[word] = torch.stack([side.mean(0) for side in shows])
        return kinds

    def features_of(self, picture: Tensor) -> Tensor:
        """1 C h w of a picture uint8 3 H W, brought to sides that the encoder can halve."""
        sides = [max(1, round(side / self.net.stride)) * self.net.stride for side in picture.shape[-2:]]
        seen = self.normalise(picture[None].to(self.device))
        if tuple(sides) != tuple(picture.shape[-2:]):
            seen = F.interpolate(seen, sides, mode="bilinear", align_corners=False, antialias=True)
        return self.net.features(seen)

    def prepare(self, support: Support | None = None, memory: "str | Path | dict | None" = None) -> dict:
        """support: see examples.py; memory: what `condition` gave, or a file, which is read, or written if there is a support."""
        if isinstance(memory, dict):
            return {"memory": memory}
        if support is None and memory is None:
            raise UserError("SSP is asked by example", "support", "give support=[[picture, mask], ...] or memory=<file>")
        if support is None:
            return {"memory": {word: kind.to(self.device) for word, kind in load_kinds(memory, digest(self.net)).items()}}
        kinds = self.condition(support)
        if memory is not None:
            save_kinds(memory, kinds, digest(self.net))
        return {"memory": kinds}

    @torch.inference_mode()
    def predict(self, picture: "str | Path | np.ndarray | Tensor", support: Support | None = None,
                memory: "str | Path | dict | None" = None, threshold: float | None = None) -> Segmentation:
        """Labels of what the examples show, at the picture's own size: 0 is background, classes count from 1 in their order;
        where several are found, the likeliest counts. threshold: of the probability, in place of the model's."""
        kinds = self.prepare(support, memory)["memory"]
        self.eval()
        image = as_image(picture)
        size, features = tuple(image.shape[-2:]), self.features_of(image)
        probability = torch.cat([mixed(*self.net(features, kind[None]), size).softmax(1)[:, 1] for kind in kinds.values()])
        best, labels = probability.max(0)
        labels = (labels + 1).masked_fill(best <= (self.threshold if threshold is None else threshold), 0).to(torch.uint8)
        classes = [BACKGROUND, *kinds]
        palette = default_palette(len(classes))
        return Segmentation(labels.cpu().numpy(), image.permute(1, 2, 0).numpy(), classes, palette, self.ignore)


def cut_out(picture: Tensor, mask: Tensor) -> np.ndarray:
    """H W 3, dark but for what a mask H W marks, with each pixel of a small picture as a square."""
    shown = overlay(to_picture(picture), np.where(mask.cpu().numpy() > 0, 255, 0), [(0, 0, 0)], 0.75)
    times = max(1, ROOM // shown.shape[1])
    return shown.repeat(times, 0).repeat(times, 1)
