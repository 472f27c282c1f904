"""Which masks of a picture train: true ones (stage 1), or true and predicted ones mixed (stage 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.errors import UserError
from zoo.mask_adapter.loss import NO_LABEL
from zoo.mask_adapter.matcher import MATCHERS, mask_iou, match, resized

SOURCES = ("rough", "generator")


@dataclass
class Mixed:
    """The masks of one picture that train, N H W, and their labels, N. The last 2 P are P predicted masks and the P true ones
    they matched."""

    masks: Tensor
    labels: Tensor
    pairs: int

    def paired(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings N D of all the masks -> those of the predicted ones and of their true ones, P D each."""
        return embeddings[len(embeddings) - 2 * self.pairs :].tensor_split(2)


@dataclass
class Mixing:
    """The training's masks and losses. Stage 1: truth=32, predicted=0. Stage 2: truth=16, predicted=8.

    truth: at most so many true masks a picture, drawn at random. predicted: at most so many pairs of a predicted mask and the
    true one it matched. source: who predicts them, the frozen generator, or `rough` copies of the true ones (proposals.py).
    matcher, least_iou: see matcher.py. threshold: of a predicted mask's probability. classification, consistency: weights of
    the two losses (sec. 3.3); matcher=released also takes the released mean over all slots of the consistency loss.
    """

    truth: int = 32
    predicted: int = 0
    source: str = "rough"
    matcher: str = "described"
    least_iou: float = 0.7
    threshold: float = 0.5
    classification: float = 2.0
    consistency: float = 5.0

    def __post_init__(self):
        for key, known in (("source", SOURCES), ("matcher", MATCHERS)):
            if getattr(self, key) not in known:
                raise UserError(f"{key}={getattr(self, key)} must be one of {', '.join(known)}", "model.mixing")
        if self.truth < 1 or self.predicted < 0:
            raise UserError(f"truth={self.truth}, predicted={self.predicted}", "model.mixing", "give 1 or more, and 0 or more")

    def mix(self, masks: Tensor, labels: Tensor, proposals: Tensor | None = None) -> Mixed:
        """masks N H W and labels N of one padded picture; proposals Q h w, probabilities at a quarter of its size.

        A picture without any mask gives one empty mask without a label, so that a batch is never empty.
        """
        size = masks.shape[-2:]
        some = torch.randperm(len(masks), device=masks.device)[: self.truth] if len(masks) > self.truth else slice(None)
        parts, names, pairs = [masks[some].float()], [labels[some]], 0
        if proposals is not None and len(masks):
            iou = mask_iou(proposals, masks)
            pair = match(iou, self.matcher, self.least_iou, self.predicted)
            said = proposals[pair[:, 0]] > self.threshold
            meant = resized(masks, proposals.shape[-2:])[pair[:, 1]]       # as coarse as the predicted ones, as released
            parts += [resized(said, size), resized(meant, size)]
            names += 2 * [labels[pair[:, 1]]]
            pairs = len(pair)
        if not len(masks):
            parts, names = [masks.new_zeros((1, *size), dtype=torch.float32)], [labels.new_full((1,), NO_LABEL)]
        return Mixed(torch.cat(parts), torch.cat(names), pairs)

    def slots(self, mixed: list[Mixed]) -> int:
        """What the sum of the consistency loss is divided by: pairs, or as released all places for pairs in the batch."""
        return self.predicted * len(mixed) if self.matcher == "released" else sum(m.pairs for m in mixed)
