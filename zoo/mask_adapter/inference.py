"""Masks and what they are taken for, to answers: semantic, panoptic, instances; at the picture's own size, by bands of rows.

Sections are of FC-CLIP (arXiv 2308.02487), whose ensemble and outputs the released code keeps. The ensemble is computed with
logarithms: the released product of powers underflows to NaN as soon as two logits are 103 apart.
Letters: Q masks, C classes, h w the masks' resolution, H W the picture's size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.inference import resize_rows, to_labels

BUDGET = 2**28                           # bytes a band of rows may take


# -- classes of the masks ----------------------------------------------------------------------------------------------
def ensemble(inside: Tensor, outside: Tensor, seen: Tensor, alpha: float, beta: float) -> Tensor:
    """Log probabilities ... C+1, void last (Sec. 3.3).

    inside: logits ... C+1 of the generator, whose vocabulary is the training's; outside: those of the adapter. seen: C bool.
    A class's score is p_inside^(1-w) p_outside^w with w = alpha where it is seen, beta where not. Void is the generator's.
    """
    inside, outside = inside.float(), outside.float()
    weight = torch.where(seen.to(inside.device), alpha, beta).to(inside)
    score = (1 - weight) * inside[..., :-1].log_softmax(-1) + weight * outside[..., :-1].log_softmax(-1)
    named, void = inside.log_softmax(-1).tensor_split([-1], -1)
    return torch.cat([score.log_softmax(-1) + named.logsumexp(-1, keepdim=True), void], -1)          # log(1 - void) is added


def adapter_only(outside: Tensor, void: bool = False) -> Tensor:
    """Log probabilities ... C+1 where no generator names the masks. void=False: each mask is something."""
    if void:
        return outside.float().log_softmax(-1)
    known = outside[..., :-1].float().log_softmax(-1)
    return torch.cat([known, torch.full_like(known[..., :1], -torch.inf)], -1)


def worth_naming(inside: Tensor, limit: float) -> Tensor:
    """inside ... Q C+1 -> ... Q bool: masks that the generator takes for void with less probability than `limit`.

    A mask paints at most 1 - void, so leaving out those beyond a limit of 0.99 changes a score by 0.01 a mask at most; the answer
    is then not exactly the same.
    """
    return inside.float().softmax(-1)[..., -1] < limit


# -- where masks are painted -------------------------------------------------------------------------------------------
@dataclass
class Canvas:
    """Masks as logits on the network's padded input, and the picture they are meant for."""

    masks: Tensor                               # Q h w
    padded: tuple[int, int]                     # the network's input, padding included
    inner: tuple[int, int]                      # the part of it that is the picture
    size: tuple[int, int]                       # H, W of the picture itself

    def rows(self, r0: int, r1: int) -> Tensor:
        """Q r1-r0 W logits: the masks are brought to the padded input, cut to the picture, then brought to its own size."""
        H, W = self.size
        if self.inner == self.size:
            return resize_rows(self.masks, self.padded, r0, r1)[..., :W]
        upper, lower, part = _taps(self.inner[0], H, r0, r1)
        first, last = int(upper[0]), int(lower[-1]) + 1
        near = resize_rows(self.masks, self.padded, first, last)[..., : self.inner[1]]   # Q n w
        wide = F.interpolate(near[:, None], size=(last - first, W), mode="bilinear")[:, 0]
        part = part[:, None].to(wide)
        return torch.lerp(wide[:, (upper - first).to(wide.device)], wide[:, (lower - first).to(wide.device)], part)

    def bands(self, columns: int) -> Iterator[tuple[int, int]]:
        """(first row, row after the last) of bands that take BUDGET bytes where `columns` floats are held for each pixel."""
        H, W = self.size
        step = max(1, BUDGET // (4 * W * max(columns, 1)))
        return ((r0, min(r0 + step, H)) for r0 in range(0, H, step))


def _taps(source: int, target: int, r0: int, r1: int) -> tuple[Tensor, Tensor, Tensor]:
    """For rows r0..r1 of `target` made of `source` ones by bilinear interpolation: the upper and lower row, the lower's part."""
    at = ((torch.arange(r0, r1, dtype=torch.float64) + 0.5) * (source / target) - 0.5).clamp(0, source - 1)
    upper = at.long()
    return upper, (upper + 1).clamp(max=source - 1), (at - upper).float()


# -- semantic ----------------------------------------------------------------------------------------------------------
def semantic_rows(log_probs: Tensor, canvas: Canvas, r0: int, r1: int) -> Tensor:
    """C r1-r0 W: of each pixel the sum over the masks of class probability times mask probability."""
    return torch.einsum("qc,qrw->crw", log_probs[:, :-1].float().exp(), canvas.rows(r0, r1).sigmoid())


def semantic(log_probs: Tensor, canvas: Canvas) -> Tensor:
    """H W labels, uint8, or int32 for more than 255 classes."""
    Q, C = log_probs.shape[0], log_probs.shape[1] - 1
    return torch.cat([to_labels(semantic_rows(log_probs, canvas, r0, r1)) for r0, r1 in canvas.bands(3 * Q + C)])


def paint(log_probs: Tensor, masks: Tensor, ignore: int) -> Tensor:
    """H W labels of masks N H W (bool) at the picture's size; where they overlap the probabilities are added up.

    A pixel that no mask covers is `ignore`.
    """
    N, C = len(masks), log_probs.shape[1] - 1
    probs, (H, W) = log_probs[:, :-1].float().exp(), masks.shape[-2:]
    found = []
    for r0, r1 in Canvas(masks, (H, W), (H, W), (H, W)).bands(2 * N + C):
        covers = masks[:, r0:r1]
        labels = to_labels(torch.einsum("nc,nrw->crw", probs, covers.float())) if N else probs.new_zeros(r1 - r0, W)
        labels = labels.to(torch.uint8 if C <= 255 else torch.int32)
        found.append(labels.masked_fill(~covers.any(0), ignore))
    return torch.cat(found)


# -- panoptic ----------------------------------------------------------------------------------------------------------
def panoptic(
    log_probs: Tensor, canvas: Canvas, things: set[int] | None = None, object_threshold: float = 0.0, overlap: float = 0.8
) -> tuple[Tensor, list[dict]]:
    """H W int32 segment numbers from 1 (0: none), and of each {"id", "isthing", "category_id"} (Mask2Former's rule).

    things: classes whose segments stay apart; segments of one other class become one. None: all are things. A mask is kept if its
    best answer is a class and more likely than object_threshold, and if at least the part `overlap` of it is not won by others.
    """
    scores, labels = log_probs.float().exp().max(-1)
    kept = ((labels < log_probs.shape[1] - 1) & (scores > object_threshold)).nonzero().flatten()
    H, W = canvas.size
    if not len(kept):
        return torch.zeros(H, W, dtype=torch.int32), []
    labels, best = labels[kept].tolist(), Canvas(canvas.masks[kept], canvas.padded, canvas.inner, canvas.size)
    winners, areas = _compete(scores[kept], best)
    number = torch.zeros(len(kept) + 1, dtype=torch.int32)                               # of each mask; the last: nothing
    segments: list[dict] = []
    merged: dict[int, int] = {}
    for k, label in enumerate(labels):
        won, whole, both = areas[:, k].tolist()
        if not (won and whole and both) or won / whole < overlap:
            continue
        isthing = things is None or label in things
        if not isthing and label in merged:
            number[k] = merged[label]
            continue
        segments.append({"id": len(segments) + 1, "isthing": isthing, "category_id": label})
        number[k] = len(segments)
        if not isthing:
            merged[label] = len(segments)
    return number[winners.long()], segments


def _compete(scores: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """H W: which mask wins a pixel and holds it (the number of masks: none); 3 Q: pixels won, held, and both."""
    Q = len(scores)
    areas, found = torch.zeros(3, Q, dtype=torch.long), []
    for r0, r1 in canvas.bands(4 * Q):
        masks = canvas.rows(r0, r1).sigmoid()                                           # Q r W
        winner = (scores[:, None, None] * masks).max(0).indices
        holds = masks >= 0.5
        held = holds.gather(0, winner[None])[0]
        winner_and_held = winner.masked_fill(~held, Q)
        areas[0] += winner.flatten().bincount(minlength=Q).cpu()
        areas[1] += holds.flatten(1).sum(1).cpu()
        areas[2] += winner_and_held.flatten().bincount(minlength=Q + 1)[:Q].cpu()
        found.append(winner_and_held.to(torch.int32).cpu())
    return torch.cat(found), areas


# -- instances ---------------------------------------------------------------------------------------------------------
@dataclass
class Instances:
    """The likeliest pairs of mask and class, best first. Several may share a mask."""

    scores: Tensor                              # I
    classes: Tensor                             # I
    which: Tensor                               # I, index into masks
    masks: Tensor                               # q H W bool


def instances(log_probs: Tensor, canvas: Canvas, things: set[int] | None = None, top: int = 100) -> Instances:
    """The `top` pairs of highest class probability, of which those of `things` stay (None: all of them).

    A pair's score is that probability times the mask's mean probability inside itself.
    """
    probs = log_probs[:, :-1].float().exp()
    C = probs.shape[1]
    values, places = probs.flatten().topk(min(top, probs.numel()))
    queries, classes = places // C, places % C
    if things is not None:
        keep = torch.isin(classes, torch.tensor(sorted(things), device=classes.device))
        values, queries, classes = values[keep], queries[keep], classes[keep]
    different, which = queries.unique(return_inverse=True)
    sums, masks = torch.zeros(2, len(different), device=probs.device), []
    best = Canvas(canvas.masks[different], canvas.padded, canvas.inner, canvas.size)
    for r0, r1 in best.bands(4 * len(different)):
        logits = best.rows(r0, r1)
        inside = logits > 0
        sums += torch.stack([(logits.sigmoid() * inside).sum((1, 2)), inside.sum((1, 2))])
        masks.append(inside.cpu())
    scores = values * (sums[0] / (sums[1] + 1e-6))[which]
    order = scores.argsort(descending=True)
    return Instances(scores[order], classes[order], which[order], torch.cat(masks, 1))
