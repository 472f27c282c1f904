"""Drawn scenes with few kinds of things, for methods that learn from few labels: no files, no download.

Scene i of a split is a function of the world's seed and the i-th index of the split's own range, as in data.py; but only the
kinds that are named occur, on the ground of one family or of both.
"""

from dataclasses import dataclass

import numpy as np

from datamodules.base import SceneData
from datamodules.demo.data import DemoScenes
from datamodules.demo.objects import objects
from datamodules.demo.world import FAMILIES, FOLDS, OBJECT_WORDS, class_id
from datamodules.errors import UserError
from datamodules.samples import default_palette
from datamodules.transforms import Size, sides

BOTH = "both"


@dataclass(kw_only=True, eq=False, repr=False)
class DemoKinds(SceneData):
    """n_train, n_val and n_test scenes of `size` (H, W, or one number).

    things: their kinds, words of the demo world; null: twelve that all shipped weights have seen. Class 0 is background.
    grounds: meadow, table, or both in turns.
    """

    things: list[str] | None = None
    grounds: str = BOTH
    size: Size = 64
    n_train: int = 400
    n_val: int = 50
    n_test: int = 500
    workers: int = 0

    def __post_init__(self):
        self.things = list(FOLDS[1]) if self.things is None else self.things
        if self.grounds not in (BOTH, *FAMILIES):
            raise UserError(f"no grounds are called {self.grounds}", "data.grounds", f"give {', '.join(FAMILIES)} or {BOTH}")
        if unknown := [word for word in self.things if word not in OBJECT_WORDS]:
            raise UserError(f"no thing is called {unknown[0]}", "data.things", f"give some of {', '.join(OBJECT_WORDS[:6])}, ...")
        if not self.things or len(set(self.things)) < len(self.things):
            raise UserError(f"things are {', '.join(self.things) or 'none'}", "data.things", "name one or more, each once")
        self.classes = ["background", *self.things]
        self.palette, self.name = default_palette(len(self.classes)), "demo_kinds"
        super().__post_init__()
        self.families = list(FAMILIES) if self.grounds == BOTH else [self.grounds]
        self.table = np.zeros(256, np.uint8)                 # the world's labels -> the set's
        self.table[[class_id(word) for word in self.things]] = range(1, len(self.classes))
        self.height_width = sides(self.size, "data.size")
        self.counts = {"train": self.n_train, "val": self.n_val, "test": self.n_test}

    def paint(self, seed: int, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        scene = objects(seed, index, size, self.things, self.families[index % len(self.families)])
        return scene.image, self.table[scene.labels]

    make_source = DemoScenes.make_source
