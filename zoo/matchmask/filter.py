"""Which pixels of painted pictures may teach: what a segmenter sees in the K pictures of one label map, against that map.

    readings = read(segmenter, pictures, labels, ignore)             # K pictures 3 H W, all painted into labels H W
    kept = Relative()(labels, readings, ignore)                      # K H W: the label map's labels, others are ignored

relative     pixels on which a picture disagrees with the majority of its siblings are dropped (MatchMask, as we reconstruct it)
confidence   pixels of which the segmenter is not sure
class_loss   pixels that it finds harder than real ones of the class (FreeMask, NeurIPS 2023)
none         no pixel

Label maps are of any integer type. A value `ignore` in them or in a prediction is no answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from datamodules.errors import UserError

MAJORITY_NEEDS = 3                       # pictures


class Readings(NamedTuple):
    """What a segmenter says of K pictures: predictions K H W; confidence K H W, its highest probability; loss K H W, its
    cross-entropy against the label map (0 where that is ignored)."""

    predictions: Tensor
    confidence: Tensor
    loss: Tensor


class Votes(NamedTuple):
    """All H W. prototype: the winner, or ignore where nobody answers; votes: how many pictures say so; tie: other classes have as
    many."""

    prototype: Tensor
    votes: Tensor
    tie: Tensor


def vote(predictions: Tensor, labels: Tensor, ignore: int = 255) -> Votes:
    """The class most of the K pictures show at a pixel; among those with as many votes the label map's, else the lowest.

    predictions: K H W, labels: H W. K comparisons of K H W, so the number of classes costs neither time nor memory.
    """
    counts = torch.stack([(predictions == one).sum(0, dtype=torch.int16) for one in predictions])
    counts[predictions == ignore] = 0
    votes = counts.amax(0)
    leads = (counts == votes) & (votes > 0)                                                              # K H W
    last = torch.iinfo(predictions.dtype).max
    lowest = predictions.masked_fill(~leads, last).amin(0)
    of_map = (leads & (predictions == labels)).any(0)
    prototype = torch.where(of_map, labels.to(predictions.dtype), lowest).masked_fill(votes == 0, ignore)
    return Votes(prototype, votes, (leads & (predictions != prototype)).any(0))


# -- the filters -------------------------------------------------------------------------------------------------------
class Filter(Protocol):
    def __call__(self, labels: Tensor, readings: Readings, ignore: int = 255) -> Tensor:
        """The label map H W as each of the K pictures may teach it, K H W of its type."""


@dataclass
class NoFilter:
    """Everything is kept."""

    def __call__(self, labels: Tensor, readings: Readings, ignore: int = 255) -> Tensor:
        return labels.expand_as(readings.predictions).clone()


@dataclass
class Relative:
    """The majority filter. keep, where the label map's label stays:

    label    where a picture agrees with its siblings, whatever they agree on: a segmenter that is wrong about all of them alike
             drops nothing
    agree    where it agrees with the label map; the siblings are not asked
    """

    keep: str = "label"

    def __post_init__(self):
        if self.keep not in ("label", "agree"):
            raise UserError(f"no such rule: {self.keep!r}", "filter.keep", "give label or agree")

    def __call__(self, labels: Tensor, readings: Readings, ignore: int = 255) -> Tensor:
        predictions = readings.predictions
        wanted = labels if self.keep == "agree" else vote(predictions, labels, ignore).prototype
        return _kept(labels, (predictions == wanted) & (wanted != ignore), ignore)

    @staticmethod
    def remark(siblings: int) -> str | None:
        """What is to be said of so few pictures a label map."""
        if siblings >= MAJORITY_NEEDS:
            return None
        effect = "keeps every pixel" if siblings == 1 else "drops by the rule for ties alone"
        return f"the relative filter of {siblings} picture{'s' * (siblings > 1)} a label map {effect}: give k=3 or more"


@dataclass
class Confidence:
    """tau: the probability from which on a pixel is kept (0.9 is our choice, the paper gives none)."""

    tau: float = 0.9

    def __post_init__(self):
        if not 0 <= self.tau <= 1:
            raise UserError(f"{self.tau} is no probability", "filter.tau", "give 0 to 1")

    def __call__(self, labels: Tensor, readings: Readings, ignore: int = 255) -> Tensor:
        return _kept(labels, readings.confidence >= self.tau, ignore)


@dataclass
class ClassLoss:
    """margin: how many times the mean loss of its class on real pictures a pixel's may be. means: that mean by class, see
    `class_means`; pixels of a class that it does not know are kept."""

    margin: float = 1.25
    means: Tensor | None = None

    def __post_init__(self):
        if not self.margin > 0:
            raise UserError(f"a loss of {self.margin} times the mean", "filter.margin", "give more than 0")

    def __call__(self, labels: Tensor, readings: Readings, ignore: int = 255) -> Tensor:
        assert self.means is not None, "set means: what class_means gives"
        known = self.means.to(labels.device)
        most = self.margin * known.nan_to_num(torch.inf)[labels.long().clamp(0, len(known) - 1)]           # H W
        return _kept(labels, readings.loss <= most, ignore)


def _kept(labels: Tensor, stays: Tensor, ignore: int) -> Tensor:
    return labels.expand_as(stays).masked_fill(~stays, ignore)


# -- what a segmenter sees ---------------------------------------------------------------------------------------------
@torch.inference_mode()
def read(segmenter, pictures: Tensor, labels: Tensor, ignore: int = 255) -> Readings:
    """A Segmenter's view of K pictures uint8 K 3 H W, one at a time, so K class maps are never held at once. labels: H W.

    Its scores become probabilities by their sum; a pixel with no score at all has confidence 0.
    """
    readings = []
    for picture in pictures:
        share = _probabilities(segmenter, picture)
        confidence, prediction = share.max(0)
        readings.append((prediction, confidence, _loss(share, labels, ignore)))
    predictions, confidence, loss = map(torch.stack, zip(*readings))
    return Readings(predictions.to(labels.dtype), confidence, loss)


@torch.inference_mode()
def class_means(segmenter, scenes: Iterable[dict], classes: int, ignore: int = 255) -> Tensor:
    """Mean cross-entropy of each class's pixels on real scenes (of the data's source), [classes]; nan of a class without one."""
    total, count = torch.zeros(2, classes, dtype=torch.float64)
    for scene in scenes:
        labels = scene["labels"].to(segmenter.device)
        loss, valid = _loss(_probabilities(segmenter, scene["image"]), labels, ignore), labels != ignore
        ids = labels[valid].long().cpu()
        total.index_add_(0, ids, loss[valid].double().cpu())
        count += torch.bincount(ids, minlength=classes)
    return (total / count).float()


def _probabilities(segmenter, picture: Tensor) -> Tensor:
    """C H W."""
    scores = segmenter.scores(picture[None].to(segmenter.device))[0].float()
    return scores / scores.sum(0, keepdim=True).clamp(min=1e-12)


def _loss(share: Tensor, labels: Tensor, ignore: int) -> Tensor:
    valid = labels != ignore
    own = share.gather(0, labels.long().masked_fill(~valid, 0)[None])[0]
    return -own.clamp(min=1e-12).log() * valid


# -- how good a filter is ----------------------------------------------------------------------------------------------
def precision_recall(labels: Tensor, kept: Tensor, seen: Tensor, ignore: int = 255) -> tuple[int, int, int]:
    """Pixels that were dropped rightly, dropped, and misaligned: precision and recall are the first by the other two.

    labels: H W; kept: K H W, a filter's; seen: K H W, what an oracle sees in the pictures. Misaligned is where that is another
    label than the label map's.
    """
    given = (labels != ignore).expand_as(kept)
    dropped, wrong = given & (kept == ignore), given & (seen != labels)
    return int((dropped & wrong).sum()), int(dropped.sum()), int(wrong.sum())
