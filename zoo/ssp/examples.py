"""Examples to prototypes, and prototypes in a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.files import read_labels, write_bytes
from zoo.base import as_image

OBJECT = "object"
FORM = "give [[picture, mask], ...], or {word: [[picture, mask], ...], ...} for several classes"
MEND = "make them anew: support=[[picture, mask], ...] memory=<file>"
Example = tuple[str | Path | np.ndarray | Tensor, str | Path | np.ndarray | Tensor]
Support = list[Example] | dict[str, list[Example]]


def read_support(support: Support) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Pictures uint8 3 H W with masks uint8 H W in {0, 1}, by class."""
    classes = support if isinstance(support, dict) else {OBJECT: support}
    if not classes or not all(classes.values()):
        raise UserError("0 shots", "support", FORM)
    return {word: [_pair(pair, word) for pair in pairs] for word, pairs in classes.items()}


def _pair(pair: Example, word: str) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise UserError("no pair of a picture and a mask", f"support of {word}", FORM)
    picture, mask = as_image(pair[0]), pair[1]
    where = mask if isinstance(mask, (str, Path)) else f"support of {word}"
    values = read_labels(mask) if isinstance(mask, (str, Path)) else torch.as_tensor(mask)
    if values.shape != picture.shape[-2:]:
        raise UserError(f"a mask of shape {tuple(values.shape)} for a picture of {tuple(picture.shape[-2:])}", where,
                        "give a mask of the picture's size")
    marked = (values != 0).to(torch.uint8)
    if not marked.any():
        raise UserError("an empty mask: it shows nothing of the object", where, "give a mask with some of it")
    return picture, marked


def save_kinds(path: str | Path, kinds: dict[str, Tensor], weights: str) -> None:
    """kinds: 2 C by class. weights: sha256 of those that made them."""
    from safetensors.torch import save

    about = {"words": json.dumps(list(kinds)), "weights": weights}
    write_bytes(path, save({str(place): kind.cpu() for place, kind in enumerate(kinds.values())}, about))


def load_kinds(path: str | Path, weights: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            kinds = {word: file.get_tensor(str(place)) for place, word in enumerate(json.loads(about["words"]))}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"no saved examples ({type(error).__name__})", path, MEND) from error
    if about["weights"] != weights:
        raise UserError("made with other weights", path, MEND)
    return kinds
