"""Who says where a class is in a painted picture: the tiny oracle, for the drawn things; of photographs nobody does."""

import torch
from torch import Tensor

DRAWN = "demo"                           # how the names of drawn sets begin


class Oracle:
    """words: the classes in question; data: name of the set."""

    def __init__(self, words: list[str], data: str):
        from zoo.tiny.oracle import OBJECT_WORDS

        self.known = data.startswith(DRAWN) and set(words) <= set(OBJECT_WORDS)
        self._numbers = {word: number for number, word in enumerate(OBJECT_WORDS, 1)}
        self._oracle = None

    def __bool__(self) -> bool:
        return self.known

    def masks(self, pictures: Tensor, word: str) -> Tensor:
        """bool B H W of uint8 B 3 H W."""
        if self._oracle is None:
            from zoo.tiny.oracle import Oracle as Trained

            self._oracle = Trained.load()
        return self._oracle.segment(pictures) == self._numbers[word]

    def __str__(self) -> str:
        return str(self._oracle or "the oracle was not asked")


def agreement(mask: Tensor, seen: Tensor) -> float:
    """IoU of a mask with what is seen, bool H W; 0 where both are empty."""
    either = (mask | seen).sum()
    return float((mask & seen).sum() / either) if either else 0.0


def found(seen: Tensor, least: float = 0.005) -> bool:
    """Whether the class is in the picture at all: on so large a share of it."""
    return bool(seen.float().mean() >= least)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else torch.nan
