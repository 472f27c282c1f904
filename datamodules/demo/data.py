"""The offline default: scenes of the demo world, drawn when asked for, nothing on disk.

Scene i of a split is a function of the world's seed and the i-th index of the split's own range, so the splits share no
scene and every run sees the same world.
"""

from collections.abc import Callable

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
from datamodules.transforms import Range, Size, sides

KEPT_BYTES = 256 * 2**20
RANGES = {"train": "method", "val": "val", "test": "test"}
Draw = Callable[[int, int, tuple[int, int]], tuple[np.ndarray, np.ndarray]]


class DemoSource:
    """`count` scenes of `size` (H, W), from index `first` on; draw gives image H W 3 and labels H W.

    The first `kept` scenes are kept once drawn (4 bytes a pixel), since drawing one takes as long as a training step.
    """

    def __init__(self, draw: Draw, first: int, count: int, size: tuple[int, int], kept: int):
        self.draw, self.first, self.count, self.size = draw, first, count, size
        self.kept, self.drawn = kept, {}
        self.names = [f"scene_{index}" for index in range(first, first + count)]

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Scene:
        image, labels = self.drawn.get(index) or self.draw(WORLD_SEED, self.first + index, self.size)
        if len(self.drawn) < self.kept:
            self.drawn[index] = image, labels
        return {"image": torch.tensor(image).permute(2, 0, 1), "labels": torch.tensor(labels),
                "name": self.names[index], "size": self.size}


def draw_objects(seed: int, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    scene = objects(seed, index, size)
    return scene.image, scene.labels


class DemoScenes(SceneData):
    """n_train, n_val and n_test scenes of `size` (H, W, or one number).

    family: landscape (the seven classes of MaSS13K) or objects (background and 56 kinds of things).
    """

    def __init__(self, family: str = "landscape", size: Size = 256, n_train: int = 2000, n_val: int = 50,
                 n_test: int = 100, crop: Size = 256, batch_size: int = 4, val_batch_size: int = 1, workers: int = 0,
                 seed: int = 0, scale: Range = (0.5, 2.0), flip: float = 0.5, colour: float = 0.5,
                 cat_max_ratio: float = 0.75, labelled: int | str | None = None):
        families = {"landscape": (landscape, LANDSCAPE_CLASSES, LANDSCAPE_PALETTE),
                    "objects": (draw_objects, OBJECT_LABELS, default_palette(len(OBJECT_LABELS)))}
        if family not in families:
            raise UserError(f"no family {family}", "data.family", f"choose one of {', '.join(families)}")
        self.draw, classes, palette = families[family]
        super().__init__(f"demo_{family}", classes, palette, crop, batch_size, val_batch_size, workers, seed, scale,
                         flip, colour, cat_max_ratio, labelled)
        self.size = sides(size, "data.size")
        self.counts = {"train": n_train, "val": n_val, "test": n_test}

    def make_source(self, split: str) -> DemoSource:
        first, stop = seed_range(RANGES[split])
        count = self.counts[split]
        if not 0 < count <= stop - first:
            raise UserError(f"{count} scenes", f"data.n_{split}", f"give 1 to {stop - first}")
        kept = KEPT_BYTES // (4 * self.size[0] * self.size[1])
        return DemoSource(self.draw, first, count, self.size, kept)
