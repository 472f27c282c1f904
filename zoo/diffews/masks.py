"""Masks as pictures, white on black (the paper's best, section 4.3), and back; what is no usable support."""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError

IGNORE = 255


def binary(mask: Tensor, where: object = "mask") -> Tensor:
    """bool, of a mask of any shape that is 0 where the object is not and one other number (1, 255, True, ...) where it is."""
    values = [value for value in mask.unique().tolist() if value != 0]
    if len(values) > 1:
        shown = ", ".join(f"{value:g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")
        raise UserError(f"a mask with the values {shown} beside 0", where, "give 0 and one other number, as 0 and 255")
    return mask != 0


def check_support(pictures: Tensor, masks: Tensor, where: object = "support") -> None:
    """Refuses what cannot be an example: uint8 pictures S 3 H W; masks S H W of 0 and 1, 255 where nobody says."""
    if not len(pictures):
        raise UserError("0 shots", where, "give at least one picture with its mask")
    if len(pictures) != len(masks):
        raise UserError(f"{len(pictures)} pictures, {len(masks)} masks", where, "give one mask a picture")
    if pictures.shape[-2:] != masks.shape[-2:]:
        (h, w), (mask_h, mask_w) = pictures.shape[-2:], masks.shape[-2:]
        raise UserError(f"a picture of {w}x{h} with a mask of {mask_w}x{mask_h}", where, "give a mask of the picture's size")
    for number, mask in enumerate(masks, 1):
        place = f"{where}, shot {number}" if len(masks) > 1 else where
        binary(mask.masked_fill(mask == IGNORE, 0), place)
        if not (mask == 1).any():
            raise UserError("an empty mask: it shows nothing of the object", place, "give a mask with some of it")


def draw_masks(masks: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] of masks [..., H, W]: white where they are 1 (or True), black elsewhere, also where nobody says."""
    return ((masks == 1).to(torch.uint8) * 255).unsqueeze(-3).repeat_interleave(3, -3)


def picture(output: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """uint8 B 3 H W of a decoder's output B 3 h w, about -1..1: cut off, brought to `size` (H, W) if given, truncated."""
    output = output.float().clamp(-1, 1)
    if size is not None and tuple(size) != tuple(output.shape[-2:]):
        output = F.interpolate(output, size, mode="bilinear", align_corners=False)
    return ((output * 0.5 + 0.5) * 255).to(torch.uint8)


def foreground(pictures: Tensor, threshold: float = 0.25, relative: bool = True) -> Tensor:
    """bool B H W of uint8 pictures B 3 H W: where the mean over RGB is above the threshold, a share of the picture's largest
    value (of any channel, as in the released code; the paper's A.4 has that of the means) or, not relative, of 255.

    Nothing of a black picture is foreground.
    """
    largest = pictures.flatten(1).amax(1).double()[:, None, None] if relative else 255
    return pictures.sum(1).double() > 3 * threshold * largest    # sums are whole numbers: no tie is decided by rounding
