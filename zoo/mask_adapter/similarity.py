"""Vectors of the joint space against rows of text."""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_logits(embeddings: Tensor, text: Tensor, counts: list[int], scale: Tensor) -> Tensor:
    """embeddings N D, text T+1 D (the row of "no class" last), counts: rows of each of the C classes -> N C+1.

    scale: exp(logit_scale), already clamped. Text is taken as it is: MAFT+'s transfer gives rows that are not of unit length.
    """
    return best_of_synonyms(scale * F.normalize(embeddings, dim=-1) @ text.T, counts)


def best_of_synonyms(logits: Tensor, counts: list[int]) -> Tensor:
    """... T+1 -> ... C+1: the largest logit among the rows of a class; the last row stands for itself."""
    if max(counts, default=1) == 1:
        return logits
    owner = torch.arange(len(counts), device=logits.device).repeat_interleave(torch.tensor(counts, device=logits.device))
    owner = torch.cat([owner, owner.new_tensor([len(counts)])]).expand(logits.shape)
    best = logits.new_empty(*logits.shape[:-1], len(counts) + 1)
    return best.scatter_reduce(-1, owner, logits, "amax", include_self=False)
