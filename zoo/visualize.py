"""Overlays, legends, panels and contact sheets. Pictures are numpy uint8 [H, W, 3] RGB, label maps integer [H, W].

A palette is a list of (r, g, b), one colour a class. `max_side` scales what is larger down first, so that lines and
words keep their size.
"""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datamodules.files import write_bytes

Palette = Sequence[tuple[int, int, int]]

INK, PAPER, GREY = (30, 30, 30), (255, 255, 255), (128, 128, 128)
GAP = 8  # pixels between the parts of a panel
ROOM = 128  # pixels of width that a caption needs


def to_picture(image: Tensor) -> np.ndarray:
    """Tensor uint8 [3, H, W] on any device -> picture [H, W, 3]."""
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


# -- size --------------------------------------------------------------------------------------------------------------
def shrink(picture: np.ndarray, max_side: int | None) -> np.ndarray:
    """The picture, or a smaller one whose longer side is `max_side`."""
    h, w = shrunk_size(picture.shape[:2], max_side)
    return picture if (h, w) == picture.shape[:2] else cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)


def shrink_labels(labels: np.ndarray, max_side: int | None) -> np.ndarray:
    """The same for labels: each keeps the label nearest to its middle."""
    ys, xs = ((np.arange(n) * 2 + 1) * size // (2 * n)
              for n, size in zip(shrunk_size(labels.shape, max_side), labels.shape, strict=True))
    return labels[ys[:, None], xs]


def shrunk_size(size: Sequence[int], max_side: int | None) -> tuple[int, ...]:
    scale = 1.0 if max_side is None else min(1.0, max_side / max(size))
    return tuple(max(1, round(n * scale)) for n in size)


# -- labels in colour --------------------------------------------------------------------------------------------------
def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture H W 3 with each pixel as a square, so that there is room for a caption."""
    times = max(1, ROOM // picture.shape[1])
    return picture.repeat(times, 0).repeat(times, 1)


def colourise(labels: np.ndarray, palette: Palette, ignore: int = 255, max_side: int | None = None) -> np.ndarray:
    """Every label in its class's colour, ignored pixels black."""
    labels = shrink_labels(labels, max_side)
    colours = np.array([*palette, (0, 0, 0)], np.uint8)
    return colours[np.where(labels == ignore, len(palette), labels)]


def overlay(image: np.ndarray, labels: np.ndarray, palette: Palette, alpha: float = 0.5, ignore: int = 255,
            outline: bool = False, max_side: int | None = None) -> np.ndarray:
    """The picture tinted with its labels' colours (`alpha` of them); ignored pixels stay as they are.

    outline: draws a white line between the classes.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"picture {image.shape[:2]} and labels {labels.shape} differ in size")
    image, labels = shrink(image, max_side), shrink_labels(labels, max_side)
    mixed = cv2.addWeighted(image, 1 - alpha, colourise(labels, palette, ignore), alpha, 0)
    mixed[labels == ignore] = image[labels == ignore]
    if outline:
        mixed[edges(labels)] = PAPER
    return mixed


def heat(values: np.ndarray) -> np.ndarray:
    """Numbers 0..1 [H, W] from black over red to pale yellow."""
    levels = np.round(255 * np.nan_to_num(values).clip(0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def edges(labels: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another label, bool [H, W]."""
    found = np.zeros(labels.shape, bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    return found


# -- words -------------------------------------------------------------------------------------------------------------
@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def write(picture: np.ndarray, words: Sequence[tuple[int, int, str]], size: int) -> np.ndarray:
    """A copy of the picture with each (x, y, text) written left-aligned and vertically centred on y."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for x, y, text in words:
        draw.text((x, y), text, INK, font(size), anchor="lm")
    return np.array(canvas)


def fitted(text: str, width: int, size: int) -> str:
    """The text, or as much of it as `width` pixels hold, ending in dots."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def caption(picture: np.ndarray, text: str, size: int = 16) -> np.ndarray:
    """The picture with a line of text above it; text wider than the picture is cut."""
    line = blank(size + GAP, picture.shape[1])
    return np.concatenate([write(line, [(2, len(line) // 2, fitted(text, picture.shape[1] - 4, size))], size), picture])


def legend(classes: Sequence[str], palette: Palette, only: Sequence[int] | None = None, rows: int = 20,
           size: int = 16) -> np.ndarray:
    """Colours and names of the classes, or of the ids in `only` (those present), in columns of up to `rows`."""
    ids = list(range(len(classes))) if only is None else [c for c in only if 0 <= c < len(classes)]
    line, swatch = size + GAP, 2 * size
    blocks = [ids[i : i + rows] for i in range(0, len(ids), rows)]
    widths = [swatch + 3 * GAP + max(int(font(size).getlength(classes[c])) for c in block) for block in blocks]
    picture = blank(line * min(rows, max(len(ids), 1)) + GAP, sum(widths) + GAP)
    words, x = [], GAP
    for block, width in zip(blocks, widths, strict=True):
        for i, c in enumerate(block):
            y = GAP + i * line
            picture[y : y + size, x : x + swatch] = GREY                         # a frame: white classes stay visible
            picture[y + 1 : y + size - 1, x + 1 : x + swatch - 1] = palette[c]
            words.append((x + swatch + GAP, y + size // 2, classes[c]))
        x += width
    return write(picture, words, size)


def present(*labels: np.ndarray, ignore: int = 255) -> list[int]:
    """Ids that occur in any of the label maps, ascending: for `legend(only=...)`."""
    return sorted({int(c) for each in labels for c in np.unique(each)} - {ignore})


# -- pictures together -------------------------------------------------------------------------------------------------
def panel(pictures: Sequence[np.ndarray], captions: Sequence[str] | None = None,
          max_side: int | None = 640) -> np.ndarray:
    """Pictures side by side, tops in line, each under its caption."""
    pictures = [shrink(picture, max_side) for picture in pictures]
    if captions is not None:
        pictures = [caption(picture, text) for picture, text in zip(pictures, captions, strict=True)]
    return beside(pictures)


def stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (panels, legends) under one another, left sides in line."""
    return beside([picture.swapaxes(0, 1) for picture in pictures]).swapaxes(0, 1)


def sheet(pictures: Sequence[np.ndarray], captions: Sequence[str] | None = None, columns: int = 6,
          cell: int = 192) -> np.ndarray:
    """A contact sheet: pictures fitted into squares of `cell` pixels, row by row."""
    cells = []
    for i, picture in enumerate(pictures):
        picture = shrink(picture, cell)
        square = blank(cell, cell)
        left = (cell - picture.shape[1]) // 2
        square[: picture.shape[0], left : left + picture.shape[1]] = picture
        cells.append(square if captions is None else caption(square, captions[i]))
    return stack([beside(cells[i : i + columns]) for i in range(0, len(cells), columns)])


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    height = max(picture.shape[0] for picture in pictures)
    joined = blank(height, sum(picture.shape[1] for picture in pictures) + GAP * (len(pictures) - 1))
    x = 0
    for picture in pictures:
        joined[: picture.shape[0], x : x + picture.shape[1]] = picture
        x += picture.shape[1] + GAP
    return joined


def blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


# -- files -------------------------------------------------------------------------------------------------------------
def save_png(path: Path, picture: np.ndarray) -> None:
    """Writes beside the place and renames: no half pictures."""
    write_bytes(path, png(Image.fromarray(picture)))


def save_label_png(path: Path, labels: np.ndarray, palette: Palette) -> None:
    """Labels as they are in one channel: 8 bits with the palette for up to 255 classes (ignored 255), 16 bits for more
    (ignored 65535). Ignored ones may come as -1."""
    ignored = 255 if len(palette) <= 255 else 65535
    labels = np.where(labels < 0, ignored, labels.astype(np.int64))
    if ((labels >= len(palette)) & (labels != ignored)).any():
        raise ValueError(f"a label is not one of {len(palette)} classes, nor {ignored} for ignored")
    if ignored == 255:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(np.array([*palette, *[(0, 0, 0)] * (256 - len(palette))], np.uint8).tobytes())
    else:
        image = Image.fromarray(labels.astype(np.uint16))
    write_bytes(path, png(image))


def png(image: Image.Image) -> bytes:
    return encoded(image, "PNG")


def encoded(image: Image.Image, kind: str) -> bytes:
    """The bytes of a file; kind: PNG or JPEG (quality 92)."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return buffer.getvalue()
