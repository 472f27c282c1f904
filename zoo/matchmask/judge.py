"""Who says what is to be seen in a painted picture: a segmenter of the user's, the tiny oracle for drawn objects, or nobody."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.samples import ignore_of

DRAWN = "demo"                           # how the names of drawn sets begin


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
        return bool(self.classes) and (self.weights is not None or self.drawn)

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
        """It knows all drawn objects; those that are none of the set's are background."""
        from zoo.tiny.oracle import OBJECT_LABELS, Oracle

        oracle = Oracle.load()
        self.said = str(oracle)
        kind = torch.uint8 if ignore_of(len(self.classes)) == 255 else torch.int32
        table = torch.tensor([self.classes.index(name) if name in self.classes else 0 for name in OBJECT_LABELS], dtype=kind)
        return lambda pictures: table[oracle.segment(pictures.cpu()).long()]

    def _segmenter(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        segmenter = known_segmenter(self.weights, self.classes, device, "model.judge.weights")
        self.said = f"the judge is {type(segmenter).__name__}, {self.weights}"
        return lambda pictures: torch.stack([segmenter.inference.labels(segmenter, picture) for picture in pictures.to(device)])


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
