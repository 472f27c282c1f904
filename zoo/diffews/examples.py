"""The examples a model is shown: pictures with masks, by class, and the memories that they become, kept in a file.

    support = [[picture, mask], ...]                         # of one object, or {"cat": [[picture, mask], ...], "dog": ...}

A picture is a file's path, uint8 H W 3 (array) or 3 H W (tensor); a mask a path, an array or a tensor H W of the same size, of
two values, of which 0 is what is not meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError
from datamodules.files import read_labels
from zoo.base import as_image
from zoo.diffews.masks import binary, check_support
from zoo.diffews.memory import load_memory, save_memory
from zoo.diffusion.attention import Memory

OBJECT, BACKGROUND = "object", "background"
FORM = "give [[picture, mask], ...], or {word: [[picture, mask], ...], ...} for several classes"
Pair = tuple[str | Path | np.ndarray | Tensor, str | Path | np.ndarray | Tensor]
Support = list[Pair] | dict[str, list[Pair]]


@dataclass
class Examples:
    """Memories by class, each one a step of the process; the order of the words is that of the labels from 1."""

    memories: dict[str, list[Memory]]


def read_support(support: Support, size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Pictures uint8 S 3 size size and masks uint8 S size size in {0, 1}, by class."""
    classes = support if isinstance(support, dict) else {OBJECT: support}
    if not classes:
        raise UserError("no classes", "support", FORM)
    if BACKGROUND in classes:
        raise UserError(f"{BACKGROUND!r} is what no class is", "support", "leave it out")
    return {word: _shots(word, pairs, size) for word, pairs in classes.items()}


def _shots(word: str, pairs: list[Pair], size: int) -> tuple[Tensor, Tensor]:
    where = "support" if word == OBJECT else f"support of {word}"
    if not isinstance(pairs, (list, tuple)) or any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in pairs):
        raise UserError("no list of pairs", where, FORM)
    if not pairs:
        raise UserError("0 shots", where, "give at least one picture with its mask")
    squared = [_pair(*pair, where if len(pairs) == 1 else f"{where}, shot {number}", size)
               for number, pair in enumerate(pairs, 1)]
    return tuple(torch.stack(part) for part in zip(*squared))


def _pair(picture, mask, where: str, size: int) -> tuple[Tensor, Tensor]:
    where = mask if isinstance(mask, (str, Path)) else where
    image, marked = as_image(picture), binary(_read_mask(mask), where).to(torch.uint8)
    check_support(image[None], marked[None], where)
    shrunk = squeeze_mask(marked, size)
    if not shrunk.any():
        raise UserError(f"nothing of the object is left at {size}x{size} pixels", where, "cut the picture around the object")
    return squeeze(image, size), shrunk


def _read_mask(mask: str | Path | np.ndarray | Tensor) -> Tensor:
    """H W of any numbers."""
    if isinstance(mask, (str, Path)):
        try:
            return read_labels(mask)
        except UserError as error:
            if not error.what.startswith("labels are colours"):
                raise
            raise UserError("a coloured mask", mask, "save it as a grey picture: 0 is background, 255 the object") from error
    found = torch.as_tensor(mask)
    if found.ndim != 2:
        raise UserError(f"a mask of shape {tuple(found.shape)}", "support", "give H W")
    return found


def squeeze(picture: Tensor, size: int) -> Tensor:
    """uint8 3 H W -> uint8 3 size size, its sides' ratio lost, as the data's pictures are (section 5): bilinear, antialiased."""
    if tuple(picture.shape[-2:]) == (size, size):
        return picture
    return F.interpolate(picture[None], (size, size), mode="bilinear", antialias=True)[0]


def squeeze_mask(mask: Tensor, size: int) -> Tensor:
    """uint8 H W -> uint8 size size, by nearest."""
    return F.interpolate(mask[None, None], (size, size), mode="nearest")[0, 0]


# -- in a file ---------------------------------------------------------------------------------------------------------
def save_examples(path: str | Path, examples: Examples, weights: str) -> None:
    """weights: sha256 of those that wrote the memories."""
    steps = [memory for memories in examples.memories.values() for memory in memories]
    save_memory(path, steps, {"words": list(examples.memories), "weights": weights})


def load_examples(path: str | Path, weights: str) -> Examples:
    """Those that were saved with the same weights, on the CPU."""
    steps, about = load_memory(path)
    if about.get("weights") != weights:
        raise UserError("a memory made with other weights", path, "make it anew: support=[[picture, mask], ...] memory=<file>")
    words = about["words"]
    each = len(steps) // len(words)
    return Examples({word: steps[each * i : each * (i + 1)] for i, word in enumerate(words)})
