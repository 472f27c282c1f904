"""Drawing tools of the demo world: a canvas with labels, fractal noise, soft strokes.

Lengths are in units of the picture's height (y in 0..1, x in 0..aspect), so one scene can be drawn at any size.
"""

import math

import cv2
import numpy as np

SHIFT = 4  # fractional bits of the points handed to OpenCV
FAR = 30000.0  # OpenCV's points must stay small


def generator(*key: int) -> np.random.Generator:
    """One random generator per thing drawn: what one thing uses never moves another."""
    return np.random.Generator(np.random.SFC64(list(key)))


def fork(rng: np.random.Generator) -> np.random.Generator:
    """A generator of its own for the next thing, at the cost of one number."""
    return np.random.default_rng(rng.integers(1 << 32))


def noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int], gain: float = 0.55) -> np.ndarray:
    """Fractal noise, [H, W] float32 of about zero mean and unit spread; larger sizes only add finer octaves."""
    rows, columns = max(cells[0], 2), max(cells[1], 2)
    field, weight = rng.random((rows, columns), np.float32) - np.float32(0.5), 1.0
    while rows * 2 <= size[0] and columns * 2 <= size[1] and weight > 0.02:
        rows, columns, weight = rows * 2, columns * 2, weight * gain
        field = cv2.resize(field, (columns, rows), interpolation=cv2.INTER_CUBIC)
        field += np.float32(weight) * (rng.random((rows, columns), np.float32) - np.float32(0.5))
    field *= np.float32(1.25 * math.sqrt(12 * (1 - gain**2)))
    return cv2.resize(field, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def noise_line(rng: np.random.Generator, width: int, cells: int, gain: float = 0.5) -> np.ndarray:
    """Fractal noise along x, [W] float32."""
    line, weight = rng.standard_normal((1, cells), np.float32), 1.0
    while cells * 2 <= width:
        cells, weight = cells * 2, weight * gain
        line = cv2.resize(line, (cells, 1), interpolation=cv2.INTER_CUBIC)
        line += weight * rng.standard_normal((1, cells), np.float32)
    return cv2.resize(line, (width, 1), interpolation=cv2.INTER_CUBIC)[0] * np.float32(1.25 * math.sqrt(1 - gain**2))


def fixed(points: np.ndarray) -> np.ndarray:
    """Pixel coordinates (pixel centres at .5) to OpenCV's fixed point."""
    return np.round((np.clip(points, -FAR, FAR) - 0.5) * (1 << SHIFT)).astype(np.int32)


def fill(mask: np.ndarray, polygon: np.ndarray, value: int = 255) -> None:
    """Fill one polygon [K, 2] in pixels, with a soft edge."""
    cv2.fillPoly(mask, [fixed(np.asarray(polygon, np.float64))], value, cv2.LINE_AA, SHIFT)


def disc(mask: np.ndarray, x: float, y: float, rx: float, ry: float, angle: float = 0.0, value: int = 255) -> None:
    """Fill one ellipse, in pixels."""
    centre, one = fixed(np.array([x, y])), 1 << SHIFT
    axes = (max(int(rx * one), 1), max(int(ry * one), 1))
    cv2.ellipse(mask, tuple(int(c) for c in centre), axes, angle, 0, 360, value, -1, cv2.LINE_AA, SHIFT)


def strokes(mask: np.ndarray, lines: np.ndarray, widths: np.ndarray) -> None:
    """Lines [N, K, 2] in pixels with widths [N] in pixels; what is thinner than a pixel covers it in part."""
    widths = np.broadcast_to(np.asarray(widths, np.float64), (len(lines),))
    step = np.where(widths < 1, np.ceil(widths * 4) / 4, np.round(widths))
    points = fixed(np.asarray(lines, np.float64))
    for width in np.unique(step[step > 0]):  # thin first: thick ones stay whole
        value = int(255 * min(width, 1))
        cv2.polylines(mask, list(points[step == width]), False, value, max(int(width), 1), cv2.LINE_AA, SHIFT)


class Canvas:
    """A picture (float RGB 0..1) and its labels, drawn back to front; small ones are drawn larger and averaged."""

    def __init__(self, size: tuple[int, int], draw_at_least: int = 384):
        self.size = size
        factor = float(np.clip(draw_at_least / max(size), 1, 4))
        self.height, self.width = round(size[0] * factor), round(size[1] * factor)
        self.aspect = self.width / self.height
        self.image = np.zeros((self.height, self.width, 3), np.float32)
        self.labels = np.zeros((self.height, self.width), np.uint8)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def frame(self, x0: float, y0: float, x1: float, y1: float) -> "Frame":
        """An empty mask over a box given in units."""
        return Frame(self, x0, y0, x1, y1)

    def paint(self, cover: np.ndarray, colour: np.ndarray, label: int | None, at: tuple[int, int] = (0, 0)) -> None:
        """Lay a colour ([3] or [h, w, 3]) over the picture where `cover` ([h, w], uint8 or 0..1) says so."""
        top, left = at
        y0, x0 = max(-top, 0), max(-left, 0)
        y1, x1 = min(cover.shape[0], self.height - top), min(cover.shape[1], self.width - left)
        if y0 >= y1 or x0 >= x1:
            return
        cover, colour = cover[y0:y1, x0:x1], np.asarray(colour, np.float32)
        if cover.dtype == np.uint8:
            cover = cover * np.float32(1 / 255)
        if colour.ndim == 3:
            colour = np.ascontiguousarray(colour[y0:y1, x0:x1])
        here = np.s_[top + y0 : top + y1, left + x0 : left + x1]
        self.image[here] = mix(self.image[here], colour, cover)
        if label is not None:
            self.labels[here][cover >= 0.5] = label

    def finish(self, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """The picture (float) and the labels at the size asked for; a label is the class covering most of a pixel."""
        if self.shape == tuple(self.size):
            return self.image, self.labels
        to = (self.size[1], self.size[0])
        image = cv2.resize(self.image, to, interpolation=cv2.INTER_AREA)
        where = [(self.labels == c).view(np.uint8) * 255 for c in range(classes)]
        shares = [cv2.resize(w, to, interpolation=cv2.INTER_AREA) for w in where]
        return image, np.argmax(shares, 0).astype(np.uint8)


class Frame:
    """A mask over a part of a canvas (cut at its border); its drawing calls take units of the whole picture."""

    def __init__(self, canvas: Canvas, x0: float, y0: float, x1: float, y1: float):
        self.canvas, self.scale = canvas, canvas.height
        x0, x1 = np.clip((x0, x1), 0, canvas.aspect)
        y0, y1 = np.clip((y0, y1), 0, 1)
        self.box = (x0, y0, x1, y1)
        self.left, self.top = math.floor(x0 * self.scale), math.floor(y0 * self.scale)
        right, bottom = min(math.ceil(x1 * self.scale), canvas.width), min(math.ceil(y1 * self.scale), canvas.height)
        self.mask = np.zeros((max(bottom - self.top, 1), max(right - self.left, 1)), np.uint8)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(points, np.float64) * self.scale - (self.left, self.top)

    def fill(self, polygon, value: int = 255) -> "Frame":
        fill(self.mask, self.pixels(polygon), value)
        return self

    def disc(self, x: float, y: float, rx: float, ry: float, angle: float = 0.0, value: int = 255) -> "Frame":
        px, py = self.pixels((x, y))
        disc(self.mask, px, py, rx * self.scale, ry * self.scale, angle, value)
        return self

    def strokes(self, lines, widths) -> "Frame":
        """lines [N, K, 2], widths [N] or one width, in units."""
        strokes(self.mask, self.pixels(lines), np.asarray(widths, np.float64) * self.scale)
        return self

    def noise(self, rng: np.random.Generator, cell: float, gain: float = 0.55, stretch: float = 1.0) -> np.ndarray:
        """Fractal noise over the frame whose coarsest cells are `cell` high and `cell * stretch` wide."""
        x0, y0, x1, y1 = self.box
        cells = (math.ceil((y1 - y0) / cell) + 1, math.ceil((x1 - x0) / (cell * stretch)) + 1)
        return noise(rng, self.mask.shape, cells, gain)

    def rows(self) -> np.ndarray:
        """The units' y of every row, [h, 1]."""
        return ((np.arange(self.mask.shape[0], dtype=np.float32) + self.top + 0.5) / self.scale)[:, None]

    def columns(self) -> np.ndarray:
        return ((np.arange(self.mask.shape[1], dtype=np.float32) + self.left + 0.5) / self.scale)[None, :]

    def paint(self, colour, label: int | None, tone: np.ndarray | None = None) -> None:
        """Lay the colour (times `tone` [h, w]) on the canvas where the mask is, and clear the mask."""
        x, y, wide, high = cv2.boundingRect(self.mask)
        if not wide:
            return
        here = np.s_[y : y + high, x : x + wide]
        colour = np.asarray(colour, np.float32)
        if colour.ndim == 3:
            colour = colour[here]
        if tone is not None:
            colour = mix(np.zeros(3), colour, np.broadcast_to(tone, self.mask.shape)[here])
        self.canvas.paint(self.mask[here], colour, label, (self.top + y, self.left + x))
        self.mask[here] = 0


def mix(a, b, t) -> np.ndarray:
    """Colours a to b ([3] or [h, w, 3]) by t (a number or [h, w]); float32."""
    a, b, t = np.asarray(a, np.float32), np.asarray(b, np.float32), np.asarray(t, np.float32)
    if t.ndim < 2:
        return a + (b - a) * t
    if a.ndim == b.ndim == 1:
        return cv2.transform(np.ascontiguousarray(t), np.column_stack([b - a, a]))
    a, b = (np.broadcast_to(c, (*t.shape, 3)) if c.ndim == 1 else c for c in (a, b))
    return cv2.blendLinear(*map(np.ascontiguousarray, (a, b, 1 - t, t)))  # NumPy is slow along an axis of three
