"""Small things about painted pairs."""

import numpy as np

from zoo.base import Pair
from zoo.matchmask.paint import Painted

ROOM = 128                               # pixels, for a caption


def pair_of(painted: Painted) -> Pair:
    return Pair(painted.name, painted.number, painted.picture, painted.labels, painted.seed, painted.prompt.text)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture with each pixel as a square, so that there is room for a caption."""
    times = max(1, ROOM // picture.shape[1])
    return picture.repeat(times, 0).repeat(times, 1)
