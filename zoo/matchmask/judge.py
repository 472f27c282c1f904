"""Who says what is to be seen in a painted picture: a segmenter of the user's, the tiny oracle for drawn objects, or nobody."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.samples import ignore_of

DRAWN = "demo"                           # how the names of drawn sets begin
NEVER = -1e4                             # the logit of what cannot be there


@dataclass
class Judge:
    """weights: of a segmenter that knows the set's classes; null: the tiny oracle where the set is drawn objects, else nobody.
    maps: label maps of each split that are judged at the end of a run.

    It is asked, never learnt from: no checkpoint is chosen by it.
    """

    weights: str | None = None
    maps: int = 40

    def __post_init__(self):
        if self.maps < 1:
            raise UserError(f"{self.maps} label maps", "model.judge.maps", "give 1 or more")
        self.classes: list[str] = []
        self.drawn = False
        self.said = ""                                       # of itself, once it was asked
        self._look: Callable[[Tensor], Tensor] | None = None

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self.classes) and (self.weights is not None or self.drawn and oracle_file() is not None)

    def absence(self) -> str:
        """Why there is none, and how there would be one."""
        if self.drawn:
            return "the tiny oracle has no weights here (python -m zoo.tiny.oracle train makes them)"
        return "model.judge.weights=<segmenter> names somebody"

    def appoint(self, data) -> None:
        """For this set; nothing is loaded before the first picture."""
        from zoo.tiny.oracle import OBJECT_LABELS

        self.classes, self._look = list(data.classes), None
        first = self.classes[0] == OBJECT_LABELS[0]
        self.drawn = data.name.startswith(DRAWN) and first and set(self.classes) <= set(OBJECT_LABELS)

    def see(self, pictures: Tensor) -> Tensor:
        """uint8 B 3 H W -> labels B H W of the set's classes."""
        if self._look is None:
            self._look = self._oracle() if self.weights is None else self._segmenter(pictures.device)
        return self._look(pictures)

    def _oracle(self) -> Callable[[Tensor], Tensor]:
        """It knows all drawn objects, and here decides among those of the set."""
        from zoo.tiny.oracle import OBJECT_LABELS, Oracle

        oracle = Oracle.load(oracle_file())
        self.said = f"{oracle}; here it decides among the set's {len(self.classes) - 1} kinds alone"
        with torch.no_grad():                                # four numbers a class: of the four pixels of a cell
            bias = oracle.net.to_labels.bias.view(len(OBJECT_LABELS), 4)
            bias[[name not in self.classes for name in OBJECT_LABELS]] = NEVER
        table = torch.zeros(len(OBJECT_LABELS), dtype=torch.uint8 if ignore_of(len(self.classes)) == 255 else torch.int32)
        table[[OBJECT_LABELS.index(name) for name in self.classes]] = torch.arange(len(self.classes)).to(table)
        return lambda pictures: table[oracle.segment(pictures.cpu()).long()]

    def _segmenter(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        segmenter = known_segmenter(self.weights, self.classes, device, "model.judge.weights")
        self.said = f"the judge is {type(segmenter).__name__}, {self.weights}"
        return lambda pictures: torch.stack([segmenter.inference.labels(segmenter, picture) for picture in pictures.to(device)])


def oracle_file() -> Path | None:
    """The oracle's weights, shipped or trained here before; None where it would have to be trained first."""
    from zoo.tiny.oracle import FILE, RECIPE, cache, fingerprint

    found = (FILE, cache() / f"tiny_oracle_{fingerprint(RECIPE)}" / FILE.name)
    return next((file for file in found if file.exists()), None)


def known_segmenter(weights: str, classes: list[str], device, key: str):
    """A segmenter that knows these very classes, on the device and in evaluation mode."""
    from zoo import hub
    from zoo.base import Segmenter

    segmenter = hub.load(weights)
    if not isinstance(segmenter, Segmenter) or segmenter.samples != "scenes":
        what = f"{type(segmenter).__name__} does not label pictures by itself"
        raise UserError(what, f"{key}={weights}", "give a segmenter's run")
    if segmenter.classes != classes:
        what = f"it knows {len(segmenter.classes)} classes ({', '.join(segmenter.classes[:3])}, ...), the set {len(classes)}"
        raise UserError(f"{what} ({', '.join(classes[:3])}, ...)", f"{key}={weights}", "give one trained for this set")
    return segmenter.to(device).eval()


class Unjudged(nn.Module):
    """Stands where a metric would."""

    def compute(self) -> dict[str, float]:
        return {}
