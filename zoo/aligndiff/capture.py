"""What a UNet attends to while it paints: running sums of the maps of a few wanted words.

    install(unet, Captured)
    capture = Capture(columns, grids_of((64, 64)))
    latents = sample(..., cross_attention_kwargs={"capture": capture})
    capture.mean((32, 32))                                  # R n 32 32

Kept are sums over steps, layers and heads, in fp32, of the wanted tokens only: bytes where whole maps would take gigabytes.
Self-attention is as fast as ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.diffusion.attention import Plain, attend, finish, project

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

PLACES = ("down", "up")                  # whose maps make masks (released code: not those of the middle)
LEVELS = 3                               # from the latents' own side to a quarter of it


def grids_of(size: tuple[int, int], levels: int = LEVELS) -> dict[int, tuple[int, int]]:
    """(h, w) of the UNet's finest levels for latents of `size`, by the number of their cells; each halves, rounding up."""
    grids, (height, width) = {}, size
    for _ in range(levels):
        grids[height * width] = (height, width)
        height, width = (height + 1) // 2, (width + 1) // 2
    return grids


@dataclass
class Capture:
    """columns: int64 R n, the wanted tokens of each of the batch's last R rows. grids: which levels, see `grids_of`; places: of
    which part of the UNet."""

    columns: Tensor
    grids: dict[int, tuple[int, int]]
    places: tuple[str, ...] = PLACES
    sums: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    counts: dict[tuple[str, int], int] = field(default_factory=dict)

    def wants(self, name: str, cells: int) -> bool:
        return cells in self.grids and place_of(name) in self.places

    def add(self, name: str, maps: Tensor) -> None:
        """maps: R cells n, mean over the heads."""
        key = place_of(name), maps.shape[1]
        self.sums[key] = self.sums[key] + maps.float() if key in self.sums else maps.float()
        self.counts[key] = self.counts.get(key, 0) + 1

    def mean(self, grid: tuple[int, int], places: tuple[str, ...] | None = None) -> Tensor:
        """R n h w: over all steps, and all layers of this side in these places."""
        cells = grid[0] * grid[1]
        keys = [key for key in self.sums if key[1] == cells and key[0] in (places or self.places)]
        total = sum(self.sums[key] for key in keys) / sum(self.counts[key] for key in keys)
        return total.transpose(1, 2).unflatten(-1, grid)

    def means(self) -> list[Tensor]:
        """Of every level that was met."""
        met = {cells for _, cells in self.sums}
        return [self.mean(grid) for cells, grid in self.grids.items() if cells in met]


def place_of(name: str) -> str:
    """down, mid or up."""
    return name.partition("_")[0]


class Captured(Plain):
    """Attention as it is; what the last rows' cells attend to is told to the capture."""

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, temb: Tensor | None = None, capture: Capture | None = None) -> Tensor:
        if encoder_hidden_states is None or capture is None or not capture.wants(self.name, hidden_states.shape[1]):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        q, k, v = project(attn, hidden_states, encoder_hidden_states)
        rows = len(capture.columns)
        capture.add(self.name, attention_to(attn, q[-rows:], k[-rows:], capture.columns))
        return finish(attn, attend(attn, q, k, v))


def attention_to(attn: Attention, q: Tensor, k: Tensor, columns: Tensor) -> Tensor:
    """How much of each cell's attention goes to the tokens `columns` R n: R cells n, mean over the heads. No more of the softmax
    than that is ever written."""
    q, k = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (q, k))              # R heads cells|T d
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    wanted = columns[:, None, None].expand(-1, *logits.shape[1:3], -1)
    return torch.exp(logits.gather(-1, wanted).float() - logits.float().logsumexp(-1, keepdim=True)).mean(1)
