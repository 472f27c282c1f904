"""More supports of few-shot episodes than were given: painted pictures, or changed copies of the given ones (the free rival).

Painted ones are those of a synthetic folder (samples.py). An episode takes those that were made from its own supports (the
manifest's `source` is their ExampleSet's key), so that nothing of any query is in them. A folder made from other examples, in
which no set of the episodes is found, is read by the class's word.
"""

from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.base import say
from datamodules.episodes import ObjectPictures, View, view
from datamodules.errors import UserError
from datamodules.files import PICTURES, Tree, read_image, read_labels
from datamodules.samples import CLASSES, IMAGES, MANIFEST, MASKS, ExampleSet, read_classes, read_manifest
from datamodules.transforms import change_colours

MEND = "write the folder with zoo.generate, to its end"
CROP, COLOUR, TRIES = (0.6, 1.0), 0.5, 10                    # shares of the sides that a copy keeps; chance of a colour change


class _Painted(ObjectPictures):
    """Pictures of the folder by name; their masks are of the class with the folder's own number `class_id`."""

    def __init__(self, tree: Tree):
        self.tree = tree
        self.files = {PurePosixPath(file).stem: file for file in tree.list(IMAGES, PICTURES)}

    def picture(self, name: str) -> Tensor:
        file = self.files.get(name, f"{IMAGES}/{name}")
        return read_image(self.tree.open(file), self.tree.where(file))

    def mask(self, name: str, class_id: int) -> Tensor:
        file = f"{MASKS}/{name}.png"
        labels = read_labels(self.tree.open(file), self.tree.where(file))
        return (labels == class_id).to(torch.uint8).masked_fill(labels == (255 if labels.dtype == torch.uint8 else 65535), 255)


class PaintedSupports:
    """root: the folder; asked: keys of the sets of supports that will come; size: of the squares; shots: at most so many painted
    pictures beside them (None: all); weight: of one of them, where a real one has 1."""

    def __init__(self, root: str, asked: set[str], size: int, shots: int | None, weight: float):
        if not Path(root).exists():
            raise UserError("no such folder", f"data.synthetic={root}", MEND)
        tree = Tree(root).down(IMAGES)
        for file in (MANIFEST, CLASSES):
            if not tree.has(file):
                raise UserError(f"no {file}", tree, MEND)
        self.tree, self.size, self.weight, self.pictures = tree, size, weight, _Painted(tree)
        self.classes, _ = read_classes(tree.text(CLASSES), tree.where(CLASSES))
        rows = read_manifest(tree.text(MANIFEST), tree.where(MANIFEST))
        self.by_word = not asked & {row["source"] for row in rows}
        self.names: dict[str, list[str]] = {}
        for row in rows:
            self.names.setdefault(row["word"] if self.by_word else row["source"], []).append(row["name"])
        if shots is not None:
            self.names = {key: names[:shots] for key, names in self.names.items()}
        self.most = max(map(len, self.names.values()), default=0)
        if not self.most:
            raise UserError("no painted pictures", tree, "paint some, or leave out data.synthetic")
        self.views: dict[tuple[str, int], View] = {}
        how = f"by their words, since none is made from these sets' own supports: {tree}" if self.by_word else f"in {tree}"
        say(f"{len(rows)} painted pictures join the supports, {how}")
        self.said = False

    def expect(self, words: set[str]) -> None:
        """Refuses a folder of which nothing would join the episodes of these words."""
        if self.by_word and not words & self.names.keys():
            raise UserError(f"nothing is painted of this set's classes, but of {', '.join(self.names)[:80]}", self.tree,
                            "give a folder painted for this set")

    def joined(self, examples: ExampleSet, real: list[View]) -> tuple[list[View], Tensor]:
        """The supports with painted ones behind them, and the weights of all. Where there are fewer painted ones than elsewhere,
        the first real one fills up with the weight 0, so that episodes can be batched."""
        painted = self._views(examples)
        if not painted and not self.said:
            self.said = True
            say(f"nothing painted for {examples.word} ({', '.join(examples.names)[:80]}): such supports stand alone")
        missing = self.most - len(painted)
        weights = [1.0] * len(real) + [self.weight] * len(painted) + [0.0] * missing
        return [*real, *painted, *real[:1] * missing], torch.tensor(weights)

    def _views(self, examples: ExampleSet) -> list[View]:
        if examples.word not in self.classes:
            return []
        names = self.names.get(examples.word if self.by_word else examples.key, [])
        label = self.classes.index(examples.word)
        for name in names:
            if (name, label) not in self.views:
                self.views[name, label] = view(self.pictures, name, label, self.size)
        found = [self.views[name, label] for name in names]
        return [one for one in found if one.shows_object()]


class AugmentedSupports:
    """count: copies of an episode's supports in turn, mirrored, cut and coloured; the same for every query. weight: of one."""

    def __init__(self, count: int, weight: float):
        self.count, self.weight = count, weight

    def joined(self, examples: ExampleSet, real: list[View]) -> tuple[list[View], Tensor]:
        seed = int.from_bytes(examples.key.partition("@")[2].encode(), "big")
        rng = np.random.default_rng(seed)
        copies = [changed(real[number % len(real)], rng) for number in range(self.count)]
        return [*real, *copies], torch.tensor([1.0] * len(real) + [self.weight] * len(copies))


def changed(shown: View, rng: np.random.Generator) -> View:
    """A part of it with some of the object in it, at the same size."""
    height, width = shown.mask.shape
    for _ in range(TRIES):
        h, w = (max(1, round(side * rng.uniform(*CROP))) for side in (height, width))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        part = np.s_[..., y : y + h, x : x + w]
        if (shown.mask[part] == 1).any():
            break
    else:
        part = np.s_[...]
    picture = F.interpolate(shown.picture[part][None], (height, width), mode="bilinear", antialias=True)[0]
    mask = F.interpolate(shown.mask[part][None, None], (height, width), mode="nearest")[0, 0]
    picture = change_colours(picture, rng, COLOUR)
    if rng.random() < 0.5:
        picture, mask = picture.flip(-1), mask.flip(-1)
    return shown._replace(picture=picture.contiguous(), mask=mask.contiguous())
