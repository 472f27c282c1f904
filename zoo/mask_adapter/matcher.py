"""Which predicted masks train, each with the true mask whose class it takes (stage 2: the mixed masks)."""

import torch
import torch.nn.functional as F
from torch import Tensor

MATCHERS = ("described", "released", "hungarian")


def mask_iou(predicted: Tensor, truth: Tensor, threshold: float = 0.4) -> Tensor:
    """Q h w probabilities, G H W masks of any size -> Q G, the IoU at the predictions' size.

    The released code binarises the predictions at 0.4 here, whatever threshold is used elsewhere.
    """
    a = (predicted >= threshold).flatten(1).float()                                # Q hw
    b = (resized(truth, predicted.shape[-2:]) > 0.5).flatten(1).float()            # G hw
    overlap = a @ b.T
    return overlap / (a.sum(1)[:, None] + b.sum(1) - overlap + 1e-6)


def match(iou: Tensor, how: str, least: float, budget: int) -> Tensor:
    """Pairs (prediction, true mask) of an IoU matrix Q G, at most `budget` of them drawn at random: P 2.

    described: every pair with an IoU above `least`, so that one true mask trains many predictions (the paper's matcher).
    released: of these, one prediction drawn at random for each true mask (the authors' code).
    hungarian: each true mask with one prediction so that the sum of IoUs is largest, however small each is (no IoU matcher).
    """
    if how == "hungarian":
        pairs = _assigned(iou)
    else:
        pairs = (iou > least).nonzero()
        if how == "released":
            pairs = _one_for_each(pairs, iou.shape[1])
    return pairs if len(pairs) <= budget else pairs[torch.randperm(len(pairs), device=pairs.device)[:budget]]


def _one_for_each(pairs: Tensor, count: int) -> Tensor:
    """One of the pairs of each of `count` true masks, drawn at random, in the order of the true masks."""
    shuffled = pairs[torch.randperm(len(pairs), device=pairs.device)]
    found = [shuffled[shuffled[:, 1] == truth][:1] for truth in range(count)]
    return torch.cat([pairs[:0], *found])


def _assigned(iou: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(iou.detach().float().cpu().numpy(), maximize=True)
    return torch.tensor([*zip(rows.tolist(), columns.tolist())], dtype=torch.long, device=iou.device).view(-1, 2)


def resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """N H W of any type -> N h w float, bilinear without antialiasing, as everywhere in the released code."""
    if not len(masks):
        return masks.new_zeros((0, *size), dtype=torch.float32)
    return F.interpolate(masks[None].float(), size=tuple(size), mode="bilinear", align_corners=False)[0]
