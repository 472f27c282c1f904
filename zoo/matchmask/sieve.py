"""A filter (filter.py) with the segmenter it asks, on painted pairs; and figures of what it does."""

from dataclasses import replace

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.samples import Made
from datamodules.settings import make
from zoo.base import Pair
from zoo.matchmask.filter import ClassLoss, Filter, NoFilter, Readings, Relative, class_means, precision_recall, read
from zoo.matchmask.judge import known_segmenter

PIXELS, DROPPED, RIGHTLY, WRONG, UNSURE = "pixels", "dropped", "dropped_rightly", "misaligned", "unsure_rightly"
RIVAL = "as many pixels, the least confident"


def open_sieve(settings: dict, model, scenes, k: int) -> "Sieve | None":
    """settings: of the group `filter`; scenes: real labelled ones; k: pictures of a label map. None: nothing is filtered."""
    from zoo import hub

    settings = dict(settings)
    weights = settings.pop("weights")
    rule = make(settings)
    if isinstance(rule, NoFilter):
        if weights:
            raise UserError("without a filter nobody is asked", f"filter.weights={weights}", "give filter=relative, say")
        return None
    name = type(rule).__name__
    if not weights:
        raise UserError("a filter asks a segmenter what it sees", f"filter ({name})", "give filter.weights=<segmenter>")
    if isinstance(rule, Relative) and (remark := rule.remark(k)):
        print(remark, flush=True)
    segmenter = known_segmenter(weights, model.classes, model.device, "filter.weights")
    if isinstance(rule, ClassLoss):
        real = (scenes.read(index) for index in range(len(scenes)))
        rule = replace(rule, means=class_means(segmenter, real, len(model.classes), model.ignore))
    return Sieve(rule, segmenter, model, settings | {"weights": hub.sha256(weights)})


class Sieve:
    """about: its settings, with the segmenter's sha256."""

    def __init__(self, rule: Filter, segmenter, model, about: dict):
        self.rule, self.segmenter, self.model, self.about = rule, segmenter, model, about

    def __call__(self, pairs: list[Pair]) -> list[Pair]:
        """The K pairs of one label map with what is left of their labels, and counts of pixels for their rows."""
        ignore, labels = self.model.ignore, pairs[0].labels.to(self.segmenter.device)
        pictures = torch.stack([pair.picture for pair in pairs])
        readings = read(self.segmenter, pictures, labels, ignore)
        kept = self.rule(labels, readings, ignore)
        counts = self._counts(pictures, labels, kept, readings)
        return [replace(pair, labels=part.cpu(), figures=figures) for pair, part, figures in zip(pairs, kept, counts)]

    def _counts(self, pictures: Tensor, labels: Tensor, kept: Tensor, readings: Readings) -> list[dict[str, float]]:
        ignore = self.model.ignore
        given = (labels != ignore).sum().item()
        counts = [{PIXELS: float(given), DROPPED: float(given - (part != ignore).sum().item())} for part in kept]
        if self.model.judged:
            seen = self.model.seen(pictures).to(labels)
            rival = least_confident(labels, kept, readings.confidence, ignore)
            for figures, part, other, found in zip(counts, kept, rival, seen):
                figures[RIGHTLY], _, figures[WRONG] = map(float, precision_recall(labels, part[None], found[None], ignore))
                figures[UNSURE] = float(precision_recall(labels, other[None], found[None], ignore)[0])
        return counts

    @staticmethod
    def summary(rows: list[Made]) -> dict[str, dict[str, float]]:
        """Fractions of all pixels: kept; misaligned, where the judge sees something else than the label map says; of the dropped
        ones those misaligned (precision), and of those misaligned the dropped ones (recall). Beside it what dropping as many
        pixels of each label map's pictures by the segmenter's confidence would have done."""
        counted = [row["filter"] for row in rows if PIXELS in row["filter"]]
        total = {key: sum(figures.get(key, 0.0) for figures in counted) for key in (PIXELS, DROPPED, RIGHTLY, WRONG, UNSURE)}
        of = lambda part, whole: total[part] / total[whole] if total[whole] else float("nan")
        found = {"kept": 1 - of(DROPPED, PIXELS)}
        if not all(WRONG in figures for figures in counted):
            return {"filter": found}
        found |= {"misaligned": of(WRONG, PIXELS), "precision": of(RIGHTLY, DROPPED), "recall": of(RIGHTLY, WRONG)}
        return {"filter": found, RIVAL: {"kept": found["kept"], "precision": of(UNSURE, DROPPED), "recall": of(UNSURE, WRONG)}}


def least_confident(labels: Tensor, kept: Tensor, confidence: Tensor, ignore: int) -> Tensor:
    """K H W: as many labels dropped as in `kept`, where the confidence K H W is lowest."""
    given = (labels != ignore).expand_as(kept)
    count = int((given & (kept == ignore)).sum())
    order = confidence.masked_fill(~given, torch.inf).flatten().argsort()
    dropped = torch.zeros_like(given).flatten()
    dropped[order[:count]] = True
    return labels.expand_as(kept).masked_fill(dropped.view_as(kept), ignore)
