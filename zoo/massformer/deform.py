"""Modulated deformable convolution (DCNv2) without a compiled operator, exact.

    out[o, p] = sum_t m_t(p) * sum_c w[o, c, t] * X_c(p + r_t + d_t(p))          X bilinear, 0 outside the map

Sampling mixes positions and never channels, a tap's weight mixes channels and never positions, so the two commute:
first T_t = W_t X for every tap (one matrix product), then a weighted sum of four rows of T_t per tap and position,
which is what `embedding_bag` computes. The gather touches Cout contiguous numbers a row, on all threads.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor

TABLE_NUMBERS = 2**26  # taps are taken together while their table stays below this many numbers (256 MiB in fp32)


def deform_conv2d(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, table_numbers: int = TABLE_NUMBERS):
    """Stride 1, dilation 1, padding k // 2, one offset group; the same as `torchvision.ops.deform_conv2d`.

    x: B Cin H W; offset: B 2kk H W, (dy, dx) of each tap, taps row by row; modulation: B kk H W; weight: Cout Cin k k.
    Returns B Cout H W in the type of x. Positions are kept in fp32 whatever that is.
    """
    if torch.onnx.is_in_onnx_export():
        return operator_form(x, offset, modulation, weight)
    B, _, H, W = x.shape
    Cout, Cin, k, _ = weight.shape
    rows = x.permute(0, 2, 3, 1).reshape(B * H * W, Cin)
    taps = weight.flatten(2).permute(1, 2, 0)                                           # Cin kk Cout
    plain_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    symbolic = torch.compiler.is_compiling()                                            # sizes are not known: a row of taps
    sums = _TapSums.apply if plain_cpu and torch.is_grad_enabled() and not symbolic else tap_sums
    together = k if symbolic else max(1, table_numbers // (B * H * W * Cout))
    out = None
    for start in range(0, k * k, together):
        stop = min(start + together, k * k)
        part = sums(rows, taps[:, start:stop], offset[:, 2 * start : 2 * stop], modulation[:, start:stop], start, k)
        out = part if out is None else out + part
    return out.view(B, H, W, Cout).permute(0, 3, 1, 2)


def operator_form(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """The same as one operator, which ONNX has too (DeformConv, opset 19), while `embedding_bag` would become a slow loop."""
    from torchvision.ops import deform_conv2d as operator

    return operator(x, offset, weight, padding=int(weight.shape[-1]) // 2, mask=modulation)


def tap_sums(rows: Tensor, taps: Tensor, offset: Tensor, modulation: Tensor, start: int, k: int) -> Tensor:
    """What g taps from `start` bring. rows: BHW Cin, taps: Cin g Cout, offset: B 2g H W, modulation: B g H W -> BHW Cout."""
    table, (index, share) = table_of(rows, taps), places(offset, modulation, start, k)
    return weighted_rows(table, index, share.to(table.dtype))


def table_of(rows: Tensor, taps: Tensor) -> Tensor:
    """M Cin and Cin g Cout -> M*g Cout."""
    return (rows @ taps.flatten(1)).view(-1, taps.shape[-1])


def places(offset: Tensor, modulation: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """Rows of the table, and their weights, that make each position's sum: both BHW 4g."""
    B, g, H, W = modulation.shape
    cells, shares = corners(offset, modulation, start, k)
    picture = torch.arange(B, device=cells.device, dtype=torch.int32).view(B, 1, 1, 1, 1) * (H * W)
    tap = torch.arange(g, device=cells.device, dtype=torch.int32)[:, None]
    return ((picture + cells) * g + tap).flatten(0, 2).flatten(1), shares.flatten(0, 2).flatten(1)


def weighted_rows(table: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """out[p] = sum_j share[p, j] table[index[p, j]]. table: M C; index (int32), share: P n -> P C."""
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=share)


class _TapSums(torch.autograd.Function):
    """`tap_sums` that keeps its arguments alone: table and places are many times as large, and soon made again.

    The table's gradient is a weighted sum of rows as well, those of the output's gradient; bringing the indices into
    its order by counting (scipy) instead of sorting makes the backward pass 2 to 3 times faster on a CPU."""

    @staticmethod
    def forward(ctx, rows: Tensor, taps: Tensor, offset: Tensor, modulation: Tensor, start: int, k: int) -> Tensor:
        ctx.save_for_backward(rows, taps, offset, modulation)
        ctx.window = start, k
        return tap_sums(rows, taps, offset, modulation, start, k)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        rows, taps, *moved = ctx.saved_tensors
        with torch.enable_grad():
            moved = [t.detach().requires_grad_() for t in moved]
            index, share = places(*moved, *ctx.window)
        P, n = index.shape
        grad, start, size = grad.contiguous(), torch.arange(0, P * n, n, dtype=torch.int32), (P, len(rows) * taps.shape[1])
        of_share = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, table_of(rows, taps), index.flatten(), start, start[:0], 0
        )
        of_moved = torch.autograd.grad(share, moved, of_share.view(P, n))
        share = share.detach()
        order = csr_matrix((share.numpy().ravel(), index.numpy().ravel(), np.arange(0, P * n + 1, n)), size).tocsc()
        of, ends, shares = (torch.from_numpy(a) for a in (order.indices, order.indptr, order.data))
        of_table = F.embedding_bag(of, grad, ends[:-1].to(of.dtype), mode="sum", per_sample_weights=shares).view(len(rows), -1)
        return of_table @ taps.flatten(1).T, (rows.T @ of_table).view(taps.shape), *of_moved, None, None


def corners(
    offset: Tensor, modulation: Tensor, start: int, k: int, first_row: int = 0, height: int | None = None
) -> tuple[Tensor, Tensor]:
    """The four corners of each of g taps from `start`: their cells (row * W + column, int32) and weights, both B H W g 4.

    offset: B 2g H W, modulation: B g H W, of the rows from `first_row` on of a map of `height` rows (the whole map by default).
    """
    B, g, H, W = modulation.shape
    device = offset.device
    tap = torch.arange(start, start + g, device=device)
    offset = offset.float().view(B, g, 2, H, W).permute(2, 0, 3, 4, 1)                  # 2 B H W g
    y = offset[0] + (torch.arange(H, device=device).view(1, H, 1, 1) + (first_row + tap // k - k // 2))
    x = offset[1] + (torch.arange(W, device=device).view(1, 1, W, 1) + (tap % k - k // 2))
    rows, row_shares = neighbours(y, height or H)
    columns, column_shares = neighbours(x, W)
    modulation = modulation.float().permute(0, 2, 3, 1)                                 # B H W g
    row_shares = [share * modulation for share in row_shares]
    cells = torch.stack([row * W + column for row in rows for column in columns], -1)
    return cells, torch.stack([row * column for row in row_shares for column in column_shares], -1)


def neighbours(at: Tensor, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """The whole numbers below and above, kept within 0..size-1, and their weights: 0 for one that lies outside."""
    below = at.floor().detach()
    part = at - below
    numbers = [below + i for i in (0, 1)]
    shares = [share * ((n >= 0) & (n < size)) for n, share in zip(numbers, (1 - part, part))]
    return [n.clamp(0, size - 1).int() for n in numbers], shares
