"""White on black: made-up shapes and lines, so that the autoencoder can carry masks. None of them is a mask of a scene."""

import cv2
import numpy as np

from datamodules.demo.canvas import noise


def silhouette(rng: np.random.Generator, side: int) -> np.ndarray:
    """A picture of shapes, of a blob or of lines; uint8 [side, side, 3] of 0 and 255."""
    way = rng.random()
    if way < 0.5:
        mask = shapes(rng, side)
    elif way < 0.65:
        mask = noise(rng, (side, side), (4, 4)) > rng.uniform(-0.5, 1.5)
    else:
        mask = np.any([line(rng, side, rng.uniform(1.0, 5.0)) for _ in range(rng.integers(1, 5))], 0)
    return np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2)


def shapes(rng: np.random.Generator, side: int) -> np.ndarray:
    """One to three closed curves of random radii, some with corners: bool [side, side]."""
    mask = np.zeros((side, side), np.uint8)
    for _ in range(rng.integers(1, 4)):
        corners = int(rng.integers(3, 14))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radii = side * rng.uniform(0.08, 0.4) * rng.uniform(0.6, 1.2, corners)
        middle = rng.uniform(0.1 * side, 0.9 * side, 2)
        points = middle + np.stack([np.cos(angles), np.sin(angles)], -1) * radii[:, None]
        cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
        if rng.random() < 0.4:
            axes = np.maximum(side * rng.uniform(0.03, 0.3, 2), 1).astype(int)
            spot = tuple(int(v) for v in rng.uniform(0, side, 2))
            cv2.ellipse(mask, spot, tuple(int(a) for a in axes), rng.uniform(0, 180), 0, 360, int(rng.random() < 0.7), -1)
    return mask > 0


def line(rng: np.random.Generator, side: int, width: float) -> np.ndarray:
    """The pixels at most width / 2 from a straight line across the picture: bool [side, side]."""
    angle, (x, y) = rng.uniform(0, np.pi), rng.uniform(0.15 * side, 0.85 * side, 2)
    ys, xs = np.mgrid[:side, :side] + 0.5
    return np.abs((xs - x) * np.sin(angle) - (ys - y) * np.cos(angle)) <= width / 2
