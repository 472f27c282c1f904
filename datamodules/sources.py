"""Where scenes come from: pairs of files, parts of a source, sources with other classes. Reading checks what it reads."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from datamodules.errors import UserError, refuse
from datamodules.files import LABELS, PICTURES, Tree, read_image, read_labels
from datamodules.samples import Scene, ignore_of

Transform = Callable[[Scene, np.random.Generator], Scene]


class SceneSource:
    """Scenes by number, whole and unchanged; holds no more than the one it is reading."""

    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Scene:
        raise NotImplementedError

    def draw(self, index: int, transform: Transform, rng: np.random.Generator) -> Scene:
        """A training sample. Sources that can read a part of a picture cut first and decode no more than they need."""
        return transform(self.read(index), rng)


class SceneFiles(SceneSource):
    """Pairs of a picture and a label file in a Tree. label_shift, white: see `settle_labels`."""

    def __init__(self, tree: Tree, pairs: list[tuple[str, str]], classes: int, label_shift: int = 0,
                 white: int | None = None, palette: list[tuple[int, int, int]] | None = None):
        self.tree, self.pairs, self.classes = tree, pairs, classes
        self.label_shift, self.white, self.palette = label_shift, white, palette
        self.names = [Path(picture).stem for picture, _ in pairs]

    def read(self, index: int) -> Scene:
        image, labels = self.picture(index), self.read_labels(index)
        size = tuple(image.shape[-2:])
        if tuple(labels.shape) != size:
            raise UserError(f"labels of {labels.shape[1]}x{labels.shape[0]} for a picture of {size[1]}x{size[0]}",
                            self.files(index)[1], "they must be the same size (a picture is turned as its EXIF says)")
        return {"image": image, "labels": labels, "name": self.names[index], "size": size}

    def files(self, index: int) -> tuple[str, str]:
        """Where the picture and its labels lie, for people."""
        picture, mask = self.pairs[index]
        return self.tree.where(picture), self.tree.where(mask)

    def picture(self, index: int) -> Tensor:
        return read_image(self.tree.open(self.pairs[index][0]), self.files(index)[0])

    def raw(self, index: int) -> Tensor:
        """The label file's own values [H, W]."""
        return read_labels(self.tree.open(self.pairs[index][1]), self.files(index)[1], self.palette)

    def read_labels(self, index: int) -> Tensor:
        """Labels 0..classes-1 and `ignore_of(classes)` [H, W]."""
        return settle_labels(self.raw(index), self.classes, self.files(index)[1], self.label_shift, self.white)


class Mapped(SceneSource):
    """A source whose labels are numbered anew: table[label] is the new one; what is ignored stays ignored."""

    def __init__(self, source: SceneSource, table: np.ndarray, ignore: int):
        self.source, self.names = source, source.names
        self.table = torch.from_numpy(np.append(table, ignore)).to(torch.uint8 if ignore == 255 else torch.int32)

    def read(self, index: int) -> Scene:
        return self.renumber(self.source.read(index))

    def draw(self, index: int, transform: Transform, rng: np.random.Generator) -> Scene:
        return self.renumber(self.source.draw(index, transform, rng))

    def renumber(self, scene: Scene) -> Scene:
        labels = scene["labels"].long()
        last = len(self.table) - 1
        return scene | {"labels": self.table[labels.where((labels >= 0) & (labels < last), last)]}


def pair_by_stem(tree: Tree, images: str, masks: str) -> list[tuple[str, str]]:
    """Each picture below the folder `images` with the label file of the same path and stem below `masks`."""
    labels = {_stem(name, masks): name for name in tree.list(masks, LABELS)}
    pictures = tree.list(images, PICTURES)
    if not pictures:
        raise UserError("no pictures", tree.where(images), f"put {', '.join(PICTURES)} files there, or set data.root")
    missing = [name for name in pictures if _stem(name, images) not in labels]
    if missing:
        refuse(UserError(f"{len(missing)} of {len(pictures)} pictures have no labels", tree.where(missing[0]),
                         f"add {tree.where(masks)}/{_stem(missing[0], images)}.png, or remove the picture"))
    return [(name, labels.get(_stem(name, images), f"{masks}/{_stem(name, images)}.png")) for name in pictures]


def _stem(name: str, folder: str) -> str:
    return name[len(folder) + 1:].rpartition(".")[0]


class Part(SceneSource):
    """Some scenes of a source."""

    def __init__(self, source: SceneSource, indices: list[int]):
        self.source, self.indices = source, indices
        self.names = [source.names[i] for i in indices]

    def read(self, index: int) -> Scene:
        return self.source.read(self.indices[index])

    def draw(self, index: int, transform: Transform, rng: np.random.Generator) -> Scene:
        return self.source.draw(self.indices[index], transform, rng)


def settle_labels(raw: Tensor, classes: int, where: str, shift: int = 0, white: int | None = None) -> Tensor:
    """A file's values [H, W] -> labels 0..classes-1 and `ignore_of(classes)`; others are an error with its remedy.

    Ignored in a file: 255 (up to 255 classes) and 65535. `shift` is added to all others; what falls below 0 by it is
    ignored, so -1 is for sets that count from 1. `white` is the class that file value 255 stands for.
    """
    ignore = ignore_of(classes)
    table = np.arange(65536) + shift
    table[:max(0, -shift)] = ignore
    table[[65535, 255] if ignore == 255 else 65535] = ignore
    if white is not None:
        table[255] = white
    values = _values(raw)
    wrong = values[(table[values] != ignore) & ((table[values] < 0) | (table[values] >= classes))]
    if len(wrong):
        raise _out_of_range(values, wrong, classes, where, shift)
    if raw.dtype == torch.uint8 and ignore == 255:
        same = (table[values] == values).all()
        return raw if same else torch.from_numpy(cv2.LUT(raw.numpy(), table[:256].astype(np.uint8)))
    return torch.from_numpy(table.astype(np.uint8 if ignore == 255 else np.int32)[raw.numpy()])


def _values(raw: Tensor) -> np.ndarray:
    """The values that occur, sorted."""
    if raw.dtype == torch.uint8:                             # OpenCV counts 12 megapixels in a few ms
        return np.flatnonzero(cv2.calcHist([raw.numpy()], [0], None, [256], [0, 256]))
    return np.flatnonzero(np.bincount(raw.numpy().ravel()))


def _out_of_range(values: np.ndarray, wrong: np.ndarray, classes: int, where: str, shift: int) -> UserError:
    found = values.tolist()
    listed = ", ".join(map(str, found[:8])) + (f", ..., {found[-1]}" if len(found) > 8 else "")
    expected = f"{classes} classes (0..{classes - 1})" + (f" and label_shift={shift}" if shift else "")
    if shift == 0 and wrong.tolist() == [classes]:
        mend = "the set counts from 1; add data.label_shift=-1"
    elif len(found) == 2 and found[0] == 0:
        mend = "a mask of two values: save the class numbers 0 and 1, or 0 and 255 with data.white=1"
    else:
        mend = "correct the file, the class list or data.label_shift"
    return UserError(f"labels up to {wrong[-1]} ({listed}), but {expected}", where, mend)
