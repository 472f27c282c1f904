"""MaSSFormer's losses: matched masks on sampled points with edge-weighted BCE, and the edge map (paper, section 4.4).

N masks of one picture, P points; points are (x, y) in [0, 1)^2 of the label map.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

EDGE_KERNEL = 5


@dataclass
class Target:
    """One label map as masks."""

    classes: Tensor     # N, ascending
    masks: Tensor       # N H W in {0, 1}
    ignored: Tensor     # H W in {0, 1}: 1 where the label is ignored; such points weigh nothing

    @classmethod
    def of(cls, labels: Tensor, ignore: int) -> "Target":
        """labels: H W. A class without pixels has no mask; an all-ignored map has none at all."""
        classes = labels.unique()
        classes = classes[classes != ignore].long()
        return cls(classes, (labels == classes[:, None, None]).float(), (labels == ignore).float())


def sample(maps: Tensor, points: Tensor, outside: str = "zeros") -> Tensor:
    """Bilinear samples; outside the map 0 or (outside="border") its border. maps: N C h w, points: N P 2 -> N C P, fp32."""
    return F.grid_sample(maps.float(), 2 * points[:, None] - 1, padding_mode=outside, align_corners=False)[:, :, 0]


def edge_weight(masks: Tensor) -> Tensor:
    """W = |mean over 5x5 - G| (the code's form of the paper's Eq. for W), N H W; the border counts as outside."""
    pooled = F.avg_pool2d(masks[:, None], EDGE_KERNEL, 1, EDGE_KERNEL // 2)[:, 0]
    return (pooled - masks).abs()


def edge_target(labels: Tensor, ignore: int) -> Tensor:
    """Class boundaries two to three pixels wide, B H W in {0, 1}; a neighbour that is ignored makes none."""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    known = labels != ignore

    def mark(here: tuple, there: tuple) -> None:
        edge[here] |= (labels[here] != labels[there]) & known[here] & known[there]

    all_, head, tail = slice(None), slice(None, -1), slice(1, None)
    mark((all_, tail, all_), (all_, head, all_))        # from the row above
    mark((all_, all_, head), (all_, all_, tail))        # from the column to the right
    mark((all_, head, head), (all_, tail, tail))        # from below right
    mark((all_, head, tail), (all_, tail, head))        # from below left
    padded = F.pad(edge.float()[:, None], (1, 0, 1, 0))
    return F.max_pool2d(padded, 2, 1)[:, 0]


def edge_loss(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Mean BCE over pixels that are not ignored (0 where there are none). logits: B 1 h w, labels: B H W."""
    logits = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear")[:, 0]
    valid = (labels != ignore).float()
    loss = F.binary_cross_entropy_with_logits(logits, edge_target(labels, ignore), reduction="none")
    return (loss * valid).sum() / valid.sum().clamp(min=1)


def mask_loss(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Sum over masks of the mean over points of the weighted BCE. All N P."""
    return (F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weight).mean(-1).sum()


def dice_loss(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Sum over masks of 1 - dice. All N P; points that are not valid weigh nothing."""
    p, truth = logits.sigmoid() * valid, truth * valid
    return (1 - (2 * (p * truth).sum(-1) + 1) / (p.sum(-1) + truth.sum(-1) + 1)).sum()


@dataclass
class Criterion:
    """Weights and counts of the released recipe. `edge=0` or `edge_lambda=0` are rows of the ablation."""

    points: int = 12_544
    oversample: int = 3             # candidates per point kept
    uncertain: float = 0.75         # share of points chosen by uncertainty
    no_object: float = 0.1
    cls: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    edge: float = 10.0
    edge_lambda: float = 5.0        # the factor of the mask loss is 1 + lambda W

    def __post_init__(self):
        if self.points < 4 or self.oversample < 1 or not 0 <= self.uncertain <= 1:
            found = f"points={self.points}, oversample={self.oversample}, uncertain={self.uncertain}"
            raise ValueError(f"{found}: points must be at least 4, oversample at least 1, uncertain in 0..1")

    def __call__(self, prediction, targets: list[Target], labels: Tensor, ignore: int, num_masks: float) -> dict[str, Tensor]:
        """prediction: `net.Prediction` of B pictures; num_masks: masks of the batch, a mean over processes, at least 1.

        Returns the weighted losses by name: those of the last layer plain, the others behind `d0.`, `d1.`, ...
        """
        extent = labels.new_tensor(
            [prediction.size[1] / prediction.padded[1], prediction.size[0] / prediction.padded[0]], dtype=torch.float32
        )
        weights = [edge_weight(t.masks) for t in targets]
        losses = {}
        last = len(prediction.logits) - 1
        for layer in range(last + 1):
            embeddings, features = prediction.masks(layer)
            features = features.unbind()                    # its gradient is one stack; that of features[b] a batch of zeros each
            pairs = [
                self.match(prediction.logits[layer][b], embeddings[b], features[b], target, extent)
                for b, target in enumerate(targets)
            ]
            prefix = "" if layer == last else f"d{layer}."
            losses[prefix + "loss_cls"] = self.cls * self.class_loss(prediction.logits[layer], targets, pairs)
            mask = dice = (embeddings.sum() + features[0][:, 0, 0].sum()) * 0       # a gradient, also where no mask is
            for b, (target, (queries, masks)) in enumerate(zip(targets, pairs)):
                if len(queries):
                    logits = torch.einsum("nc,chw->nhw", embeddings[b, queries], features[b]).float()
                    points = self.choose(logits, target, masks, weights[b], extent)
                    one_mask, one_dice = self.point_losses(logits, points, target, masks, weights[b], extent)
                    mask, dice = mask + one_mask, dice + one_dice
            losses[prefix + "loss_mask"] = self.mask * mask / num_masks
            losses[prefix + "loss_dice"] = self.dice * dice / num_masks
        if self.edge:
            losses["edge_loss"] = self.edge * edge_loss(prediction.edge, labels, ignore)
        return losses

    @torch.no_grad()
    def match(
        self, logits: Tensor, embeddings: Tensor, features: Tensor, target: Target, extent: Tensor, points: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hungarian matching of one picture: matched queries (ascending) and their masks. Q K+1, Q D, D h w."""
        if not len(target.classes):
            none = target.classes.new_zeros(0)
            return none, none
        points = torch.rand(1, self.points, 2, device=logits.device) if points is None else points
        x = embeddings.float() @ sample(features[None], points * extent)[0]                        # Q P
        valid = 1 - sample(target.ignored[None, None], points, "border")[0]                        # 1 P
        g = sample(target.masks[None], points)[0] * valid                                          # N P
        s = x.sigmoid() * valid
        bce = (F.softplus(-x) @ g.T + F.softplus(x) @ (valid - g).T) / points.shape[1]             # Q N
        dice = 1 - (2 * s @ g.T + 1) / (s.sum(-1)[:, None] + g.sum(-1)[None] + 1)
        likely = logits.float().softmax(-1)[:, target.classes]
        cost = torch.nan_to_num(self.mask * bce + self.dice * dice - self.cls * likely, nan=1e6, posinf=1e6, neginf=-1e6)
        queries, masks = linear_sum_assignment(cost.cpu().numpy())
        return torch.as_tensor(queries, device=logits.device), torch.as_tensor(masks, device=logits.device)

    def class_loss(self, logits: Tensor, targets: list[Target], pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Weighted cross entropy over all queries of the batch, B Q K+1; a query without a mask is "no object"."""
        classes = logits.shape[-1] - 1
        truth = torch.full(logits.shape[:2], classes, dtype=torch.long, device=logits.device)
        for b, (target, (queries, masks)) in enumerate(zip(targets, pairs)):
            truth[b, queries] = target.classes[masks]
        weight = torch.ones(classes + 1, device=logits.device)
        weight[-1] = self.no_object
        return F.cross_entropy(logits.float().flatten(0, 1), truth.flatten(), weight)

    @torch.no_grad()
    def choose(self, logits: Tensor, target: Target, masks: Tensor, weights: Tensor, extent: Tensor) -> Tensor:
        """Points for each matched pair, N P 2: mostly where the logit is near 0, the more so on an edge; some anywhere."""
        n, kept = len(masks), int(self.uncertain * self.points)
        candidates = torch.rand(n, self.oversample * self.points, 2, device=logits.device)
        anywhere = torch.rand(n, self.points - kept, 2, device=logits.device)
        x = sample(logits[:, None], candidates * extent)[:, 0]
        w = sample(weights[masks][:, None], candidates)[:, 0]
        ignored = sample(target.ignored.expand(n, 1, -1, -1), candidates, "border")[:, 0]
        uncertainty = (-x.abs() * (1 - w)).masked_fill(ignored > 0.5, -torch.inf)
        best = uncertainty.topk(kept, 1).indices
        return torch.cat([candidates.gather(1, best[..., None].expand(-1, -1, 2)), anywhere], 1)

    def point_losses(
        self, logits: Tensor, points: Tensor, target: Target, masks: Tensor, weights: Tensor, extent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mask and dice loss of one picture's pairs at their points, summed over pairs. logits: N h w, points: N P 2."""
        x = sample(logits[:, None], points * extent)[:, 0]                                         # N P
        truth, weight = sample(torch.stack([target.masks[masks], weights[masks]], 1), points).unbind(1)
        valid = 1 - sample(target.ignored.expand(len(masks), 1, -1, -1), points, "border")[:, 0]
        return mask_loss(x, truth, (1 + self.edge_lambda * weight) * valid), dice_loss(x, truth, valid)
