"""An episode as pictures: what is asked, the examples, what is true, what is answered."""

import numpy as np
import torch
from torch import Tensor

from zoo.visualize import enlarged, overlay, to_picture

DARK = 0.75                                                  # how much of what a mask leaves out is black


def pictures_of(episode: dict, answers: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """H W 3 by caption. answers: masks h w of the query, by caption."""
    query = to_picture(episode["query"])
    shown = {"query": query}
    for shot, (picture, mask) in enumerate(zip(episode["supports"], episode["support_masks"]), 1):
        shown[f"support {shot}"] = cut_out(to_picture(picture), mask)
    for caption, mask in ({"truth": episode["query_mask"]} | answers).items():
        shown[caption] = cut_out(query, mask)
    return {caption: enlarged(picture) for caption, picture in shown.items()}


def cut_out(picture: np.ndarray, mask: np.ndarray | Tensor) -> np.ndarray:
    """H W 3, dark but for what a mask H W marks by 1: no colour would stand out on every object."""
    marked = torch.as_tensor(mask).cpu().numpy() == 1
    return overlay(picture, np.where(marked, 255, 0), [(0, 0, 0)], DARK)
