"""What the tiny models may see of the demo world: pictures and words.

Never a RARE class or its word, never a scene of another use, never a mask: of a scene only the picture, its caption and the
words and places of its objects leave this file.
"""

from dataclasses import dataclass

import numpy as np

from datamodules.demo import landscape, objects
from datamodules.demo.world import COLOURS, FAMILIES, OBJECT_WORDS, OBJECTS, PATTERNS, RARE, WORLD_SEED, seed_range

KNOWN = [word for word in OBJECT_WORDS if word not in RARE]
KIND = {kind.word: kind for kind in OBJECTS}
GROUNDS = [word for family in FAMILIES.values() for word in family]
FORMS = sorted({KIND[word].form for word in KNOWN})
ATTRIBUTES = {"form": FORMS, "pattern": PATTERNS, "colour": list(COLOURS), "ground": GROUNDS}

SHARES = {"clip": 0.0, "autoencoder": 0.3, "unet": 0.5, "check": 0.9}  # where each one's part of the base range begins

LAYOUTS = {
    "solo": {"solo": True},  # upright, fills the picture
    "single": {"count": (1, 1), "radius": (0.12, 0.42)},
    "scene": {"count": (1, 4), "radius": (0.12, 0.28)},
}


@dataclass
class Seen:
    """One object in words: its class, form, pattern and colours; the middle (x, y) and radius in picture heights."""

    words: dict[str, list[str]]
    x: float
    y: float
    radius: float


@dataclass
class Picture:
    image: np.ndarray  # uint8 [H, W, 3]
    things: list[Seen]
    ground: str
    caption: str


def indices(use: str, start: int, count: int) -> range:
    """`count` scene numbers of one use, from the start-th of its own part of the base range on."""
    first, stop = seed_range("base")
    ends = [*sorted(SHARES.values()), 1.0]
    low, high = (first + int(share * (stop - first)) for share in (SHARES[use], ends[ends.index(SHARES[use]) + 1]))
    if not low <= low + start <= low + start + count <= high:
        raise ValueError(f"{use} has {high - low} scenes; {start} + {count} is beyond")
    return range(low + start, low + start + count)


def look(index: int, layout: str, side: int, words: list[str] = KNOWN) -> Picture:
    """Scene `index` as a square picture; the two families of scenes take turns."""
    family = list(FAMILIES)[index % len(FAMILIES)]
    scene = objects(WORLD_SEED, index, (side, side), classes=words, family=family, **LAYOUTS[layout])
    things = [
        Seen({"class": [t.kind.word], "form": [t.kind.form], "pattern": [t.kind.pattern], "colour": list(t.colours)},
             t.x, t.y, t.radius)
        for t in scene.things
    ]
    return Picture(scene.image, things, scene.ground, " ".join(scene.caption))


def look_outside(index: int, side: int) -> np.ndarray:
    """Landscape `index` as a square picture, uint8 [side, side, 3]; for the autoencoder, which needs no words."""
    return landscape(WORLD_SEED, index, (side, side))[0]


class Pool:
    """Pictures drawn when first asked for and then kept: drawing one takes as long as several pictures' training."""

    def __init__(self, use: str, start: int, count: int, layout: str, side: int):
        self.numbers, self.layout, self.side = indices(use, start, count), layout, side
        self.kept: dict[int, Picture] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Picture:
        if i not in self.kept:
            self.kept[i] = look(self.numbers[i], self.layout, self.side)
        return self.kept[i]
