"""Pairs out of a folder that `python -m zoo.generate` painted before: to filter them in another way, or to take fewer of them."""

import json
from pathlib import Path

import torch

from datamodules.errors import UserError
from datamodules.files import Tree, read_image, read_labels
from datamodules.samples import CLASSES, IMAGES, MANIFEST, MASKS, Made, read_classes, read_manifest
from zoo.base import MADE_WITH, Pair

SUFFIXES = (".png", ".jpg")


class PaintedBefore:
    """about: the settings the folder was made with. rows: of its manifest, by (source, number)."""

    def __init__(self, folder: Path, rows: dict[tuple[str, int], Made], about: dict, ignore: int, k: int):
        self.folder, self.rows, self.about, self.ignore, self.k = folder, rows, about, ignore, k

    @classmethod
    def of(cls, place: str, classes: list[str], ignore: int, k: int) -> "PaintedBefore":
        """The first k of each label map's pictures in a finished, unfiltered folder made for these classes."""
        if not Path(place).is_dir():
            raise UserError("no such folder", f"painted={place}", "give the out= of python -m zoo.generate with filter=none")
        tree = Tree(place)
        if not tree.has(MANIFEST) or not tree.has(MADE_WITH):
            raise UserError("no finished folder of painted pairs", place, "start python -m zoo.generate on it again")
        if read_classes(tree.text(CLASSES), tree.where(CLASSES))[0] != list(classes):
            raise UserError("made for other classes", place, "give a folder painted for this set")
        about = json.loads(tree.text(MADE_WITH))["settings"]
        if "filter" in about:
            raise UserError("its masks are filtered already", place, "give the folder painted with filter=none")
        if about["k"] < k:
            raise UserError(f"{about['k']} pictures of a label map", place, f"give k={about['k']} or less, or paint more")
        rows = {}
        for row in read_manifest(tree.text(MANIFEST), tree.where(MANIFEST)):
            rows[row["source"], int(row["name"].rpartition("_")[2])] = row
        return cls(Path(place), rows, about, ignore, k)

    def expect(self, names: list[str]) -> None:
        """Refuses label maps of which it has no pictures."""
        for name in names:
            if (name, self.k - 1) not in self.rows:
                raise UserError(f"no pictures painted into {name}", self.folder, "give the data= it was painted for")

    def pairs(self, name: str) -> list[Pair]:
        found = []
        for number in range(self.k):
            row = self.rows[name, number]
            files = [self.folder / IMAGES / f"{row['name']}{suffix}" for suffix in SUFFIXES]
            file = next((file for file in files if file.exists()), None)
            if file is None:
                raise UserError("missing", files[0], "start zoo.generate on this folder again")
            labels = read_labels(self.folder / MASKS / f"{row['name']}.png")
            if self.ignore == -1:
                labels = labels.to(torch.int32).masked_fill(labels == 65535, -1)
            found.append(Pair(name, number, read_image(file), labels, row["seed"], row["prompt"], row["word"]))
        return found
