"""Copy-paste: things of the labelled scenes in one another's places. What painting must be better than, since it costs nothing.

(Ghiasi et al., Simple Copy-Paste, CVPR 2021; without its large-scale jitter: the crops of the training bring that.)
"""

import cv2
import numpy as np
import torch

from datamodules.samples import Scene
from zoo.base import Pair
from zoo.diffusion.samplers import seed_of

MOST = 0.5                               # share of the picture's pixels that a thing may have
LEAST = 16                               # pixels
TRIES = (1, 4)                           # things that are pasted, from-to
SCALES = (0.7, 1.3)


def pasted(scene: Scene, donors, things: list[int], seed: int, name: str, number: int) -> Pair:
    """The scene with some things of other scenes on it. things: classes that may be pasted; donors: the source of the others."""
    mine = seed_of("paste", seed, name, number)
    rng = np.random.default_rng(mine)
    image, labels = scene["image"].permute(1, 2, 0).numpy().copy(), scene["labels"].numpy().copy()
    for _ in range(rng.integers(*TRIES)):
        thing = cut(donors.read(int(rng.integers(len(donors)))), things, rng)
        if thing is not None:
            lay(image, labels, *thing, rng)
    return Pair(name, number, torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(labels), mine, "")


def cut(scene: Scene, things: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int] | None:
    """One connected piece of a class: its picture h w 3, its mask h w, its class. None where there is none of a fair size."""
    labels = scene["labels"].numpy()
    found = []
    for label in sorted(set(np.unique(labels).tolist()) & set(things)):
        count, pieces, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        areas = stats[1:, cv2.CC_STAT_AREA]
        found += [(label, pieces == 1 + i, stats[1 + i]) for i in range(count - 1) if LEAST <= areas[i] <= MOST * labels.size]
    if not found:
        return None
    label, mask, (x, y, width, height, _) = found[rng.integers(len(found))]
    box = np.s_[y : y + height, x : x + width]
    return scene["image"].permute(1, 2, 0).numpy()[box], mask[box], label


def lay(image: np.ndarray, labels: np.ndarray, thing: np.ndarray, mask: np.ndarray, label: int, rng: np.random.Generator) -> None:
    """Changes image H W 3 and labels H W: the thing, mirrored by chance and resized, with its middle anywhere."""
    factor = rng.uniform(*SCALES)
    width, height = (max(2, round(n * factor)) for n in thing.shape[1::-1])
    thing = cv2.resize(thing, (width, height), interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
    if rng.random() < 0.5:
        thing, mask = thing[:, ::-1], mask[:, ::-1]
    top, left = (int(rng.integers(n)) - side // 2 for n, side in zip(labels.shape, (height, width)))
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + height, labels.shape[0]), min(left + width, labels.shape[1])
    there, here = np.s_[y0:y1, x0:x1], np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    image[there][mask[here]] = thing[here][mask[here]]
    labels[there][mask[here]] = label
