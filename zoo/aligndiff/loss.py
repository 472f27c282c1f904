"""Eq. 3: the error of the noise on an object and around it, each a mean over its own area."""

import torch
import torch.nn.functional as F
from torch import Tensor

FOREGROUND = 0.3                         # grey value from which a cell is the object (released code)
NORMALISED, UNNORMALISED, NONE = MASKINGS = ("normalised", "unnormalised", "none")


def cells_of(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """bool B h w: which latent cells are the object. masks: B H W, 0..1, at the pictures' own size.

    By nearest, straight to the cells. A region that nearest loses (a small object, or little background) keeps every cell of
    which it covers some: then neither mean is one over nothing.
    """
    masks = masks.float()[:, None]
    cells = F.interpolate(masks, size, mode="nearest")[:, 0] > FOREGROUND
    marked = (masks > FOREGROUND).float()
    touched, whole = F.adaptive_max_pool2d(marked, size)[:, 0] > 0, -F.adaptive_max_pool2d(-marked, size)[:, 0] > 0
    nothing, everything = ~cells.flatten(1).any(1), cells.flatten(1).all(1)
    cells = torch.where(nothing[:, None, None], touched, cells)
    return torch.where(everything[:, None, None], whole, cells)


def masked_loss(answer: Tensor, target: Tensor, foreground: Tensor, bg_lambda: float = 0.6, masking: str = NORMALISED) -> Tensor:
    """B losses, each with its own mask. answer, target: B C h w; foreground: bool B h w.

    The error is the square, mean over the channels. normalised: its mean on the foreground plus bg_lambda times that on the
    background; a region without cells weighs nothing. unnormalised: one mean, background cells weighing bg_lambda. none: one
    mean over all, plain textual inversion.
    """
    error = (answer.float() - target.float()).square().mean(1)                            # B h w
    if masking == NONE:
        return error.mean((1, 2))
    on, around = foreground.float(), (~foreground).float()
    if masking == UNNORMALISED:
        return (error * (on + bg_lambda * around)).mean((1, 2))
    return area_mean(error, on) + bg_lambda * area_mean(error, around)


def area_mean(error: Tensor, region: Tensor) -> Tensor:
    """B, of B h w each; 0 where the region is empty."""
    return (error * region).sum((1, 2)) / region.sum((1, 2)).clamp(min=1)
