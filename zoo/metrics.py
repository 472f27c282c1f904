"""Metrics of label maps. Values are fractions 0..1 everywhere; tables print them as percent.

Each class keeps integer sums over the data set, added over processes: two processes give exactly the figures of one.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import PanopticQuality

from datamodules.errors import UserError

CHUNK = 1 << 20  # pixels counted at a time: bounds the memory of the int64 indices


class SceneMetrics(Metric):
    """mIoU, BIoU, BF1, aAcc and mAcc of label maps, each at its picture's own size.

    - IoU, Acc, aAcc: from the confusion matrix summed over the data set; pixels labelled `ignore` are left out.
    - BIoU: intersection over union of the classes' inner boundaries, d pixels wide (`boundary_width`), summed over the
      data set. As in the released MaSS13K code, a class's border against ignored pixels or the picture's edge is a
      boundary, and predictions inside ignored areas count; `boundary_ignore` leaves ignored pixels out of the sums.
    - BF1: F1 of one-pixel contours that lie within d pixels of each other. The paper prints a BF1 without a definition
      we could read: this one is ours.

    A class that occurs neither in labels nor in predictions is NaN and left out of the means; mAcc is over classes
    that occur in the labels.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor  # K K, rows are labels, columns predictions
    boundary_pixels: Tensor  # K 2: intersection, union
    contour_pixels: Tensor  # K 4: predicted ones near a true one, predicted, true ones near a predicted one, true

    def __init__(self, classes: Sequence[str], ignore: int = 255, boundary: bool = True, boundary_ignore: bool = False):
        super().__init__()
        self.classes, self.ignore = list(classes), ignore
        self.boundary, self.boundary_ignore = boundary, boundary_ignore
        K = len(self.classes)
        for name, shape in (("confusion", (K, K)), ("boundary_pixels", (K, 2)), ("contour_pixels", (K, 4))):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor]) -> None:
        """One pair of integer maps [H, W], or a batch [B, H, W] or list of them; sizes may differ within a list."""
        if isinstance(prediction, Tensor) and prediction.ndim == 2:
            prediction, labels = [prediction], [labels]
        for predicted, truth in zip(prediction, labels, strict=True):
            self._add(predicted, truth)

    def _add(self, prediction: Tensor, truth: Tensor) -> None:
        K = len(self.classes)
        counts = count_pairs(prediction, truth, K, self.ignore).to(self.confusion.device)
        self.confusion += counts[:K]
        if self.boundary:
            present = (counts.sum(0) + counts[:K].sum(1)).nonzero().flatten().tolist()
            maps = (np.ascontiguousarray(labels.cpu().numpy()) for labels in (prediction, truth))
            self._add_boundaries(*maps, present)

    def _add_boundaries(self, prediction: np.ndarray, truth: np.ndarray, present: list[int]) -> None:
        width = boundary_width(*truth.shape)
        valid = (truth != self.ignore).view(np.uint8) if self.boundary_ignore else None
        for c in present:
            masks = [(prediction == c).view(np.uint8), (truth == c).view(np.uint8)]
            x, y, w, h = cv2.boundingRect(masks[0] | masks[1])
            box = np.s_[y : y + h, x : x + w]  # nothing of the class lies outside, as nothing lies outside the picture
            masks = [mask[box] for mask in masks]
            inside = None if valid is None else valid[box]
            self.boundary_pixels[c] += torch.tensor(boundary_counts(*masks, width, inside)).to(self.boundary_pixels)
            self.contour_pixels[c] += torch.tensor(contour_counts(*masks, width, inside)).to(self.contour_pixels)

    def compute(self) -> dict[str, float]:
        """Means (mIoU, aAcc, mAcc, and with `boundary` BIoU, BF1), then `<metric>/<class>` for IoU, Acc, BIoU, BF1."""
        confusion = self.confusion.cpu().double()
        right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        values = {"IoU": right / (true + predicted - right), "Acc": right / true}  # 0 / 0 is NaN: the class is absent
        if self.boundary:
            intersection, union = self.boundary_pixels.cpu().double().T
            values["BIoU"] = intersection / union
            values["BF1"] = f1(*self.contour_pixels.cpu().double().T)
        means = {"mIoU": values["IoU"].nanmean(), "aAcc": right.sum() / true.sum(), "mAcc": values["Acc"].nanmean()}
        means |= {name: values[name].nanmean() for name in ("BIoU", "BF1") if name in values}
        each = {f"{name}/{c}": v for name, row in values.items() for c, v in zip(self.classes, row, strict=True)}
        return {name: float(value) for name, value in (means | each).items()}


def count_pairs(prediction: Tensor, truth: Tensor, classes: int, ignore: int) -> Tensor:
    """Pixels per (label, prediction), [K + 1, K] int64; the last row counts the ignored ones."""
    K = classes
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and labels {tuple(truth.shape)} differ in size")
    counts = torch.zeros((K + 1) * K, dtype=torch.int64, device=prediction.device)
    for p, t in zip(prediction.flatten().split(CHUNK), truth.to(prediction.device).flatten().split(CHUNK), strict=True):
        t = t.long()
        ignored = t == ignore
        check_range(p, K, "a prediction")
        check_range(t.masked_fill(ignored, 0), K, "a label")
        counts += torch.bincount(t.masked_fill(ignored, K) * K + p, minlength=len(counts))
    return counts.view(K + 1, K)


def check_range(values: Tensor, classes: int, what: str) -> None:
    smallest, largest = (int(v) for v in values.aminmax())
    if smallest < 0 or largest >= classes:
        wrong = largest if largest >= classes else smallest
        raise UserError(f"{what} is {wrong}, but {classes} classes (0..{classes - 1})",
                        mend="check the data's classes, label_shift and ignore")


def boundary_width(height: int, width: int) -> int:
    """d: a thousandth of the diagonal, at least one pixel (5 at 4096 x 3072)."""
    return max(1, round(0.001 * (height**2 + width**2) ** 0.5))


def inner_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a 0/1 uint8 mask within `width` (Chebyshev) of its outside; outside the array is outside the mask."""
    return mask - cv2.erode(mask, box_kernel(width), borderType=cv2.BORDER_CONSTANT, borderValue=0)


def box_kernel(radius: int) -> np.ndarray:
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def boundary_counts(prediction: np.ndarray, truth: np.ndarray, width: int, valid: np.ndarray | None) -> list[int]:
    """Pixels in both inner boundaries and in either, of two 0/1 masks; with `valid`, only where it is 1."""
    a, b = inner_boundary(prediction, width), inner_boundary(truth, width)
    if valid is not None:
        a, b = a & valid, b & valid
    return [cv2.countNonZero(a & b), cv2.countNonZero(a | b)]


def contour_counts(prediction: np.ndarray, truth: np.ndarray, reach: int, valid: np.ndarray | None) -> list[int]:
    """Contour pixels: predicted within `reach` of a true one, predicted, true within `reach` of a predicted, true."""
    a, b = inner_boundary(prediction, 1), inner_boundary(truth, 1)
    if valid is not None:
        a, b = a & valid, b & valid
    near_a, near_b = (cv2.dilate(m, box_kernel(reach), borderType=cv2.BORDER_CONSTANT, borderValue=0) for m in (a, b))
    return [cv2.countNonZero(m) for m in (a & near_b, a, b & near_a, b)]


def f1(found: Tensor, predicted: Tensor, recalled: Tensor, true: Tensor) -> Tensor:
    """F1 of precision found / predicted and recall recalled / true; 0 where one side is empty, NaN where both are."""
    precision, recall = found / predicted.clamp(min=1), recalled / true.clamp(min=1)
    value = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return value.where(predicted + true > 0, torch.nan)


# -- episodes ----------------------------------------------------------------------------------------------------------
class EpisodeIoU(Metric):
    """mIoU and FB-IoU of few-shot episodes, as HSNet (Min et al., ICCV 2021) counts them.

    Areas are summed over the episodes of a class, and IoU is taken of the sums: it is no mean over episodes. mIoU is the
    mean of the foreground's IoU over the classes `ids` that are judged; FB-IoU the mean of two IoUs, background's and
    foreground's, of these classes' areas together. A class without any area counts 0, as in the published figures.
    classes: names by id; ids: those that are judged (None: all). alone: one process judges by itself, nothing is added over
    processes.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    intersection: Tensor  # 2 K: background and foreground, by class
    union: Tensor  # 2 K

    def __init__(self, classes: Sequence[str], ids: Sequence[int] | None = None, alone: bool = False):
        super().__init__(sync_on_compute=not alone)
        self.classes = list(classes)
        self.ids = sorted(range(len(self.classes)) if ids is None else ids)
        for name in ("intersection", "union"):
            self.add_state(name, torch.zeros(2, len(self.classes), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor, class_id: int) -> None:
        """Both H W, 1 where the class is and 0 where it is not; other values of the truth (255) count nowhere."""
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in size")
        truth = truth.to(prediction.device)
        for label in (0, 1):
            said, true = (prediction == label) & (truth <= 1), truth == label
            both = (said & true).sum()
            self.intersection[label, class_id] += both
            self.union[label, class_id] += said.sum() + true.sum() - both

    def compute(self) -> dict[str, float]:
        """mIoU and FB-IoU, then IoU/<class> of those that are judged."""
        intersection, union = (areas[:, self.ids].cpu().double() for areas in (self.intersection, self.union))
        each = intersection[1] / union[1].clamp(min=1)
        sides = intersection.sum(1) / union.sum(1).clamp(min=1)
        values = {"mIoU": each.mean(), "FB-IoU": sides.mean()}
        values |= {f"IoU/{self.classes[i]}": value for i, value in zip(self.ids, each, strict=True)}
        return {name: float(value) for name, value in values.items()}


class OpenVocabulary(Metric):
    """Figures of label maps and masks whose classes were named at will, some of them `seen` in training.

    mIoU is detectron2's present definition: the mean over the classes that occur in the labels; mIoU_older (its wheels up to
    0.6) divides the same sum by the number of classes that occur in labels or predictions. Pixels labelled `ignore` are left
    out whatever was predicted there; `ignore` as a prediction is a pixel that was given no class, and a miss. mIoU_seen and
    mIoU_unseen are the mean's two parts. mask_acc: the share of masks that are named rightly. Several classes may have one
    name: a class is its number. things: numbers of the classes whose segments are told apart, for PQ (None: without PQ).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor  # K K+1, rows are labels, columns predictions, the last one none
    masks: Tensor  # K 2: named rightly, all

    def __init__(self, classes: Sequence[str], seen: Sequence[bool], ignore: int = 255, things: Sequence[int] | None = None):
        super().__init__()
        repeated = {name for name in classes if classes.count(name) > 1}
        self.classes = [f"{name} ({i})" if name in repeated else name for i, name in enumerate(classes)]
        self.seen, self.ignore = torch.tensor([bool(s) for s in seen]), ignore
        K = len(self.classes)
        self.add_state("confusion", torch.zeros(K, K + 1, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("masks", torch.zeros(K, 2, dtype=torch.int64), dist_reduce_fx="sum")
        self.panoptic = None if things is None else Panoptic(K, things)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Integer maps H W of one picture."""
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and labels {tuple(truth.shape)} differ in size")
        K = len(self.classes)
        counts = torch.zeros(K * (K + 1), dtype=torch.int64, device=prediction.device)
        for p, t in zip(prediction.flatten().split(CHUNK), truth.to(prediction.device).flatten().split(CHUNK), strict=True):
            counted = t != self.ignore
            p, t = p[counted].long(), t[counted].long()
            p = p.masked_fill(p == self.ignore, K)
            if len(t):
                check_range(p, K + 1, "a prediction")
                check_range(t, K, "a label")
            counts += torch.bincount(t * (K + 1) + p, minlength=len(counts))
        self.confusion += counts.view(K, K + 1).to(self.confusion.device)

    def update_masks(self, prediction: Tensor, truth: Tensor) -> None:
        """Classes of N masks."""
        truth, right = truth.to(self.masks.device), (prediction == truth.to(prediction.device)).long().to(self.masks.device)
        self.masks.index_add_(0, truth, torch.stack([right, torch.ones_like(right)], 1))

    def compute(self) -> dict[str, float]:
        """Means, then IoU/<class>; NaN where there is nothing to take a mean of."""
        confusion = self.confusion.cpu().double()
        right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion[:, :-1].sum(0)
        iou = (right / (true + predicted - right)).where(true > 0, torch.nan)
        values = {"mIoU": iou.nanmean(), "mIoU_older": iou.nansum() / ((true + predicted) > 0).sum()}
        values |= {"mIoU_seen": iou[self.seen].nanmean(), "mIoU_unseen": iou[~self.seen].nanmean()}
        values |= {"aAcc": right.sum() / true.sum(), "mAcc": (right / true).nanmean()}
        masks = self.masks.cpu().double()
        parts = {"mask_acc": masks, "mask_acc_seen": masks[self.seen], "mask_acc_unseen": masks[~self.seen]}
        values |= {name: part[:, 0].sum() / part[:, 1].sum() for name, part in parts.items()}
        if self.panoptic is not None:
            values |= self.panoptic.compute()
        values |= {f"IoU/{name}": value for name, value in zip(self.classes, iou, strict=True)}
        return {name: float(value) for name, value in values.items()}


class Panoptic(PanopticQuality):
    """Panoptic quality by torchmetrics, summed over the data set: PQ, SQ, RQ and the PQ of things and of stuff.

    Means run over the classes of which there is a segment, true or predicted, as in panopticapi. things: numbers of the
    classes whose segments are told apart, of `classes` in all.
    """

    def __init__(self, classes: int, things: Sequence[int]):
        self.nothing = classes
        stuff = set(range(classes + 1)) - set(things)
        super().__init__(set(things), stuff, allow_unknown_preds_category=True, return_sq_and_rq=True, return_per_class=True)
        self.is_thing = torch.tensor([number in self.things for number in self.cat_id_to_continuous_id])
        self.is_class = torch.tensor([number != classes for number in self.cat_id_to_continuous_id])

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """H W 2 each: class and number of the segment of every pixel, -1 for no class.

        A prediction of no class is a class of its own, which is not counted: torchmetrics would leave such pixels out of the
        unions, panopticapi does not.
        """
        prediction = torch.where(prediction < 0, self.nothing, prediction)
        super().update(prediction[None].to(self.iou_sum.device), truth[None].to(self.iou_sum.device))

    def compute(self) -> dict[str, float]:
        rows = super().compute().cpu()                                             # of each class PQ, SQ, RQ
        present = (self.true_positives + self.false_positives + self.false_negatives > 0).cpu() & self.is_class
        values = dict(zip(("PQ", "SQ", "RQ"), rows[present].T, strict=True))
        values |= {"PQ_things": rows[present & self.is_thing, 0], "PQ_stuff": rows[present & ~self.is_thing, 0]}
        return {name: float(value.mean()) for name, value in values.items()}
