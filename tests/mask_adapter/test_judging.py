"""Figures of open-vocabulary answers against counting twins."""

import math

import numpy as np
import pytest
import torch

from datamodules.errors import UserError
from zoo.metrics import OpenVocabulary, Panoptic


def slow_ious(pairs, K, ignore):
    """Per class (intersection, union, true pixels), pixel by pixel from the definitions; ignored labels count nowhere."""
    rows = []
    for c in range(K):
        kept = [(p[t != ignore], t[t != ignore]) for p, t in pairs]
        rows.append((sum(((p == c) & (t == c)).sum() for p, t in kept), sum(((p == c) | (t == c)).sum() for p, t in kept),
                     sum((t == c).sum() for _, t in kept)))  # fmt: skip
    return rows


def random_maps(K, ignore, seed, dtype):
    """Three pairs of maps of different sizes; some classes are only in labels, some only in predictions."""
    rng = np.random.default_rng(seed)
    labels, guesses = rng.permutation(K)[: max(K // 2, 2)], rng.permutation(K)[: max(K // 2, 2)]
    pairs = []
    for size in ((9, 14), (20, 7), (5, 5)):
        truth = rng.choice([*labels, ignore], size)
        guess = np.where(rng.random(size) < 0.4, truth, rng.choice([*guesses, ignore], size))
        pairs.append((torch.tensor(guess, dtype=dtype), torch.tensor(truth, dtype=dtype)))
    return pairs


@pytest.mark.parametrize("K, ignore, dtype", [(6, 255, torch.uint8), (847, -1, torch.int32)])
@pytest.mark.parametrize("seed", range(3))
def test_miou_of_both_definitions_and_both_parts_are_those_of_counting(K, ignore, dtype, seed):
    pairs = random_maps(K, ignore, seed, dtype)
    seen = np.random.default_rng(seed + 9).random(K) < 0.5
    metric = OpenVocabulary([f"class {i}" for i in range(K)], seen, ignore)
    for guess, truth in pairs:
        metric.update(guess, truth)
    found, rows = metric.compute(), slow_ious(pairs, K, ignore)
    ious = {c: i / u for c, (i, u, true) in enumerate(rows) if true}
    either = sum(u > 0 for _, u, _ in rows)
    assert found["mIoU"] == pytest.approx(np.mean(list(ious.values())))
    assert found["mIoU_older"] == pytest.approx(sum(ious.values()) / either)
    for name, part in (("mIoU_seen", seen), ("mIoU_unseen", ~seen)):
        values = [value for c, value in ious.items() if part[c]]
        assert found[name] == pytest.approx(np.mean(values)) if values else math.isnan(found[name])
    right, total = sum(i for i, _, _ in rows), sum(true for _, _, true in rows)
    assert found["aAcc"] == pytest.approx(right / total)
    assert all(found[f"IoU/class {c}"] == pytest.approx(value) for c, value in ious.items())
    assert all(math.isnan(found[f"IoU/class {c}"]) for c in set(range(K)) - set(ious))


def test_the_two_definitions_differ_by_the_classes_that_are_only_predicted():
    metric = OpenVocabulary(["a", "b", "c"], [True, True, False])
    metric.update(torch.tensor([[0, 2, 1, 1]]), torch.tensor([[0, 0, 1, 1]]))
    found = metric.compute()
    assert found["mIoU"] == pytest.approx((1 / 2 + 1) / 2) and found["mIoU_older"] == pytest.approx((1 / 2 + 1) / 3)


def test_a_pixel_without_an_answer_is_a_miss_and_one_without_a_label_is_nothing():
    metric = OpenVocabulary(["a", "b"], [True, False])
    metric.update(torch.tensor([[0, 255, 1, 1]]), torch.tensor([[0, 0, 255, 1]]))
    found = metric.compute()
    assert found["IoU/a"] == 0.5 and found["IoU/b"] == 1 and found["aAcc"] == pytest.approx(2 / 3)


def test_masks_are_counted_by_class_and_part():
    metric = OpenVocabulary(["a", "b", "c"], [True, True, False])
    metric.update_masks(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 2]))
    metric.update_masks(torch.tensor([0]), torch.tensor([2]))
    found = metric.compute()
    assert (found["mask_acc"], found["mask_acc_seen"], found["mask_acc_unseen"]) == pytest.approx((3 / 5, 2 / 3, 1 / 2))


def test_classes_of_one_name_have_a_row_each():
    metric = OpenVocabulary(["pot", "cat", "pot"], [True] * 3)
    metric.update(torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 0]]))
    assert {"IoU/pot (0)", "IoU/cat", "IoU/pot (2)"} <= metric.compute().keys()


def test_a_label_that_is_no_class_is_said_in_one_line():
    with pytest.raises(UserError, match="a label is 7, but 3 classes"):
        OpenVocabulary(["a", "b", "c"], [True] * 3).update(torch.zeros(1, 1), torch.tensor([[7]]))


def slow_pq(pairs, K, things):
    """panopticapi's rule: pairs with an IoU above a half match; the truth's void is left out of unions, and a predicted segment
    that lies mostly on it is no false positive."""
    def segments(maps):
        keys = {(int(c), int(i) if int(c) in things else 0) for c, i in maps.reshape(-1, 2).tolist() if c >= 0}
        return {key: (maps[..., 0] == key[0]) & ((maps[..., 1] == key[1]) | (key[0] not in things)) for key in keys}

    sums = np.zeros((K, 4))                                          # IoU, true positives, false positives, false negatives
    for guess, truth in pairs:
        void, ours, theirs = truth[..., 0] < 0, segments(guess), segments(truth)
        matched = set()
        for a, mask in ours.items():
            for b, true in theirs.items():
                iou = (mask & true).sum() / ((mask | true) & ~(void & mask)).sum()
                if a[0] == b[0] and iou > 0.5:
                    matched |= {("ours", a), ("theirs", b)}
                    sums[a[0], :2] += float(iou), 1
        for a, mask in ours.items():
            if ("ours", a) not in matched and (mask & void).sum() <= 0.5 * mask.sum():
                sums[a[0], 2] += 1
        for b in theirs:
            if ("theirs", b) not in matched:
                sums[b[0], 3] += 1
    return {c: s[0] / (s[1] + s[2] / 2 + s[3] / 2) for c, s in enumerate(sums) if s[1:].sum()}


def test_pq_is_that_of_matching_segments_by_hand():
    rng, things, pairs = np.random.default_rng(0), {0, 1}, []
    for _ in range(4):
        truth = np.kron(np.stack([rng.integers(-1, 4, (3, 3)), rng.integers(1, 3, (3, 3))], -1), np.ones((4, 4, 1), int))
        guess = np.roll(truth, rng.integers(0, 2), 1)
        guess[rng.random(guess.shape[:2]) < 0.1] = (2, 0)
        pairs.append((torch.tensor(guess), torch.tensor(truth)))
    metric = Panoptic(4, sorted(things))
    for guess, truth in pairs:
        metric.update(guess, truth)
    found, slow = metric.compute(), slow_pq(pairs, 4, things)
    assert found["PQ"] == pytest.approx(np.mean(list(slow.values())))
    assert found["PQ_things"] == pytest.approx(np.mean([v for c, v in slow.items() if c in things]))
    assert found["PQ_stuff"] == pytest.approx(np.mean([v for c, v in slow.items() if c not in things]))


def test_pq_comes_with_the_other_figures_where_things_are_told_apart():
    metric = OpenVocabulary(["a", "b"], [True, False], things=[0])
    maps = torch.tensor([[[0, 1], [0, 2], [1, 0]]])
    metric.panoptic.update(maps, maps)
    metric.update(maps[..., 0], maps[..., 0])
    assert metric.compute()["PQ"] == 1 and "PQ" not in OpenVocabulary(["a"], [True]).compute()
