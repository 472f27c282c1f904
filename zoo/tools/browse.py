"""Look at samples of a data set as training gets them: python -m zoo.tools.browse data=<set> data.root=<place>

Also: n=16 (samples), split=train (after augmentation; val and test: as they are), seed=0, out=browse.png, and the settings of
the set (--help data=<set>). One picture: scenes beside their labels with the colours of the classes that occur, masks with
their outlines and classes (data.segments=true), or episodes as rows: supports, then the query, each with its mask.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.base import Stream
from datamodules.errors import UserError, door
from datamodules.files import make_folder
from datamodules.settings import help_text, make, read_settings
from zoo.settings import check
from zoo.visualize import (
    GAP,
    INK,
    PAPER,
    beside,
    blank,
    caption,
    edges,
    fitted,
    font,
    legend,
    overlay,
    present,
    save_png,
    stack,
    to_picture,
    write,
)  # fmt: skip

USAGE = "python -m zoo.tools.browse data=<set> data.root=<place> [n=16] [split=train] [seed=0] [out=browse.png]"
WIDTH = 1920                            # pixels of the whole picture
MOST = 200                              # samples
SPACE = 3 * GAP                         # between two samples
LETTERS, SMALL = 16, 13                 # heights of a line's and of a mask's letters
NAMED = 0.01                            # of the picture: smaller masks carry no word
OBJECT = {1: (255, 40, 40), 255: (60, 110, 255)}             # an episode's mask: the object, and what nobody says


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(help_text(__doc__, arguments))
        return
    print(f"picture: {run(read_settings('browse', arguments, USAGE))}")


def run(config: dict) -> Path:
    """Draws the samples into `out`."""
    split, n, out = config["split"], config["n"], Path(str(config["out"]))
    if split not in ("train", "val", "test"):
        raise UserError(f"no split {split}", "split", "give train, val or test")
    if type(n) is not int or not 1 <= n <= MOST:
        raise UserError(f"{n} samples", "n", f"give 1 to {MOST}")
    if out.suffix != ".png":
        raise UserError("the picture is a PNG", f"out={out}", "end the name in .png")
    make_folder(out.parent)
    check({"data": config["data"], "seed": config["seed"]})
    data = make(config["data"])
    dataset, keys = chosen(data, split, n, config["seed"])
    samples = (dataset[key] for key in keys)
    how = "as training gets them" if split == "train" else "as they are"
    title = f"{data.name} {split}: {len(keys)} samples of {len(dataset)}, {how}, seed {config['seed']}"
    save_png(out, drawn(samples, len(keys), data, title))
    return out


def chosen(data, split: str, n: int, seed: int) -> tuple:
    """A split's Dataset and the keys of its first `n` training samples, or of `n` of its scenes, drawn with the seed."""
    if split == "train":
        dataset = data.training()
        return dataset, list(Stream(len(dataset), data.seed, n))
    dataset = data.evaluation(split)
    drawn = np.random.default_rng((seed, 6)).permutation(len(dataset))[:n]
    return dataset, sorted(drawn.tolist())


def drawn(samples: Iterator[dict], n: int, data, title: str) -> np.ndarray:
    """The whole picture; samples are read one after the other, and only thumbnails kept."""
    first = next(samples)
    pairs = 3 if n <= 24 else 4 if n <= 64 else 6            # side by side
    cell = ((WIDTH + SPACE) // pairs - SPACE - GAP) // 2     # largest side of a thumbnail
    if "query" in first:
        shown = EpisodeRows(data, cell)
    elif "masks" in first:
        shown = SegmentPairs(data, cell)
    else:
        shown = ScenePairs(data, cell)
    tiles = [shown.tile(sample) for sample in (first, *samples)]
    line = blank(LETTERS + GAP, WIDTH)
    head = write(line, [(GAP, len(line) // 2, fitted(f"{title}; {shown.remark}", WIDTH - GAP, LETTERS))], LETTERS)
    page = stack([head, wide_legend(shown.classes, shown.palette, sorted(shown.seen)), grid(tiles)])
    return np.pad(page, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)


def grid(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles in rows as wide as WIDTH allows, in columns of one width."""
    width = max(tile.shape[1] for tile in tiles)
    padded = [np.pad(tile, ((0, 0), (0, width - tile.shape[1]), (0, 0)), constant_values=255) for tile in tiles]
    columns = max(1, (WIDTH + SPACE) // (width + SPACE))
    gap = blank(1, GAP)
    rows = [padded[i : i + columns] for i in range(0, len(padded), columns)]
    return stack([beside([part for tile in row for part in (tile, gap)][:-1]) for row in rows])


# -- kinds of samples --------------------------------------------------------------------------------------------------
class ScenePairs:
    """Picture | picture tinted with its labels; what is ignored is not tinted."""

    remark = "not tinted: ignored"

    def __init__(self, data, cell: int):
        self.classes, self.palette, self.ignore, self.cell = data.classes, data.palette, data.ignore, cell
        self.seen: set[int] = set()

    def tile(self, scene: dict) -> np.ndarray:
        image, labels = fit(to_picture(scene["image"]), self.cell), fit_labels(scene["labels"].numpy(), self.cell)
        self.seen |= set(present(scene["labels"].numpy(), ignore=self.ignore))
        tinted = overlay(image, labels, self.palette, 0.65, self.ignore, outline=True)
        return captioned([image, tinted], scene["name"], self.cell)


class SegmentPairs(ScenePairs):
    """Picture | each mask in its class's colour, with a white outline and, where there is room, the class's name."""

    remark = "not tinted: in no mask"

    def tile(self, segments: dict) -> np.ndarray:
        image = fit(to_picture(segments["image"]), self.cell)
        classes = segments["classes"].tolist()
        self.seen |= set(classes)
        owner = fit_labels(owners(segments["masks"]), self.cell)
        labels = np.array([*classes, -1])[owner]
        tinted = overlay(image, labels, self.palette, 0.55, ignore=-1)
        tinted[edges(owner)] = PAPER
        sizes = [(owner == i).mean() for i in range(len(classes))]
        largest = [i for i in np.argsort(sizes)[::-1] if sizes[i] >= NAMED]
        words = [(middle(owner == i), self.classes[classes[i]]) for i in largest]
        count = "1 mask" if len(classes) == 1 else f"{len(classes)} masks"
        return captioned([image, named(tinted, words)], f"{segments['name']}: {count}", self.cell)


class EpisodeRows:
    """Supports with their masks -> query | query with its mask, under the class's word."""

    remark = "supports, then the query"
    classes, palette, seen = ["the object", "ignored"], list(OBJECT.values()), {0, 1}

    def __init__(self, data, cell: int):
        pictures = max(data.shots, data.train_shots[1]) + 2
        room = WIDTH if pictures > 3 else WIDTH // 2 - 2 * GAP               # two episodes of one shot side by side
        self.cell = min(cell, (room - 4 * GAP) // pictures - GAP)

    def tile(self, episode: dict) -> np.ndarray:
        size, line = self.cell, f"{episode['word']} (class {episode['class_id']})"
        supports = [
            caption(self.tinted(image, mask), name, SMALL)
            for image, mask, name in zip(episode["supports"], episode["support_masks"], episode["support_names"])
        ]
        query = [fit(to_picture(episode["query"]), size), self.tinted(episode["query"], episode["query_mask"])]
        queries = [caption(picture, text, SMALL) for picture, text in zip(query, (f"query {episode['name']}", "its mask"))]
        arrow = blank(len(queries[0]), 3 * GAP)
        cv2.arrowedLine(arrow, (0, len(arrow) // 2), (3 * GAP - 1, len(arrow) // 2), INK, 2, cv2.LINE_AA, tipLength=0.4)
        return caption(beside([*supports, arrow, *queries]), line, LETTERS)

    def tinted(self, image: Tensor, mask: Tensor) -> np.ndarray:
        labels = np.full(mask.shape, -1)
        for place, value in enumerate(OBJECT):
            labels[mask.numpy() == value] = place
        picture, labels = fit(to_picture(image), self.cell), fit_labels(labels, self.cell)
        return overlay(picture, labels, self.palette, 0.5, ignore=-1, outline=True)


# -- drawing -----------------------------------------------------------------------------------------------------------
def fit(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture, smaller or larger, with `side` pixels on its longer side."""
    h, w = fitted_size(picture.shape[:2], side)
    smaller = h < picture.shape[0]
    return cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def fit_labels(labels: np.ndarray, side: int) -> np.ndarray:
    """The same for labels: each pixel takes the one nearest to its middle."""
    ys, xs = ((np.arange(n) * 2 + 1) * size // (2 * n) for n, size in zip(fitted_size(labels.shape, side), labels.shape))
    return labels[ys[:, None], xs]


def fitted_size(size: tuple[int, ...], side: int) -> tuple[int, int]:
    return tuple(max(1, round(n * side / max(size))) for n in size)


def captioned(pictures: list[np.ndarray], text: str, cell: int) -> np.ndarray:
    """A pair under its name, as wide as two cells."""
    pair = beside(pictures)
    room = 2 * cell + GAP - pair.shape[1]
    return caption(np.pad(pair, ((0, 0), (0, room), (0, 0)), constant_values=255), text, LETTERS)


def wide_legend(classes: list[str], palette: list[tuple[int, int, int]], only: list[int]) -> np.ndarray:
    """Colours and names of the classes in `only`, over the whole width."""
    names = [fitted(name, WIDTH // 5, LETTERS) for name in classes]
    widest = max((font(LETTERS).getlength(names[c]) for c in only), default=0) + 2 * LETTERS + 3 * GAP
    columns = max(1, int((WIDTH - GAP) // widest))
    return legend(names, palette, only, rows=max(1, -(-len(only) // columns)), size=LETTERS)


def owners(masks: Tensor) -> np.ndarray:
    """bool N H W -> the number of the mask a pixel is in, -1 for none; of several the smallest."""
    masks = masks.numpy()
    owner = np.full(masks.shape[1:], -1)
    for i in np.argsort(-masks.sum((1, 2)), kind="stable"):
        owner[masks[i]] = i
    return owner


def middle(mask: np.ndarray) -> tuple[int, int]:
    """x, y of the pixel farthest from the mask's border."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x), int(y)


def named(picture: np.ndarray, words: list[tuple[tuple[int, int], str]]) -> np.ndarray:
    """A copy with each word around its (x, y), readable on any ground; one that would hide an earlier one is left out."""
    canvas, taken = Image.fromarray(picture), np.zeros(picture.shape[:2], bool)
    draw = ImageDraw.Draw(canvas)
    for (x, y), word in words:
        text = fitted(word, canvas.width - 4, SMALL)
        half = int(font(SMALL).getlength(text) / 2) + 2
        x = min(max(x, half), canvas.width - half)
        box = np.s_[max(0, y - SMALL // 2) : y + SMALL // 2, max(0, x - half) : x + half]
        if not taken[box].any():
            taken[box] = True
            draw.text((x, y), text, PAPER, font(SMALL), anchor="mm", stroke_width=2, stroke_fill=INK)
    return np.array(canvas)


if __name__ == "__main__":
    door(lambda: main(sys.argv[1:]))
