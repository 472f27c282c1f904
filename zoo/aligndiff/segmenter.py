"""The few-shot model that Algorithm 1 asks (config group `fss`): any segmenter of the zoo that offers `condition` and
`predict(picture, memory=...)`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import UserError
from zoo.aligndiff.align import Rules

OBJECT = 1                               # its label in the answer to pairs of one class


@dataclass
class FewShotSettings:
    """weights: a run, export or file of the few-shot model; without them it is built of `model`, for what needs no training; with
    them `model` changes their settings, if it names no class of its own. Neither: masks stay coarse. rules: see align.py."""

    weights: str | None = None
    model: dict[str, Any] | None = None
    rules: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        try:
            self.algorithm = Rules(**self.rules)
        except TypeError as error:
            raise UserError(str(error).rpartition("__init__() ")[2], "fss.rules", "see zoo/aligndiff/align.py") from error
        if self.model is not None and not self.weights and "_target_" not in self.model:
            raise UserError("no few-shot model", "fss.weights", "give fss.weights=<its run>, or fss=ssp, which needs none")

    def __bool__(self) -> bool:
        return bool(self.weights or self.model)

    def open(self, device: torch.device) -> Matcher:
        from zoo import hub

        if self.weights:
            built_anew = "_target_" in (self.model or {})
            model = hub.load(self.weights, None if built_anew else self.model)
        else:
            model = hub.build(self.model, ["object"])
        where = f"fss.weights={self.weights}" if self.weights else "fss.model"
        if not callable(getattr(model, "condition", None)) or "memory" not in inspect.signature(model.predict).parameters:
            what = f"{type(model).__name__} does not learn from a few pairs"
            raise UserError(what, where, "give a few-shot model: diffews or ssp")
        return Matcher(model.to(device).eval())

    def about(self) -> dict:
        """What the masks depend on, plain."""
        from zoo import hub

        weights = hub.sha256(self.weights) if self.weights else None
        return {"weights": weights, "model": self.model, "rules": vars(self.algorithm)}


class Matcher:
    """`align.FewShot` over a segmenter. Pictures are uint8 3 H W."""

    def __init__(self, segmenter):
        self.segmenter = segmenter
        self.name = type(segmenter).__name__
        self.thresholds = "threshold" in inspect.signature(segmenter.predict).parameters

    def condition(self, pairs):
        """Pairs that it cannot use (nothing of the object left at its size, say) are passed over, if others remain."""
        given = [[picture, mask.to(torch.uint8)] for picture, mask in pairs]
        try:
            return self.segmenter.condition(given)
        except UserError:
            usable = [pair for pair in given if self._takes(pair)]
            if not usable:
                raise
            return self.segmenter.condition(usable)

    def _takes(self, pair) -> bool:
        try:
            self.segmenter.condition([pair])
        except UserError:
            return False
        return True

    def segment(self, pictures, memory, threshold: float | None) -> list[Tensor]:
        more = {} if threshold is None or not self.thresholds else {"threshold": threshold}
        return [torch.from_numpy(self.segmenter.predict(picture, memory=memory, **more).labels == OBJECT) for picture in pictures]
