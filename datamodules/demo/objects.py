"""The objects family of the demo world: several things of 56 classes on a textured ground, seen from above."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.demo.canvas import fill, generator, mix
from datamodules.demo.forms import parts
from datamodules.demo.patterns import ground, pattern
from datamodules.demo.world import COLOURS, FAMILIES, OBJECT_WORDS, OBJECTS, ObjectClass

STREAM = 2  # keeps this family's random numbers apart from the other's
DRAW_AT_LEAST = 256  # smaller pictures are drawn larger and averaged


@dataclass
class Thing:
    """One object: where it is (x, y, radius in picture heights) and how it looks."""

    kind: ObjectClass
    x: float
    y: float
    radius: float
    angle: float  # radians
    mirror: int
    colours: tuple[str, str]  # mostly those of its class

    @property
    def words(self) -> list[str]:
        """All the words that are true of it: its own, its form's, its pattern's, its colours'."""
        return [self.kind.word, self.kind.form, self.kind.pattern, *self.colours]


@dataclass
class ObjectScene:
    """A picture with all that is known about it."""

    image: np.ndarray  # uint8 [H, W, 3]
    labels: np.ndarray  # uint8 [H, W]: 0 background, 1..K
    masks: np.ndarray  # bool [N, H, W], what is visible of each
    classes: np.ndarray  # int64 [N], 1..K
    things: list[Thing]  # N
    ground: str
    family: str
    caption: list[str]  # as in: striped shirt and fish on sand


def objects(
    seed: int,
    index: int,
    size: tuple[int, int] = (128, 128),
    classes: Sequence[str] | None = None,
    family: str = "meadow",
    count: tuple[int, int] = (1, 4),
    radius: tuple[float, float] = (0.14, 0.26),
    solo: bool = False,
    ground_word: str | None = None,
) -> ObjectScene:
    """Scene `index` of world `seed`.

    classes: words to draw from (all by default); count, radius: from-to, radius in picture heights;
    solo: one upright object that fills the picture.
    """
    rng = generator(STREAM, seed, index)
    words = list(classes) if classes is not None else OBJECT_WORDS
    ground_word = ground_word or FAMILIES[family][rng.integers(len(FAMILIES[family]))]
    things = place(rng, words, size[1] / size[0], (1, 1) if solo else count, radius, solo)
    factor = max(1, math.ceil(DRAW_AT_LEAST / max(size)))
    shape = (size[0] * factor, size[1] * factor)
    canvas = ground(ground_word, generator(STREAM, seed, index, 1), shape)
    canvas *= np.float32(rng.uniform(0.75, 1.15))
    sun = rng.uniform(0, 2 * math.pi)
    owner = np.zeros(shape, np.uint8)
    for number, thing in enumerate(things, 1):
        draw(canvas, owner, number, thing, generator(STREAM, seed, index, 1 + number), sun, family)
    masks = share(owner, len(things), size)
    seen = [i for i in range(len(things)) if masks[i].any()]
    things, masks = [things[i] for i in seen], masks[seen]
    ids = np.array([OBJECT_WORDS.index(thing.kind.word) + 1 for thing in things], np.int64)
    labels = np.zeros(size, np.uint8)
    for mask, identity in zip(masks, ids):
        labels[mask] = identity
    image = develop(
        cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA), generator(STREAM, seed, index, 0), family
    )
    return ObjectScene(image, labels, masks, ids, things, ground_word, family, caption(things, ground_word, rng))


def place(rng, words, aspect, count, radius, solo) -> list[Thing]:
    """Choose objects and spots where they hardly cover each other."""
    things: list[Thing] = []
    for _ in range(rng.integers(count[0], count[1] + 1)):
        kind = OBJECTS[OBJECT_WORDS.index(words[rng.integers(len(words))])]
        mirror, colours = int(rng.choice([-1, 1])), kind.colours
        if rng.random() < 0.25:  # colours help, but must not decide
            colours = tuple(str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
        if solo:
            x, y = rng.normal((aspect / 2, 0.5), 0.015)
            things.append(
                Thing(kind, x, y, 0.45 * min(1, aspect) * rng.uniform(0.9, 1.05), rng.normal(0, 0.04), mirror, colours)
            )
            continue
        r, angle = rng.uniform(*radius), rng.normal(0, 0.3)
        spots = rng.uniform((0.8 * r, 0.8 * r), (max(aspect - 0.8 * r, 0.9 * r), max(1 - 0.8 * r, 0.9 * r)), (12, 2))
        free = [all(math.hypot(x - o.x, y - o.y) > 0.8 * (r + o.radius) for o in things) for x, y in spots]
        if any(free):
            x, y = spots[free.index(True)]
            things.append(Thing(kind, x, y, r, angle, mirror, colours))
    return things


def draw(canvas, owner, number, thing: Thing, rng, sun, family) -> None:
    """Paint one object with its shadow; `owner` gets its number where it covers most of a pixel."""
    height, width = owner.shape
    reach = thing.radius * 1.25 + 0.03
    x0, x1 = (int(np.clip((thing.x + s * reach) * height, 0, width)) for s in (-1, 1))
    y0, y1 = (int(np.clip((thing.y + s * reach) * height, 0, height)) for s in (-1, 1))
    if x0 >= x1 or y0 >= y1:
        return
    origin = np.array([x0, y0])
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    turn = np.array([[cos, sin], [-sin, cos]]) * thing.radius * height
    stretch = np.array([thing.mirror, 1.0]) * rng.uniform(0.9, 1.08, 2)
    middle = np.array([thing.x, thing.y]) * height - origin
    px = np.arange(0.5, x1 - x0, dtype=np.float32)[None, :] - np.float32(middle[0])
    py = np.arange(0.5, y1 - y0, dtype=np.float32)[:, None] - np.float32(middle[1])
    back = (np.linalg.inv(turn) / stretch).astype(np.float32)
    u, v = px * back[0, 0] + py * back[1, 0], px * back[0, 1] + py * back[1, 1]
    whole, paint = coat(thing, rng, u, v, lambda polygon: (polygon * stretch) @ turn + middle)
    view = canvas[y0:y1, x0:x1]
    cast(view, whole, thing.radius * height, sun, family)
    soft = cv2.blur(whole, (max(int(0.12 * thing.radius * height), 1),) * 2)
    light = 0.72 + 0.33 * soft + 0.16 * (px * math.cos(sun) + py * math.sin(sun)) / (thing.radius * height)
    view[:] = mix(view, np.minimum(mix(np.zeros(3), paint, light), 1), whole)
    owner[y0:y1, x0:x1][whole >= 0.5] = number


def coat(thing: Thing, rng, u, v, to_pixels) -> tuple[np.ndarray, np.ndarray]:
    """The object's cover [h, w] and its colours [h, w, 3], part by part."""
    first, second = (np.clip(np.array(COLOURS[c]) + rng.normal(0, 0.06, 3), 0, 1) for c in thing.colours)
    body = mix(first, second, pattern(thing.kind.pattern, rng, u, v))
    plain = {
        "dark": np.array([0.16, 0.12, 0.1]),
        "light": np.array([0.9, 0.86, 0.76]),
        "green": np.array([0.2, 0.5, 0.15]),
    }
    paint, whole = body, np.zeros(u.shape, np.float32)
    for role, polygon in parts(thing.kind.form):
        mask = np.zeros(u.shape, np.uint8)
        fill(mask, to_pixels(polygon))
        cover = mask.astype(np.float32) / 255
        paint = mix(paint, body if role == "body" else plain[role], cover)
        whole = np.maximum(whole, cover)
    return whole, paint


def cast(view, whole, reach, sun, family) -> None:
    """Shadow: long and to one side outdoors, close round the object indoors."""
    far, soft, deep = (0.16, 0.06, 0.45) if family == "meadow" else (0.04, 0.14, 0.35)
    move = np.float32([[1, 0, -far * reach * math.cos(sun)], [0, 1, -far * reach * math.sin(sun)]])
    shadow = cv2.warpAffine(whole, move, whole.shape[::-1])
    shadow = cv2.blur(cv2.blur(shadow, (max(int(soft * reach), 1),) * 2), (max(int(soft * reach), 1),) * 2)
    view[:] = mix(view, np.zeros(3), deep * shadow)


def share(owner: np.ndarray, count: int, size: tuple[int, int]) -> np.ndarray:
    """Whose most of each pixel is: bool [N, H, W]."""
    parts_of = [
        cv2.resize((owner == n).view(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA)
        for n in range(count + 1)
    ]
    most = np.argmax(parts_of, 0)
    return most[None] == np.arange(1, count + 1)[:, None, None]


def caption(things: list[Thing], ground_word: str, rng) -> list[str]:
    """The picture in words, from the left to the right; sometimes with a pattern or a colour."""
    words: list[str] = []
    for thing in sorted(things, key=lambda t: t.x):
        more = [thing.kind.pattern] if rng.random() < 0.3 else []
        words += [*(["and"] if words else []), *more, thing.kind.word]
    return [*words, "on", ground_word]


def develop(image, rng, family) -> np.ndarray:
    """Exposure, tint and noise; indoors is warmer and softer."""
    tint = np.array([1.08, 0.98, 0.84] if family == "table" else [1.0, 1.0, 1.02]) * rng.normal(1, 0.03, 3)
    image = cv2.transform(image, np.diag(tint * rng.uniform(0.8, 1.15)))
    image = image + rng.standard_normal(image.shape, np.float32) * rng.uniform(0.0, 0.025)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
