"""Drawn things with a mask each, for open-vocabulary methods: scenes of the objects family, no files, no download.

Training scenes show the 36 classes that are neither NOVEL nor RARE; validation and test show these and the 12 NOVEL ones, so that
a method meets classes it has not learnt from. RARE classes do not occur. The ground is ignored: it has no word of its own.
"""

from dataclasses import dataclass

import torch

from datamodules.base import SceneData
from datamodules.demo.objects import objects
from datamodules.demo.world import FAMILIES, NOVEL, OBJECT_WORDS, RARE, WORLD_SEED, seed_range
from datamodules.errors import UserError
from datamodules.samples import Scene, default_palette, ignore_of
from datamodules.sources import SceneSource
from datamodules.transforms import Size, sides

WORDS = [word for word in OBJECT_WORDS if word not in RARE]        # class id = place in this list
RANGES = {"train": "method", "val": "val", "test": "test"}
KEPT_BYTES = 256 * 2**20


class ThingSource(SceneSource):
    """`count` scenes of `size` (H, W) from index `first` on, of things out of `words`; meadows and tables take turns.

    Those drawn first are kept (8 bytes a pixel), since drawing one takes as long as a training step.
    """

    def __init__(self, first: int, count: int, size: tuple[int, int], words: list[str]):
        self.first, self.size, self.words = first, size, words
        self.names = [f"scene_{index}" for index in range(first, first + count)]
        self.drawn: dict[int, Scene] = {}

    def read(self, index: int) -> Scene:
        if index in self.drawn:
            return dict(self.drawn[index])
        scene = self.paint(index)
        if len(self.drawn) < KEPT_BYTES // (8 * self.size[0] * self.size[1]):
            self.drawn[index] = scene
        return dict(scene)

    def paint(self, index: int) -> Scene:
        family = list(FAMILIES)[index % len(FAMILIES)]
        scene = objects(WORLD_SEED, self.first + index, self.size, self.words, family)
        labels = torch.full(self.size, ignore_of(len(WORDS)), dtype=torch.uint8)
        instances = torch.full(self.size, -1, dtype=torch.int32)
        for number, (mask, thing) in enumerate(zip(torch.from_numpy(scene.masks), scene.things)):
            labels[mask], instances[mask] = WORDS.index(thing.kind.word), number
        image = torch.from_numpy(scene.image).permute(2, 0, 1).contiguous()
        return {"image": image, "labels": labels, "instances": instances, "name": self.names[index], "size": self.size}


@dataclass(kw_only=True, eq=False, repr=False)
class DemoThings(SceneData):
    """n_train, n_val and n_test scenes of `size` (H, W, or one number)."""

    size: Size = 128
    n_train: int = 2000
    n_val: int = 100
    n_test: int = 200
    workers: int = 0
    segments: bool = True

    def __post_init__(self):
        self.name, self.classes = "demo_things", list(WORDS)
        self.palette = default_palette(1 + len(WORDS))[1:]           # without black, which is ignored
        super().__post_init__()
        self.height_width = sides(self.size, "data.size")
        self.counts = {"train": self.n_train, "val": self.n_val, "test": self.n_test}

    def make_source(self, split: str) -> ThingSource:
        first, stop = seed_range(RANGES[split])
        if not 0 < self.counts[split] <= stop - first:
            raise UserError(f"{self.counts[split]} scenes", f"data.n_{split}", f"give 1 to {stop - first}")
        words = [word for word in WORDS if word not in NOVEL] if split == "train" else WORDS
        return ThingSource(first, self.counts[split], self.height_width, words)
