"""Any size in, the picture's own size out: whole, by sliding windows, by bands of rows, averaged over flips and scales.

A `score` function takes pictures [B, 3, h, w] of any size, RGB 0..255 (uint8 or float), and returns scores
[B, K, h, w] that may be averaged (probability-like, not logits).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError

Score = Callable[[Tensor], Tensor]


class Scorer(Protocol):
    """What `Inference` asks of a method; pictures are where the method is."""

    def scores(self, images: Tensor) -> Tensor:
        """A `score` function, see the head of this file."""

    def label_map(self, image: Tensor, rows: int) -> Tensor:
        """Picture uint8 [3, H, W] -> labels [H, W] of one pass, holding full-size scores of `rows` rows at a time."""


@dataclass
class Inference:
    """How a picture is labelled.

    mode: `whole`, one pass; `bands`, one pass whose scores are brought to full size `rows` rows at a time, so that no
        K x H x W tensor exists; `slide`, windows of `window` pixels that share at least the part `overlap` with the
        next, weighted towards their centres when `feather` is set. `slide` holds K x window x W scores two times over.
    flip, scales: scores are averaged over mirrored and resized pictures, in `whole` and `slide`. This holds K x H x W
        float32 at least twice (K = 7 at 4096 x 3072: 352 MB each).
    """

    mode: str = "whole"
    window: int = 1024
    overlap: float = 0.5
    feather: bool = True
    flip: bool = False
    scales: Sequence[float] = (1.0,)
    rows: int = 256

    def __post_init__(self):
        self.scales = tuple(float(scale) for scale in self.scales)
        rules = {
            "mode": (self.mode in ("whole", "slide", "bands"), "be whole, slide or bands"),
            "window": (self.window >= 1, "be at least 1 pixel"),
            "overlap": (0 <= self.overlap < 1, "lie in 0..1, 1 excluded"),
            "scales": (len(self.scales) > 0 and min(self.scales, default=0) > 0, "be one or more positive factors"),
            "rows": (self.rows >= 1, "be at least 1"),
        }
        for key, (kept, rule) in rules.items():
            if not kept:
                raise UserError(f"{key}={getattr(self, key)} must {rule}", where="inference")
        if self.mode == "bands" and self.averages:
            raise UserError("flip and scales need scores at full size, which mode=bands never holds", where="inference",
                            mend="take inference.mode=whole or slide, or flip=false scales=[1.0]")

    @property
    def averages(self) -> bool:
        return self.flip or self.scales != (1.0,)

    @torch.inference_mode()
    def labels(self, method: Scorer, image: Tensor) -> Tensor:
        """Labels [H, W] of a picture uint8 [3, H, W]: uint8, or int32 for more than 255 classes."""
        if self.averages:
            return to_labels(tta(self._score(method), image[None], self.flip, self.scales)[0])
        if self.mode == "slide":
            windows = slide_rows(method.scores, image[None], self.window, self.overlap, self.feather)
            return torch.cat([to_labels(scores[0]) for scores in windows])
        return method.label_map(image, self.rows if self.mode == "bands" else image.shape[-2])

    def _score(self, method: Scorer) -> Score:
        if self.mode == "whole":
            return method.scores
        return lambda images: slide(method.scores, images, self.window, self.overlap, self.feather)


def to_labels(scores: Tensor) -> Tensor:
    """The best of K scores [K, h, w] -> [h, w], uint8 for up to 255 classes (255 is left for ignored), else int32."""
    best = scores.max(0).indices                                                   # several times as fast as argmax(0)
    return best.to(torch.uint8 if len(scores) <= 255 else torch.int32)


# -- windows -----------------------------------------------------------------------------------------------------------
def slide(score: Score, images: Tensor, window: int, overlap: float = 0.5, feather: bool = True) -> Tensor:
    """Scores [B, K, H, W] float32 from overlapping windows; a window that covers the picture gives `score(images)`."""
    return torch.cat(list(slide_rows(score, images, window, overlap, feather)), dim=2)


def slide_rows(score: Score, images: Tensor, window: int, overlap: float, feather: bool) -> Iterator[Tensor]:
    """The same from top to bottom, [B, K, rows, W] as soon as no further window touches them."""
    H, W = images.shape[-2:]
    h, w = min(window, H), min(window, W)
    tops, lefts = starts(H, h, overlap), starts(W, w, overlap)
    if len(tops) == len(lefts) == 1:
        yield score(images).float()
        return
    weight = window_weight(h, w, feather).to(images.device)
    left_over = None                                                             # rows that the next windows share
    for top, following in zip(tops, [*tops[1:], H], strict=True):
        total, weights = None, torch.zeros(h, W, device=images.device)
        for left in lefts:
            scores = score(images[..., top : top + h, left : left + w]).float()  # B K h w
            if total is None:
                total = scores.new_zeros(*scores.shape[:3], W)                   # B K h W
            total[..., left : left + w] += scores * weight
            weights[:, left : left + w] += weight
        if left_over is not None:
            shared = left_over[1].shape[0]
            total[..., :shared, :] += left_over[0]
            weights[:shared] += left_over[1]
        done = following - top
        yield total[..., :done, :] / weights[:done]
        left_over = total[..., done:, :], weights[done:]


def starts(size: int, window: int, overlap: float) -> list[int]:
    """First pixels of evenly spread windows that cover `size` and share at least `overlap` of a window."""
    stride = max(1, int(window * (1 - overlap)))
    count = -(-(size - window) // stride) + 1
    return [round(i * (size - window) / max(count - 1, 1)) for i in range(count)]


def window_weight(height: int, width: int, feather: bool) -> Tensor:
    """Weights of a window's pixels [h, w]: 1, or falling linearly to the borders (never 0)."""
    if not feather:
        return torch.ones(height, width)
    ramps = [torch.minimum(torch.arange(n) + 1, n - torch.arange(n)) / ((n + 1) // 2) for n in (height, width)]
    return ramps[0][:, None] * ramps[1]


# -- averages ----------------------------------------------------------------------------------------------------------
def tta(score: Score, images: Tensor, flip: bool, scales: Sequence[float]) -> Tensor:
    """Mean scores [B, K, H, W] float32 over the scaled pictures, each also mirrored left to right when `flip`."""
    size = images.shape[-2:]
    total: Tensor | float = 0.0
    for scale in scales:
        scaled = images if scale == 1 else resize(images.float(), [max(1, round(n * scale)) for n in size])
        for view, restore in ((scaled, lambda s: s), (scaled.flip(-1), lambda s: s.flip(-1)))[: 1 + flip]:
            scores = restore(score(view).float())
            total += scores if scores.shape[-2:] == size else resize(scores, size)
    return total / (len(scales) * (1 + flip))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)


# -- bands of rows -----------------------------------------------------------------------------------------------------
def bands(scores: Callable[[int, int], Tensor], height: int, rows: int) -> Tensor:
    """Labels [H, W] from `scores(r0, r1)` -> [K, r1 - r0, W], called for `rows` rows at a time."""
    return torch.cat([to_labels(scores(r0, min(r0 + rows, height))) for r0 in range(0, height, rows)])


def resize_rows(x: Tensor, size: tuple[int, int], r0: int, r1: int) -> Tensor:
    """Rows r0..r1 of F.interpolate(x, size, mode="bilinear", align_corners=False), to float32's rounding.

    x: [..., h, w] -> float32 [..., r1 - r0, W]. Only the rows of x that are needed are widened.
    """
    H, W = size
    h = x.shape[-2]
    scale = float(torch.tensor(h, dtype=torch.float32) / H)                        # rounded where F.interpolate rounds
    at = ((torch.arange(r0, r1, dtype=torch.float64) + 0.5) * scale - 0.5).clamp(0, h - 1).float()
    upper = at.long()
    lower = (upper + 1).clamp(max=h - 1)
    first, last = int(upper[0]), int(lower[-1]) + 1
    source = x[..., first:last, :].float().reshape(-1, 1, last - first, x.shape[-1])
    wide = F.interpolate(source, size=(last - first, W), mode="bilinear", align_corners=False)
    wide = wide.reshape(*x.shape[:-2], last - first, W)
    part = (at - upper)[:, None].to(x.device)
    upper, lower = ((index - first).to(x.device) for index in (upper, lower))
    return torch.lerp(wide.index_select(-2, upper), wide.index_select(-2, lower), part)
