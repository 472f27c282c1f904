"""Algorithm 1: coarse masks of painted pictures, made fine by a few-shot segmenter that knows a few real pairs.

    found = align(segmenter, real, pictures, coarse, Rules(alpha=0.8))
    found.masks, found.accepted

It is conditioned on the real pairs and labels every painted picture; where it agrees with the coarse mask the picture joins the
real ones. Conditioned on all of these, it labels the rest again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.errors import UserError

PREDICTION, COARSE = KEEPS = ("prediction", "coarse")
MOST = 0.95                              # share of the picture above which a re-estimated mask says nothing


class FewShot(Protocol):
    """What Algorithm 1 asks of a segmenter; a picture is whatever it can read, a mask bool H W."""

    def condition(self, pairs: Sequence[tuple[Any, Tensor]]) -> Any:
        """A memory of pictures with their masks."""

    def segment(self, pictures: Sequence[Any], memory: Any, threshold: float | None) -> list[Tensor]:
        """bool H W of each. threshold: on the foreground's probability; None: the segmenter's own."""


@dataclass
class Rules:
    """alpha: IoU from which a coarse mask is good. keep: whose mask an accepted picture keeps (the paper's: coarse; the released
    code's, and better: prediction). score, final: f's thresholds at the two rounds (null: its own). most: at most so many
    accepted pictures join the real ones, those of the largest IoU (null: all). recheck: pictures whose re-estimated mask is empty
    or nearly everything are dropped."""

    alpha: float = 0.8
    keep: str = PREDICTION
    score: float | None = 0.4
    final: float | None = 0.5
    most: int | None = None
    recheck: bool = False

    def __post_init__(self):
        if not is_share(self.alpha):
            raise UserError(f"{self.alpha} is no IoU", "fss.rules.alpha", "give 0 to 1; released: 0.8")
        for key, value in (("score", self.score), ("final", self.final)):
            if value is not None and not is_share(value):
                raise UserError(f"{value} is no probability", f"fss.rules.{key}", "give 0 to 1, or null: the model's own")
        if self.keep not in KEEPS:
            raise UserError(f"keep={self.keep!r}", "fss.rules.keep", f"give {' or '.join(KEEPS)}")
        if self.most is not None and (not isinstance(self.most, int) or self.most < 1):
            raise UserError(f"{self.most} pictures", "fss.rules.most", "give 1 or more, or null")


def is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


@dataclass
class Aligned:
    """By painted picture: first: the first round's prediction; iou: its IoU with the coarse mask (NaN: both are empty);
    accepted; masks: the final ones; dropped: by `recheck`."""

    first: list[Tensor]
    iou: list[float]
    accepted: list[bool]
    masks: list[Tensor]
    dropped: list[bool]
    memory: Any


def align(f: FewShot, real: Sequence[tuple[Any, Tensor]], pictures: Sequence[Any], coarse: Sequence[Tensor],
          rules: Rules) -> Aligned:
    """real: pairs; pictures, coarse: the painted ones with bool H W. Without any accepted, the real pairs stand alone."""
    memory = f.condition(real)
    first = f.segment(pictures, memory, rules.score)
    scores = [iou(prediction, mask) for prediction, mask in zip(first, coarse)]
    masks = [prediction if rules.keep == PREDICTION else mask for prediction, mask in zip(first, coarse)]
    accepted = [score >= rules.alpha and bool(mask.any()) for score, mask in zip(scores, masks)]      # never where it is NaN
    good = [number for number, right in enumerate(accepted) if right]
    good = sorted(sorted(good, key=lambda number: -scores[number])[: rules.most])
    if good:
        memory = f.condition([*real, *((pictures[number], masks[number]) for number in good)])
    rest = [number for number, right in enumerate(accepted) if not right]
    for number, mask in zip(rest, f.segment([pictures[number] for number in rest], memory, rules.final)):
        masks[number] = mask
    dropped = [rules.recheck and not right and not 0 < mask.float().mean() <= MOST for mask, right in zip(masks, accepted)]
    return Aligned(first, scores, accepted, masks, dropped, memory)


def iou(one: Tensor, other: Tensor) -> float:
    """Of two masks bool H W; NaN where both are empty."""
    other = other.to(one.device)
    either = (one | other).sum()
    return float((one & other).sum() / either) if either else torch.nan
