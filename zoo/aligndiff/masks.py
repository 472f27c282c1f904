"""Attention maps to coarse masks (section 3.3 of the paper, its released code exactly, but for what wraps)."""

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.4                          # share of the brightest value from which a pixel is the object


def coarse_map(maps: list[Tensor], tokens: list[int], size: tuple[int, int]) -> Tensor:
    """R H W, of which cubic resizing may leave 0..1. maps: R n h w of each side; tokens: how many of a row's n are the word.

    Each side is resized (cubic) and divided by its own maximum; then the mean over the sides, and over the word's tokens.
    """
    grown = []
    for side in maps:
        resized = F.interpolate(side.float(), size, mode="bicubic", align_corners=False)              # R n H W
        grown.append(resized / resized.amax((-1, -2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny))
    mean = torch.stack(grown).mean(0)
    return torch.stack([row[:count].mean(0) for row, count in zip(mean, tokens)])


def to_bytes(maps: Tensor) -> Tensor:
    """uint8 of 0..1. Clipped before the cast: else what cubic resizing left below 0 would wrap round to white."""
    return (maps.clamp(0, 1) * 255).to(torch.uint8)


def foreground(values: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """bool of coarse bytes."""
    return values > int(255 * threshold)
