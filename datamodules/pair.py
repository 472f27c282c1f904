"""A picture with the mask of one object, and the object's word: the smallest set there is.

    data.image=dog.jpg data.mask=dog.png data.word=dog          or lists of equal length: data.image=[a.jpg,b.jpg] ...

A mask is a grey picture of two values (0/255, 0/1, 0/n), the higher one being the object, of its picture's size.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.base import SceneData
from datamodules.errors import UserError, refuse
from datamodules.files import read_image, read_labels
from datamodules.samples import ExampleSet, Scene, default_palette
from datamodules.sources import SceneSource

BACKGROUND = "background"
TWO_VALUES = "save it with 0 for the background and 255 for the object"


def read_object(source: str | bytes, where: str, threshold: int | None = None, mend: str = TWO_VALUES) -> Tensor:
    """A mask file (its path or bytes) as uint8 [H, W]: 1 where the object is. Two values are admitted, the higher one being
    the object; with `threshold` any, those from it on being the object. A mask that marks nothing is refused."""
    try:
        raw = read_labels(source, where)
    except UserError as error:
        if not error.what.startswith("labels are colours"):
            raise
        raise UserError("a coloured mask", where, "save it as a grey picture: 0 is background, 255 the object") from error
    values = raw.unique().tolist()
    if threshold is None and len(values) > 2:
        listed = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
        raise UserError(f"a mask of {len(values)} values ({listed}), of one object two are expected", where, mend)
    mask = (raw >= (max(1, *values) if threshold is None else threshold)).to(torch.uint8)
    if not mask.any():
        raise UserError("an empty mask: it marks no pixel", where, "mark the object, or leave the picture out")
    return mask


def same_size(image: Tensor, mask: Tensor, where: str) -> None:
    if mask.shape != image.shape[-2:]:
        (h, w), (mask_h, mask_w) = image.shape[-2:], mask.shape
        raise UserError(f"a mask of {mask_w}x{mask_h} for a picture of {w}x{h}", where,
                        "they must be the same size (a picture is turned as its EXIF says)")


class Pairs(SceneSource):
    """Scenes of a few pictures with one object each; labels are 0 and the class number of the object's word."""

    def __init__(self, pairs: list[tuple[str, str, str]], classes: list[str], threshold: int | None):
        self.pairs, self.classes, self.threshold = pairs, classes, threshold
        self.names = [Path(image).stem for image, _, _ in pairs]

    def read(self, index: int) -> Scene:
        image_file, mask_file, word = self.pairs[index]
        image = read_image(image_file)
        mask = read_object(mask_file, mask_file, self.threshold, f"{TWO_VALUES}, or give data.threshold=128 for a soft border")
        same_size(image, mask, mask_file)
        if mask.all():
            raise UserError("a full mask: it marks every pixel", mask_file, "leave the background unmarked, or the picture out")
        return {"image": image, "labels": mask * self.classes.index(word), "name": self.names[index],
                "size": tuple(image.shape[-2:])}


@dataclass(kw_only=True, eq=False, repr=False)
class PairData(SceneData):
    """`image`, `mask`, `word`: one each, or lists; one word may stand for all. Every split is all pairs, in their order.

    threshold: grey values from here on are the object, for masks with soft borders (null: a mask has two values).
    `pairs`: (image, mask, word) of each. `classes`: background and the words, each once.
    """

    image: str | list[str]
    mask: str | list[str]
    word: str | list[str]
    threshold: int | None = None

    def __post_init__(self):
        images, masks, words = (given if isinstance(given, list) else [given] for given in (self.image, self.mask, self.word))
        words = words * len(images) if len(words) == 1 else words
        words = [" ".join(word.split()) for word in words]
        if not images:
            raise UserError("no pictures", "data.image", "name one, or a list")
        for key, values in (("mask", masks), ("word", words)):
            if len(values) != len(images):
                raise UserError(f"{len(values)} for {len(images)} pictures", f"data.{key}", "give one for each picture")
        if not all(words) or BACKGROUND in words:
            wrong = "an empty word" if not all(words) else f"{BACKGROUND!r} is not an object"
            raise UserError(wrong, "data.word", "say what the mask shows, e.g. data.word=dog")
        if self.threshold is not None and not 1 <= self.threshold <= 255:
            raise UserError(f"{self.threshold}", "data.threshold", "give 1 to 255, say 128")
        self.pairs = list(zip(images, masks, words))
        self.name, self.classes = "pair", [BACKGROUND, *dict.fromkeys(words)]
        self.palette = default_palette(len(self.classes))
        super().__post_init__()

    def example_sets(self, split: str) -> list[ExampleSet]:
        """All pairs of each word, whatever the split."""
        return [ExampleSet(word, self.classes.index(word), tuple(name for name, pair in self._named().items() if pair[2] == word))
                for word in self.classes[1:]]

    def example(self, split: str, name: str, class_id: int) -> tuple[Tensor, Tensor]:
        """A picture uint8 3 H W with its mask, fp32 H W of 0 and 1."""
        scene = self.source("train").read(list(self._named()).index(name))
        return scene["image"], (scene["labels"] == class_id).float()

    def _named(self) -> dict[str, tuple[str, str, str]]:
        """The pairs by their pictures' stems; those that repeat get their place behind them."""
        stems = [Path(image).stem for image, _, _ in self.pairs]
        return {stem if stems.count(stem) == 1 else f"{stem}@{place}": pair
                for place, (stem, pair) in enumerate(zip(stems, self.pairs))}

    def make_source(self, split: str) -> Pairs:
        source = Pairs(self.pairs, self.classes, self.threshold)
        for index in range(len(source)):                     # a few files: what is wrong with them is said at once
            try:
                source.read(index)
            except UserError as error:
                refuse(error)
        return source
