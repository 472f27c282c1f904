"""The adapter's head without work that is not needed: the same maps to rounding, in a fraction of the time and memory.

What is saved, all of it exact:
- the 1 x 1 convolution of CLIP's features does not see the mask: once a picture;
- equal masks (after they are resized to the head's input) are computed once, and so are all empty ones;
- a cell whose surroundings hold nothing of a mask has the values it has for the empty mask, and one whose surroundings lie
  wholly inside has those of the mask that is 1 everywhere. Each block widens the surroundings by 3 cells. Only the other cells
  go through the linear layers (96 % of all work); the two references are computed where they save more than they cost;
- a few masks at a time.
"""

from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.mask_adapter.layers import shrink

if TYPE_CHECKING:
    from zoo.mask_adapter.layers import Block
    from zoo.mask_adapter.net import AdapterHead

EMPTY, FULL, OWN = 0, 1, 2                       # a cell is as for the empty mask, as for the full one, or of its own
MASKS, MASKS_ELSEWHERE = 8, 64                   # computed at once on the CPU, and on other devices
CELLS = 1024                                     # rows that go through the linear layers at once on the CPU
POOLED = 32                                      # masks pooled and projected at once


def maps(head: "AdapterHead", dense: Tensor, masks: Tensor, half: bool = False) -> tuple[Tensor, Tensor]:
    """dense D H W, masks N h w (bool or 0..1) -> maps U K H W of the different masks, and which N of them each mask has."""
    H, W = dense.shape[-2:]
    small = shrink(masks, (4 * H, 4 * W))
    if not len(small):
        return dense.new_zeros(0, head.maps, H, W), torch.zeros(0, dtype=torch.long, device=dense.device)
    different, which = torch.unique(small.flatten(1), dim=0, return_inverse=True)
    count = MASKS if dense.device.type == "cpu" else MASKS_ELSEWHERE
    with torch.autocast(dense.device.type, enabled=False):
        work = _Work(head, dense.float(), half)
        parts = different.view(-1, 4 * H, 4 * W).split(count)
        levels = work.plan(different.view(-1, 4 * H, 4 * W))
        found = [work.run(*part) for part in zip(parts, *(level.split(count) for level in levels))]
    return torch.cat(found), which


@dataclass
class _Reference:
    """A mask that is the same everywhere: its values after each block (H W C) and its maps (H W K)."""

    levels: list[Tensor]
    maps: Tensor


class _Work:
    """One picture's masks. Values are kept as N H W C: a cell is a row, as the linear layers want it."""

    def __init__(self, head: "AdapterHead", dense: Tensor, half: bool):
        self.head, self.half = head, half
        self.size = dense.shape[-2:]
        fuse, last = head.fuse, head.mask_downscaling[6]
        weight = fuse.weight.flatten(1)                                                 # C D
        self.patch = weight @ last.weight.flatten(1)                                    # C m
        self.base = F.linear(dense.flatten(1).T, weight, fuse.bias + weight @ last.bias).view(*self.size, -1)   # H W C
        self.references: dict[int, _Reference] = {}

    def plan(self, masks: Tensor) -> list[Tensor]:
        """Which cells are EMPTY, FULL or OWN after each block, N H W each. Makes the references that are worth their cost."""
        best = states(masks, (), len(self.head.blocks))
        whole = masks[0].numel() // 16 * len(self.head.blocks)
        least = rows(best)
        for kinds in ((EMPTY,), (FULL,), (EMPTY, FULL)):
            found = states(masks, kinds, len(self.head.blocks))
            if (cost := rows(found) + whole * len(kinds)) < least:
                best, least = found, cost
        for kind in (EMPTY, FULL):
            if any((level == kind).any() for level in best):
                self.references[kind] = self.reference(kind, masks)
        return best

    def reference(self, kind: int, masks: Tensor) -> _Reference:
        x, levels = self.start(torch.full_like(masks[:1], float(kind == FULL))), []
        for block in self.head.blocks:
            x = x + self.linears(block, self.mix(block, x).flatten(0, 2)).view_as(x)
            levels.append(x[0])
        return _Reference(levels, self.end(x[0]))

    def run(self, masks: Tensor, *levels: Tensor) -> Tensor:
        """masks n 4H 4W and their states -> maps n K H W."""
        x = self.start(masks)
        for i, (block, state) in enumerate(zip(self.head.blocks, levels)):
            own = (state == OWN).flatten().nonzero().flatten()
            if len(own) == state.numel():
                x = x + self.linears(block, self.mix(block, x).flatten(0, 2)).view_as(x)
                continue
            mixed, old = self.mix(block, x).flatten(0, 2)[own], x.flatten(0, 2)[own]
            x = self.known([reference.levels[i] for reference in self.references.values()], state)
            x.view(-1, x.shape[-1])[own] = old + self.linears(block, mixed)
        own = levels[-1] == OWN
        if own.all():
            return self.end(x).permute(0, 3, 1, 2)
        found = self.known([reference.maps for reference in self.references.values()], levels[-1])
        found[own] = self.end(x[own])
        return found.permute(0, 3, 1, 2)

    def known(self, values: list[Tensor], state: Tensor) -> Tensor:
        """n H W C of the references' values (H W C each) where a cell is as theirs; OWN cells hold anything."""
        if len(values) == 1:
            return values[0].expand(len(state), -1, -1, -1).clone()
        return torch.where((state == FULL)[..., None], values[1], values[0])

    def start(self, masks: Tensor) -> Tensor:
        """n 4H 4W -> n H W C, what the first block gets."""
        patches = self.head.mask_downscaling[:6](masks[:, None]).permute(0, 2, 3, 1)    # n H W m
        return F.linear(patches, self.patch) + self.base

    @staticmethod
    def mix(block: "Block", x: Tensor) -> Tensor:
        return block.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def linears(self, block: "Block", cells: Tensor) -> Tensor:
        """M C -> M C, some rows at a time."""
        with torch.autocast(cells.device.type, torch.bfloat16, enabled=self.half):
            parts = cells.split(CELLS) if cells.device.type == "cpu" else [cells]
            return torch.cat([block.cells(part).float() for part in parts]) if len(cells) else cells

    def end(self, x: Tensor) -> Tensor:
        """... C -> ... K."""
        return F.linear(self.head.norm.last(x), self.head.final.weight.flatten(1), self.head.final.bias)


# -- which cells are of their own --------------------------------------------------------------------------------------
def states(masks: Tensor, kinds: tuple[int, ...], blocks: int) -> list[Tensor]:
    """masks n 4H 4W -> n H W (uint8) after each block. kinds: the references that are used; without any all cells are OWN.

    A cell's patch is made of 7 x 7 pixels of the mask, a block's output of 7 x 7 cells of its input. What lies outside the grid
    is the same for every mask.
    """
    differs = {kind: window(masks != float(kind == FULL), stride=4) for kind in kinds}
    found = []
    for _ in range(blocks):
        differs = {kind: window(where, stride=1) for kind, where in differs.items()}
        state = torch.full_like(masks[:, ::4, ::4], OWN, dtype=torch.uint8)
        for kind, where in differs.items():
            state[~where] = kind
        found.append(state)
    return found


def window(where: Tensor, stride: int) -> Tensor:
    """n h w bool -> whether any of the 7 x 7 around holds."""
    return F.max_pool2d(where[:, None].float(), 7, stride, 3)[:, 0] > 0


def rows(levels: list[Tensor]) -> int:
    """Cells that go through the linear layers."""
    return sum(int((level == OWN).sum()) for level in levels)


# -- bf16 --------------------------------------------------------------------------------------------------------------
@lru_cache
def bf16_pays(device: str) -> bool:
    """Whether this device multiplies matrices faster in bf16 than in fp32; tried, since many processors only pretend."""
    x, weight = torch.randn(1024, 512, device=device), torch.randn(512, 512, device=device)
    seconds = {dtype: _seconds(x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.bfloat16] < seconds[torch.float32]


def _seconds(x: Tensor, weight: Tensor) -> float:
    """The best of five."""
    best = float("inf")
    for _ in range(6):
        start = perf_counter()
        (x @ weight).sum().item()
        best = min(best, perf_counter() - start)
    return best
