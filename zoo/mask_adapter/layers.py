"""Pieces that the head shares with its fast form."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of B C H W, at every position."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def last(self, x: Tensor) -> Tensor:
        """The same of ... C."""
        return F.layer_norm(x, (len(self.weight),), self.weight, self.bias, self.eps)


class Block(nn.Module):
    """ConvNeXt's: 7 x 7 of each channel alone, then at every cell a norm and two linear layers; added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cells(self.dwconv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def cells(self, x: Tensor) -> Tensor:
        """What is done at every cell alone, ... C -> ... C: nearly all of the work."""
        return self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(x))))


def shrink(masks: Tensor, size: tuple[int, int], chunk: int = 16) -> Tensor:
    """N h w, bool or float, to float N H W: bilinear without antialiasing, as the weights were trained; a few masks at a time."""
    if not len(masks):
        return masks.new_zeros(0, *size, dtype=torch.float32)
    parts = [F.interpolate(part[:, None].float(), size=size, mode="bilinear") for part in masks.split(chunk)]
    return torch.cat(parts)[:, 0]
