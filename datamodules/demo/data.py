"""The offline default: scenes of the demo world, drawn when asked for, nothing on disk.

Scene i of a split is a function of the world's seed and the i-th index of the split's own range, so the splits share no
scene and every run sees the same world.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from datamodules.base import SceneData
from datamodules.demo.landscape import landscape
from datamodules.demo.objects import objects
from datamodules.demo.world import (
    LANDSCAPE_CLASSES,
    LANDSCAPE_PALETTE,
    OBJECT_LABELS,
    WORLD_SEED,
    seed_range,
)
from datamodules.errors import UserError
from datamodules.samples import Scene, default_palette
from datamodules.sources import SceneSource
from datamodules.transforms import Size, sides

KEPT_BYTES = 256 * 2**20
RANGES = {"train": "method", "val": "val", "test": "test"}
Draw = Callable[[int, int, tuple[int, int]], tuple[np.ndarray, np.ndarray]]


class DemoSource(SceneSource):
    """`count` scenes of `size` (H, W), from index `first` on; draw gives image H W 3 and labels H W.

    The first `kept` scenes are kept once drawn (4 bytes a pixel), since drawing one takes as long as a training step.
    """

    def __init__(self, draw: Draw, first: int, count: int, size: tuple[int, int], kept: int):
        self.paint, self.first, self.size = draw, first, size
        self.kept, self.drawn = kept, {}
        self.names = [f"scene_{index}" for index in range(first, first + count)]

    def read(self, index: int) -> Scene:
        image, labels = self.drawn.get(index) or self.paint(WORLD_SEED, self.first + index, self.size)
        if len(self.drawn) < self.kept:
            self.drawn[index] = image, labels
        return {"image": torch.tensor(image).permute(2, 0, 1), "labels": torch.tensor(labels),
                "name": self.names[index], "size": self.size}


def draw_objects(seed: int, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    scene = objects(seed, index, size)
    return scene.image, scene.labels


@dataclass(kw_only=True, eq=False, repr=False)
class DemoScenes(SceneData):
    """n_train, n_val and n_test scenes of `size` (H, W, or one number).

    family: landscape (the seven classes of MaSS13K) or objects (background and 56 kinds of things).
    """

    family: str = "landscape"
    size: Size = 256
    n_train: int = 2000
    n_val: int = 50
    n_test: int = 100
    workers: int = 0

    def __post_init__(self):
        families = {"landscape": (landscape, LANDSCAPE_CLASSES, LANDSCAPE_PALETTE),
                    "objects": (draw_objects, OBJECT_LABELS, default_palette(len(OBJECT_LABELS)))}
        if self.family not in families:
            raise UserError(f"no family {self.family}", "data.family", f"choose one of {', '.join(families)}")
        self.paint, self.classes, self.palette = families[self.family]
        self.name = f"demo_{self.family}"
        super().__post_init__()
        self.height_width = sides(self.size, "data.size")
        self.counts = {"train": self.n_train, "val": self.n_val, "test": self.n_test}

    def make_source(self, split: str) -> DemoSource:
        first, stop = seed_range(RANGES[split])
        count = self.counts[split]
        if not 0 < count <= stop - first:
            raise UserError(f"{count} scenes", f"data.n_{split}", f"give 1 to {stop - first}")
        height, width = self.height_width
        kept = KEPT_BYTES // (4 * height * width)
        return DemoSource(self.paint, first, count, (height, width), kept)
