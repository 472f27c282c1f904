"""Forms of objects: polygons in a box of -1..1 (y down), each with the part it plays.

Parts: "body" carries the pattern, "dark" and "light" are plain, so a stalk or a leg does not hide the pattern.
"""

import math
from functools import cache

import numpy as np

Part = tuple[str, np.ndarray]  # role, polygon [K, 2]


def ellipse(x=0.0, y=0.0, rx=1.0, ry=1.0, start=0.0, stop=2 * math.pi) -> np.ndarray:
    t = np.linspace(start, stop, 48)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], -1)


def polar(radius) -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    return np.stack([np.sin(t), -np.cos(t)], -1) * radius(t)[:, None]


def box(x0, y0, x1, y1) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def disc() -> list[Part]:
    return [("body", ellipse(rx=0.95, ry=0.95))]


def egg() -> list[Part]:
    t = np.linspace(0, 2 * math.pi, 60)
    return [("body", np.stack([0.66 * np.sin(t) * (1 - 0.2 * np.cos(t)), -np.cos(t)], -1))]


def star() -> list[Part]:
    t = np.arange(10) * math.pi / 5
    return [("body", np.stack([np.sin(t), -np.cos(t)], -1) * np.where(np.arange(10) % 2, 0.48, 1.0)[:, None])]


def flower() -> list[Part]:
    return [("body", polar(lambda t: 0.72 + 0.28 * np.cos(6 * t))), ("dark", ellipse(rx=0.2, ry=0.2))]


def leaf() -> list[Part]:
    y = np.linspace(-1, 0.75, 40)
    half = 0.55 * np.sin((y + 1) / 1.75 * math.pi) ** 0.8
    return [
        ("dark", box(-0.06, 0.6, 0.06, 1)),
        ("body", np.concatenate([np.stack([half, y], -1), np.stack([-half, y], -1)[::-1]])),
    ]


def cone() -> list[Part]:
    top = ellipse(0, -0.45, 0.62, 0.25, math.pi, 2 * math.pi)
    crest = np.array([(-0.45, -1), (-0.12, -0.78), (0, -1), (0.12, -0.78), (0.45, -1), (0.2, -0.55), (-0.2, -0.55)])
    return [("green", crest), ("body", np.concatenate([top, [(0.5, 0), (0.06, 1), (-0.06, 1), (-0.5, 0)]]))]


def fish() -> list[Part]:
    tail = np.array([(0.4, 0), (1, -0.55), (0.86, 0), (1, 0.55)])
    fin = np.array([(-0.3, -0.4), (0.25, -0.72), (0.3, -0.3)])
    return [
        ("body", tail),
        ("body", fin),
        ("body", ellipse(-0.22, 0, 0.78, 0.5)),
        ("dark", ellipse(-0.66, -0.1, 0.08, 0.08)),
    ]


def mushroom() -> list[Part]:
    stem = np.array([(-0.2, -0.05), (0.2, -0.05), (0.27, 1), (-0.27, 1)])
    return [
        ("light", stem),
        ("body", np.concatenate([ellipse(0, 0.08, 1, 1.02, math.pi, 2 * math.pi), [(0.5, 0.18), (-0.5, 0.18)]])),
    ]


def kite() -> list[Part]:
    return [("body", np.array([(0, -1), (0.68, -0.3), (0, 1), (-0.68, -0.3)]))]


def heart() -> list[Part]:
    t = np.linspace(0, 2 * math.pi, 80)
    x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [("body", np.stack([x / 17, -(y + 2.5) / 15], -1))]


def butterfly() -> list[Part]:
    upper = np.array([(0, -0.05), (0.3, -0.75), (0.75, -0.95), (1, -0.6), (0.85, -0.05), (0.4, 0.1)])
    lower = np.array([(0, 0), (0.5, 0.05), (0.82, 0.4), (0.7, 0.85), (0.4, 0.85), (0.1, 0.4)])
    wings = [("body", wing * (side, 1)) for wing in (upper, lower) for side in (-1, 1)]
    return [*wings, ("dark", ellipse(0, 0, 0.09, 0.6))]


def vase() -> list[Part]:
    y = np.linspace(-1, 1, 40)
    half = (
        0.5
        - 0.26 * np.exp(-(((y + 0.62) / 0.22) ** 2))
        + 0.1 * np.cos((y - 0.25) * 2.6)
        - 0.2 * (y < -0.4) * (y + 0.4) ** 2
    )
    return [("body", np.concatenate([np.stack([half, y], -1), np.stack([-half, y], -1)[::-1]]))]


def barrel() -> list[Part]:
    y = np.linspace(-0.8, 0.8, 30)
    half = 0.66 + 0.2 * np.cos(y / 0.8 * math.pi / 2)
    return [
        ("body", np.concatenate([np.stack([half, y], -1), np.stack([-half, y], -1)[::-1]])),
        ("light", ellipse(0, -0.8, 0.66, 0.16)),
    ]


def house() -> list[Part]:
    return [
        ("body", box(-0.75, -0.15, 0.75, 0.95)),
        ("dark", box(0.35, -0.95, 0.58, -0.3)),
        ("dark", np.array([(-0.98, -0.12), (0, -0.98), (0.98, -0.12)])),
        ("light", box(-0.18, 0.35, 0.2, 0.95)),
    ]


def tent() -> list[Part]:
    return [
        ("body", np.array([(0, -0.95), (1, 0.85), (-1, 0.85)])),
        ("dark", np.array([(0, 0.1), (0.22, 0.85), (-0.22, 0.85)])),
    ]


def castle() -> list[Part]:
    top = [(x + d, y) for x in (-0.85, -0.17, 0.51) for d, y in ((0, -0.3), (0, -0.9), (0.34, -0.9), (0.34, -0.3))]
    return [
        ("body", np.array([(-0.85, 0.9), *top, (0.85, 0.9)])),
        ("dark", np.concatenate([ellipse(0, 0.5, 0.2, 0.25, math.pi, 2 * math.pi), [(0.2, 0.9), (-0.2, 0.9)]])),
    ]


def cactus() -> list[Part]:
    arms = [box(-0.85, -0.45, -0.5, 0.25), box(-0.85, -0.05, 0.85, 0.3), box(0.5, -0.6, 0.85, 0.2)]
    return [("body", box(-0.22, -1, 0.22, 1)), *[("body", arm) for arm in arms]]


def beast() -> list[Part]:
    legs = [("body", box(x, 0.2, x + 0.17, 0.9)) for x in (-0.62, -0.38, 0.32, 0.56)]
    head = np.array([(-0.55, -0.2), (-0.72, -0.6), (-0.68, -0.85), (-0.5, -0.68), (-0.36, -0.3), (-0.3, 0)])
    muzzle = ellipse(-0.78, -0.5, 0.22, 0.15)
    tail = np.array([(0.68, -0.2), (0.98, 0.05), (0.96, 0.45), (0.86, 0.1), (0.6, 0)])
    return [
        *legs,
        ("body", tail),
        ("body", ellipse(0.05, 0, 0.72, 0.36)),
        ("body", head),
        ("body", muzzle),
        ("dark", ellipse(-0.72, -0.56, 0.06, 0.06)),
    ]


def bird() -> list[Part]:
    tail = np.array([(0.3, 0.0), (1, 0.5), (0.9, 0.75), (0.2, 0.5)])
    legs = [("dark", box(x, 0.55, x + 0.08, 0.98)) for x in (-0.25, 0.05)]
    beak = np.array([(-0.62, -0.62), (-1, -0.45), (-0.62, -0.38)])
    return [
        *legs,
        ("dark", beak),
        ("body", tail),
        ("body", ellipse(-0.08, 0.2, 0.58, 0.46)),
        ("body", ellipse(-0.4, -0.5, 0.32, 0.34)),
        ("dark", ellipse(-0.48, -0.56, 0.07, 0.07)),
    ]


def crescent() -> list[Part]:
    outer = ellipse(0, 0, 0.98, 0.98, 0.28 * math.pi, 1.72 * math.pi)
    inner = ellipse(0.42, 0, 0.78, 0.78, 1.66 * math.pi, 0.34 * math.pi)
    return [("body", np.concatenate([outer, inner]) + (0.2, 0))]


def cup() -> list[Part]:
    ring = np.concatenate([ellipse(0.6, 0, 0.38, 0.42, -1.5, 1.5), ellipse(0.6, 0, 0.2, 0.24, 1.5, -1.5)])
    return [
        ("body", ring),
        ("body", np.array([(-0.8, -0.8), (0.7, -0.8), (0.5, 0.85), (-0.6, 0.85)])),
        ("dark", ellipse(-0.05, -0.8, 0.75, 0.14)),
    ]


def bug() -> list[Part]:
    legs = [
        (
            "dark",
            np.array([(0, y - 0.07), (side * 0.98, y + slant - 0.06), (side * 0.98, y + slant + 0.06), (0, y + 0.07)]),
        )
        for side in (-1, 1)
        for y, slant in ((-0.2, -0.3), (0.15, 0.0), (0.5, 0.3))
    ]
    return [*legs, ("dark", ellipse(0, -0.68, 0.36, 0.3)), ("body", ellipse(0, 0.18, 0.68, 0.78))]


def shirt() -> list[Part]:
    half = np.array([(0.25, -0.85), (0.5, -0.85), (1, -0.35), (0.75, -0.05), (0.52, -0.25), (0.52, 0.9)])
    return [("body", np.concatenate([half, (half * (-1, 1))[::-1], [(-0.1, -0.68), (0.1, -0.68)]]))]


@cache
def parts(form: str) -> tuple[Part, ...]:
    """The polygons of a form, drawn in order."""
    return tuple(
        {
            f.__name__: f
            for f in (
                disc,
                egg,
                star,
                flower,
                leaf,
                cone,
                fish,
                mushroom,
                kite,
                heart,
                butterfly,
                vase,
                barrel,
                house,
                tent,
                castle,
                cactus,
                beast,
                bird,
                crescent,
                cup,
                bug,
                shirt,
            )
        }[form]()
    )
