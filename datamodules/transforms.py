"""Training augmentation of scenes: uint8 in, uint8 out, every random number from the generator that is handed in."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.errors import UserError
from datamodules.samples import Scene

Size = int | tuple[int, int]           # of a square, or (height, width)
Range = tuple[float, float]
PAD = (124, 116, 104)                  # ImageNet's mean colour: near 0 after most normalisations
TRIES = 10                             # windows tried for cat_max_ratio, as in mmsegmentation
LEAST = 2                              # torch 2.15's antialiased resize gives wrong pixels for an output 1 pixel wide
GLANCE = 256                           # a window is judged on about this many rows and columns


def sides(size: Size, key: str) -> tuple[int, int]:
    """(height, width) of a setting that may be one number."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UserError(f"{size} pixels", key, "give one positive number, or [height, width]")
    return height, width


@dataclass(frozen=True)
class Window:
    """A rectangle of the picture, the size it is resized to, the crop it lies in (top left; the rest is padding)."""

    top: int
    left: int
    height: int
    width: int
    resized: tuple[int, int]
    crop: tuple[int, int]
    flip: bool = False

    def rectangle(self, picture: Tensor) -> Tensor:
        return picture[..., self.top:self.top + self.height, self.left:self.left + self.width]


def cut_image(image: Tensor, window: Window) -> Tensor:
    """uint8 3 H W -> uint8 3 h w: sliced, then resized (bilinear, antialiased), padded with the mean colour."""
    part = window.rectangle(image)
    if tuple(part.shape[-2:]) != window.resized:
        part = F.interpolate(part[None], window.resized, mode="bilinear", antialias=True)[0]
    if window.resized != window.crop:
        canvas = torch.tensor(PAD, dtype=torch.uint8)[:, None, None].repeat(1, *window.crop)
        canvas[:, :window.resized[0], :window.resized[1]] = part
        part = canvas
    return part.flip(-1) if window.flip else part


def cut_labels(labels: Tensor, window: Window, fill: int) -> Tensor:
    """Any dtype, ... H W -> ... h w: nearest pixel centres, so that labels lie where `cut_image` puts their pixels."""
    part = window.rectangle(labels)
    if tuple(part.shape[-2:]) != window.resized:
        rows, columns = (((torch.arange(n) + 0.5) * (m / n)).long().clamp(max=m - 1)
                         for n, m in zip(window.resized, part.shape[-2:]))
        part = part[..., rows[:, None], columns]
    if window.resized != window.crop:
        canvas = part.new_full((*part.shape[:-2], *window.crop), fill)
        canvas[..., :window.resized[0], :window.resized[1]] = part
        part = canvas
    return part.flip(-1) if window.flip else part


class SceneTransform:
    """A random window of the picture, cut out before it is resized; flip; colour.

    crop: (h, w) or one number, the size that comes out. scale: the picture is, as it were, resized by a factor drawn
    evenly from (lo, hi) before the crop is taken: at 0.5 the window covers 2h x 2w pixels of the file.
    flip, colour: probabilities of mirroring and of each colour change. cat_max_ratio: a window in which one class has
    more than this share is drawn again. hue: largest turn in degrees (0: none; it is the dearest of the changes).
    """

    def __init__(self, crop: Size, scale: Range = (1.0, 1.0), flip: float = 0.5, colour: float = 0.5,
                 cat_max_ratio: float = 0.75, ignore: int = 255, hue: float = 0.0):
        self.crop = sides(crop, "data.crop")
        if not 0 < scale[0] <= scale[1]:
            raise UserError(f"{list(scale)} is no range", "data.scale", "give [lowest, highest], say [0.5, 2.0]")
        for key, share in (("flip", flip), ("colour", colour), ("cat_max_ratio", cat_max_ratio)):
            if not 0 <= share <= 1:
                raise UserError(f"{share} is not between 0 and 1", f"data.{key}", "it is a probability or a share")
        self.scale, self.flip, self.colour = tuple(scale), flip, colour
        self.cat_max_ratio, self.ignore, self.hue = cat_max_ratio, ignore, hue

    def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene:
        window = self.choose(scene["labels"], rng)
        image = cut_image(scene["image"], window)
        if self.colour:
            image = change_colours(image, rng, self.colour, self.hue)
        labels = cut_labels(scene["labels"], window, self.ignore)
        cut = {**scene, "image": image.contiguous(), "labels": labels.contiguous()}
        if "instances" in scene:
            cut["instances"] = cut_labels(scene["instances"], window, -1).contiguous()
        return cut

    def choose(self, labels: Tensor, rng: np.random.Generator) -> Window:
        """A window for the picture of these labels [H, W]."""
        factor = rng.uniform(*self.scale)
        flip = bool(rng.random() < self.flip)
        for _ in range(TRIES):
            window = self.place(tuple(labels.shape), factor, flip, rng)
            if self.cat_max_ratio >= 1 or self.is_varied(window.rectangle(labels)):
                break
        return window

    def place(self, size: tuple[int, int], factor: float, flip: bool, rng: np.random.Generator) -> Window:
        starts, lengths, resized = [], [], []
        for side, crop in zip(size, self.crop):
            length = min(side, max(1, round(crop / factor)))
            starts.append(int(rng.integers(side - length + 1)))
            lengths.append(length)
            resized.append(crop if length < side else min(crop, max(LEAST, round(side * factor))))
        return Window(*starts, *lengths, tuple(resized), self.crop, flip)

    def is_varied(self, labels: Tensor) -> bool:
        """Whether no class has more than cat_max_ratio of the labelled pixels (of a grid of about 256 x 256)."""
        rows, columns = (max(1, side // GLANCE) for side in labels.shape)
        seen = labels[::rows, ::columns]
        counts = torch.bincount(seen.flatten().int() + 1)                         # -1, the ignored label of many classes, is 0
        counts[self.ignore + 1:self.ignore + 2] = 0
        return bool(counts.count_nonzero() > 1 and counts.max() <= self.cat_max_ratio * counts.sum())


def change_colours(image: Tensor, rng: np.random.Generator, probability: float, hue: float = 0.0) -> Tensor:
    """uint8 3 H W: brightness +-32, contrast and saturation times 0.5..1.5, hue +-`hue` degrees, each by chance."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())                 # H W 3
    table = np.arange(256, dtype=np.float32)
    if rng.random() < probability:
        table = (table + rng.uniform(-32, 32)).clip(0, 255)
    if rng.random() < probability:
        table = (table * rng.uniform(0.5, 1.5)).clip(0, 255)
    pixels = cv2.LUT(pixels, table.round().astype(np.uint8))
    if rng.random() < probability:
        amount = rng.uniform(0.5, 1.5)
        grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        pixels = cv2.addWeighted(pixels, amount, grey, 1 - amount, 0)
    if hue and rng.random() < probability:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)                             # OpenCV counts hue in 2 degrees
        turned = (np.arange(256) + round(rng.uniform(-hue, hue) / 2)) % 180
        hsv[..., 0] = cv2.LUT(np.ascontiguousarray(hsv[..., 0]), turned.astype(np.uint8))
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return torch.from_numpy(pixels).permute(2, 0, 1)
