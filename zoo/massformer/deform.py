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
    Returns B Cout H W. Positions are kept in fp32 whatever the type of x.
    """
    B, _, H, W = x.shape
    Cout, Cin, k, _ = weight.shape
    rows = x.permute(0, 2, 3, 1).reshape(B * H * W, Cin)
    taps = weight.flatten(2).permute(2, 1, 0)                                           # kk Cin Cout
    together = max(1, table_numbers // (B * H * W * Cout))
    out = None
    for start in range(0, k * k, together):
        stop = min(start + together, k * k)
        index, share = _corners(offset[:, 2 * start : 2 * stop], modulation[:, start:stop], start, k)
        table = rows @ taps[start:stop].transpose(0, 1).reshape(Cin, -1)                # BHW g*Cout
        table = table.view(B * H * W * (stop - start), Cout)
        part = weighted_rows(table, index, share.to(table.dtype))
        out = part if out is None else out + part
    return out.view(B, H, W, Cout).permute(0, 3, 1, 2)


def weighted_rows(table: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """out[p] = sum_j share[p, j] table[index[p, j]]. table: M C; index (int32), share: P n -> P C."""
    if table.device.type == "cpu" and table.dtype == torch.float32 and torch.is_grad_enabled():
        return _WeightedRows.apply(table, index, share)
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=share)


class _WeightedRows(torch.autograd.Function):
    """The table's gradient is a weighted sum of rows as well, those of the output's gradient; bringing the indices into
    its order by counting (scipy) instead of sorting makes the backward pass 2 to 3 times faster on a CPU."""

    @staticmethod
    def forward(ctx, table: Tensor, index: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, share)
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=share)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        table, index, share = ctx.saved_tensors
        P, n = index.shape
        grad, start = grad.contiguous(), torch.arange(0, P * n, n, dtype=torch.int32)
        of_share = torch.ops.aten._embedding_bag_per_sample_weights_backward(grad, table, index.flatten(), start, start[:0], 0)
        rows = csr_matrix((share.numpy().ravel(), index.numpy().ravel(), np.arange(0, P * n + 1, n)), (P, len(table))).tocsc()
        order, ends, shares = (torch.from_numpy(a) for a in (rows.indices, rows.indptr, rows.data))
        of_table = F.embedding_bag(order, grad, ends[:-1].to(order.dtype), mode="sum", per_sample_weights=shares)
        return of_table, None, of_share.view(P, n)


def _corners(offset: Tensor, modulation: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """Rows of the table and their weights: the four corners of each of g taps from `start`. Both BHW x 4g."""
    B, g, H, W = modulation.shape
    device = offset.device
    tap = torch.arange(start, start + g, device=device, dtype=torch.int32)
    offset = offset.float().view(B, g, 2, H, W).permute(2, 0, 3, 4, 1)                  # 2 B H W g
    y = offset[0] + torch.arange(H, device=device).view(1, H, 1, 1) + (tap // k - k // 2)
    x = offset[1] + torch.arange(W, device=device).view(1, 1, W, 1) + (tap % k - k // 2)
    top, left = y.floor().detach(), x.floor().detach()
    fy, fx = y - top, x - left
    modulation = modulation.float().permute(0, 2, 3, 1)                                 # B H W g
    picture = torch.arange(B, device=device, dtype=torch.int32).view(B, 1, 1, 1) * (H * W)
    index, share = [], []
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            row, column = top + dy, left + dx
            inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
            cell = row.clamp(0, H - 1).int() * W + column.clamp(0, W - 1).int()
            index.append((picture + cell) * g + (tap - start))
            share.append(wy * wx * modulation * inside)
    return torch.stack(index, -1).view(B * H * W, 4 * g), torch.stack(share, -1).view(B * H * W, 4 * g)
