"""Label maps at other sizes, and which word of a prompt each of their cells sees."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEAREST, ANY = REDUCTIONS = ("nearest", "any")
FREE = -1                                # the class of a token that speaks of no class: every cell sees it
HIDDEN = -2                              # of a token that no cell sees


def resized(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., H, W] -> [..., H', W'], the sides apart: each new pixel has the label at its middle."""
    y, x = ((2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new) for new, old in zip(size, labels.shape[-2:]))
    return labels[..., y[:, None], x]


def resized_picture(image: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [..., 3, H, W] -> the same at another size, the sides apart, bicubically."""
    flat = image.reshape(-1, *image.shape[-3:]).float()
    found = F.interpolate(flat, size, mode="bicubic", antialias=True).round().clamp(0, 255).to(torch.uint8)
    return found.reshape(*image.shape[:-2], *size)


def visible(labels: Tensor, tokens: Tensor, size: tuple[int, int], reduce: str = NEAREST) -> Tensor:
    """Bool M h*w T: a cell sees the tokens of its class, and the free ones.

    labels: M H W; size: (h, w); tokens: M T, the class of each, FREE or HIDDEN. reduce, what the class of a cell is:
    nearest    that of one of its pixels, [i * H // h] (FreestyleNet's): small things vanish, their words are seen by no cell
    any        those of all its pixels: a cell may see the words of several classes
    """
    height, width = labels.shape[-2:]
    if reduce == ANY:
        here = torch.stack([_anywhere(one, each, size) for one, each in zip(labels, tokens)])                 # M h w T
    else:
        y, x = ((torch.arange(n, device=labels.device) * old) // n for n, old in zip(size, (height, width)))
        here = labels[:, y[:, None], x][..., None] == tokens[:, None, None]
    return (here | (tokens == FREE)[:, None, None]).flatten(1, 2)


def _anywhere(labels: Tensor, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool h w T: whether any of a cell's pixels is of the token's class."""
    found = torch.zeros(*size, len(tokens), dtype=torch.bool, device=labels.device)
    for label in tokens[tokens > FREE].unique():
        cells = F.adaptive_max_pool2d((labels == label).float()[None], size)[0] > 0                               # h w
        found |= cells[..., None] & (tokens == label)
    return found
