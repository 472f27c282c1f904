"""Patterns of objects and textures of the ground, as functions of coordinates."""

import math

import numpy as np

from datamodules.demo.canvas import mix, noise


def edge(wave: np.ndarray, sharp: float = 3.0) -> np.ndarray:
    """A wave of -1..1 to bands of 0 and 1 with soft borders."""
    return np.clip(0.5 + sharp * wave, 0, 1)


def pattern(name: str, rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How much of the second colour is where: [h, w] in 0..1; u, v [h, w] are the object's own -1..1 coordinates."""
    phase, rate = rng.uniform(0, 2 * math.pi), rng.uniform(0.9, 1.12)
    k = 10.0 * rate
    if name == "striped":
        return edge(np.sin(k * v + phase))
    if name == "barred":
        return edge(np.sin(k * u + phase))
    if name == "dotted":
        odd = np.floor(v * 2.2 * rate) % 2
        x, y = (u * 2.2 * rate + odd * 0.5) % 1 - 0.5, v * 2.2 * rate % 1 - 0.5
        return edge(0.32 - np.hypot(x, y), 8)
    if name == "checkered":
        return edge(np.sin(7.5 * rate * u + phase) * np.sin(7.5 * rate * v + phase), 5)
    if name == "ringed":
        return edge(np.cos(14 * rate * np.hypot(u, v)))
    if name == "rayed":
        return edge(np.sin(6 * np.arctan2(v, u) + phase))
    if name == "scaly":
        row = np.floor(v * 2.8 * rate)
        x, y = (u * 2.8 * rate + (row % 2) * 0.5) % 1 - 0.5, v * 2.8 * rate % 1
        return edge(np.abs(np.hypot(x, y) - 0.55) * -1 + 0.15, 6)
    if name == "zigzag":
        return edge(np.sin(k * v + 4.2 * np.abs((u * 2.4 * rate + 9) % 2 - 1) + phase))
    if name == "netted":
        return edge(
            0.55 - np.minimum(np.abs(np.sin(5.4 * rate * (u + v))), np.abs(np.sin(5.4 * rate * (u - v)))) * 1.5, 4
        )
    if name == "bricky":
        row = np.floor(v * 3 * rate)
        x, y = (u * 1.7 * rate + (row % 2) * 0.5) % 1, v * 3 * rate % 1
        return edge(0.13 - np.minimum(np.minimum(x, 1 - x) * 1.7, np.minimum(y, 1 - y)), 9)
    cells, level, sharp = {"spotted": (5, 0.45, 5.0), "speckled": (17, 0.85, 3.0), "marbled": (3, 0.0, 0.0)}[name]
    grain = noise(rng, u.shape, (cells, cells), 0.3)
    if name == "marbled":
        return edge(np.sin(9 * v + 4 * u + 3.2 * grain), 1.2)
    return edge(grain - level, sharp)


def ground(word: str, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A textured ground seen from above, [h, w, 3] in 0..1."""
    v, u = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[0], indexing="ij")
    u, v = u.astype(np.float32) + rng.uniform(0, 9), v.astype(np.float32) + rng.uniform(0, 9)
    wide = size[1] / size[0]
    grain = lambda rows, columns, gain=0.6: noise(rng, size, (rows, max(round(columns * wide), 2)), gain)
    if word == "grass":
        t = 0.5 + 0.28 * grain(8, 40, 0.8) + 0.14 * grain(4, 4)
        return mix([0.10, 0.27, 0.07], [0.5, 0.68, 0.25], np.clip(t, 0, 1))
    if word == "sand":
        t = 0.55 + 0.12 * np.sin(46 * v + 2.2 * grain(3, 3)) + 0.13 * grain(48, 48, 0.9)
        return mix([0.58, 0.45, 0.28], [0.95, 0.85, 0.64], np.clip(t, 0, 1))
    if word == "water":
        t = 0.45 + 0.3 * np.sin(60 * v + 3.5 * grain(5, 3)) * np.clip(0.6 + 0.4 * grain(5, 4), 0, 1.2)
        return mix([0.04, 0.2, 0.38], [0.45, 0.72, 0.82], np.clip(t, 0, 1))
    if word == "snow":
        t = 0.6 + 0.2 * grain(4, 3, 0.45) + 0.07 * grain(50, 50, 0.9)
        return mix([0.66, 0.74, 0.86], [0.99, 0.99, 1.0], np.clip(t, 0, 1))
    if word == "wood":
        plank = np.floor(v * 5)
        t = 0.5 + 0.25 * np.sin(90 * v + 2.5 * grain(12, 2, 0.4) + 17 * plank) + 0.18 * np.sin(5.1 * plank)
        seam = edge(0.05 - np.minimum(v * 5 % 1, 1 - v * 5 % 1), 20)
        return mix([0.38, 0.22, 0.1], [0.75, 0.53, 0.3], np.clip(t, 0, 1)) * (1 - 0.6 * seam[..., None])
    if word == "brick":
        row = np.floor(v * 9)
        x, y = (u * 4.2 + (row % 2) * 0.5), v * 9 % 1
        shade = np.sin(np.floor(x) * 12.9898 + row * 78.233) * 43758.5453 % 1
        gap = edge(0.09 - np.minimum(np.minimum(x % 1, 1 - x % 1) * 2.1, np.minimum(y, 1 - y)), 14)
        wall = mix([0.48, 0.2, 0.14], [0.72, 0.38, 0.28], shade) * (1 + 0.1 * grain(40, 40, 0.9)[..., None])
        return mix(wall, [0.72, 0.7, 0.66], gap)
    if word == "cloth":
        tint = mix([0.25, 0.3, 0.5], [0.6, 0.35, 0.45], rng.random())
        weave = np.sin(150 * u) * np.sin(150 * v) * 0.12 + 0.1 * grain(4, 4, 0.4)
        return np.clip(tint * (1.1 + weave[..., None]), 0, 1)
    x, y = u * 4.5, v * 4.5
    gap = edge(0.045 - np.minimum(np.minimum(x % 1, 1 - x % 1), np.minimum(y % 1, 1 - y % 1)), 22)
    tint = mix([0.62, 0.78, 0.75], [0.85, 0.82, 0.76], rng.random())
    shade = 1 + 0.06 * np.sin(np.floor(x) * 3.7 + np.floor(y) * 9.1) + 0.04 * grain(6, 6)
    return mix(np.clip(tint * shade[..., None], 0, 1), [0.4, 0.42, 0.42], gap)
