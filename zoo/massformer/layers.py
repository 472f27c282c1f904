"""The small blocks of MaSSFormer: convolutions with norm, the deformable layer, attention, position encoding."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.massformer.deform import deform_conv2d


def resize(x: Tensor, size) -> Tensor:
    """Bilinear, align_corners=False, no antialias: the one kind of resizing in this net."""
    return F.interpolate(x, tuple(size), mode="bilinear")


class ConvBNReLU(nn.Sequential):
    """1x1 convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight, a=1)
        super().__init__()
        self.conv, self.bn, self.relu = conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


class Deformable(nn.Module):
    """Modulated deformable convolution, batch norm, ReLU; offsets and modulation come from its own input."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3):
        super().__init__()
        self.taps = kernel**2
        self.offset = nn.Conv2d(inputs, 3 * self.taps, kernel, padding=kernel // 2)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bn = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        offset, modulation = self.offset(x).split((2 * self.taps, self.taps), 1)
        return F.relu(self.bn(deform_conv2d(x, offset, modulation.sigmoid(), self.weight)), inplace=True)


class Upsample(nn.Module):
    """Twice the size by a 4x4 transposed convolution, batch norm, ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class SqueezeGate(nn.Module):
    """x (1 + gate) with one gate a channel. The sigmoid stands twice, as in the released net: its weights need it."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(width, width // 2, 1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // 2, width, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = self.mlp(x.mean((-2, -1), keepdim=True)).sigmoid().sigmoid()             # B C 1 1
        return x + x * gate


class Attention(nn.Module):
    """Multi-head attention with biases. q: B L C; k, v: B T C; free: B 1 L T, True where a query may look."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)                                      # rows: q, k, v
        self.out_proj = nn.Linear(width, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, free: Tensor | None = None) -> Tensor:
        projected = [
            F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)           # B heads L C/heads
            for x, w, b in zip((q, k, v), self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3))
        ]
        mixed = F.scaled_dot_product_attention(*projected, attn_mask=free)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    def __init__(self, width: int, hidden: int, activation: type[nn.Module]):
        super().__init__(nn.Linear(width, hidden), activation(), nn.Linear(hidden, width))


def sine_position(height: int, width: int, channels: int, device) -> Tensor:
    """`channels` x height x width, y first. Rows count 1..height and are normalised by the last to 0..2 pi."""

    def axis(n: int) -> Tensor:
        count = torch.arange(1, n + 1, device=device, dtype=torch.float32) / (n + 1e-6) * 2 * math.pi
        j = torch.arange(channels // 2, device=device)
        angle = count[:, None] / 10000 ** (2 * (j // 2) / (channels // 2))
        return torch.where(j % 2 == 0, angle.sin(), angle.cos()).T                      # C/2 n

    y, x = axis(height), axis(width)
    return torch.cat([y[:, :, None].expand(-1, -1, width), x[:, None, :].expand(-1, height, -1)])
