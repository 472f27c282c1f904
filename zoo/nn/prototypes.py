"""Segmentation by prototypes: the mean feature under a mask, and what of another picture looks like it. Nothing is trained.

    object_, rest = prototypes(support_features, support_masks)       # C each, of S shots
    alike = similarity(query_features, torch.stack([rest, object_]))  # B 2 h w; alike.argmax(1) is the answer

Masked average pooling and cosine similarity as in PANet (Wang et al., ICCV 2019).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_average(features: Tensor, weights: Tensor) -> Tensor:
    """The mean feature of each picture, every cell weighted: N C h w and N h w, not negative -> N C. No weight at all gives 0."""
    total = weights.sum((1, 2))[:, None]                              # N 1
    summed = torch.einsum("nchw,nhw->nc", features, weights.to(features.dtype))
    return summed / total.clamp(min=torch.finfo(features.dtype).tiny).to(features.dtype)


def cell_shares(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """What share of each feature cell a mask covers: N H W in {0, 1} -> N h w in 0..1. A small object is not lost."""
    return F.adaptive_avg_pool2d(masks.float()[:, None], size)[:, 0]


def prototypes(features: Tensor, masks: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean features of the object and of the rest over S shots, C each; every shot that shows some counts alike, or as much as
    `importance` S says.

    features: S C h w; masks: S H W in {0, 1}.
    """
    shares = cell_shares(masks, features.shape[-2:]).to(features.device)
    counts = features.new_ones(len(features)) if importance is None else importance.to(features)

    def average(weights: Tensor) -> Tensor:
        shows = counts * (weights.sum((1, 2)) > 0)                    # S
        total = shows.sum().clamp(min=torch.finfo(features.dtype).tiny)
        return (masked_average(features, weights) * shows[:, None]).sum(0) / total

    return average(shares), average(1 - shares)


def similarity(features: Tensor, kinds: Tensor) -> Tensor:
    """Cosine of every cell with K prototypes: B C h w and K C -> B K h w in -1..1; a prototype of 0 is like nothing."""
    return torch.einsum("bchw,kc->bkhw", F.normalize(features, dim=1), F.normalize(kinds, dim=1))
