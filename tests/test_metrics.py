"""Metrics of label maps against brute-force twins and against figures of the released MaSS13K code."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.errors import UserError
from zoo.metrics import SceneMetrics, boundary_width, inner_boundary

HERE = Path(__file__).parent
SMALL = HERE / "parity" / "boundary_small.npz"
SHARED = Path(os.environ.get("ZOO_SHARED", HERE.parents[1] / "shared")) / "parity" / "boundary_metrics.npz"


def slow_boundary(mask, width):
    """Pixels of the mask with a pixel outside it (or the picture's outside) at Chebyshev distance <= width."""
    padded = np.pad(mask, width)
    size = 2 * width + 1
    return mask & ~np.lib.stride_tricks.sliding_window_view(padded, (size, size)).all((2, 3))


def slow_near(mask, width):
    padded = np.pad(mask, width)
    return np.lib.stride_tricks.sliding_window_view(padded, (2 * width + 1, 2 * width + 1)).any((2, 3))


def slow_metrics(pairs, K, ignore, boundary_ignore=False):
    """The twin: per class, from the definitions, with sums over all pairs."""
    def ratio(a, b):
        return a / b if b else math.nan

    rows = {"IoU": [], "Acc": [], "BIoU": [], "BF1": []}
    for c in range(K):
        i = u = n = bi = bu = found = predicted = recalled = true = 0
        for p, t in pairs:
            P, T, valid = p == c, t == c, t != ignore
            i, u, n = i + (P & T & valid).sum(), u + ((P | T) & valid).sum(), n + T.sum()
            counted = valid if boundary_ignore else np.ones_like(valid)
            d = max(1, round(0.001 * math.hypot(*t.shape)))
            a, b = slow_boundary(P, d) & counted, slow_boundary(T, d) & counted
            bi, bu = bi + (a & b).sum(), bu + (a | b).sum()
            a, b = slow_boundary(P, 1) & counted, slow_boundary(T, 1) & counted
            found, predicted = found + (a & slow_near(b, d)).sum(), predicted + a.sum()
            recalled, true = recalled + (b & slow_near(a, d)).sum(), true + b.sum()
        rows["IoU"].append(ratio(i, u))
        rows["Acc"].append(ratio(i, n))
        rows["BIoU"].append(ratio(bi, bu))
        precision, recall = ratio(found, predicted), ratio(recalled, true)
        if not predicted or not true:
            rows["BF1"].append(0.0 if predicted or true else math.nan)
        else:
            rows["BF1"].append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    right, total = (sum(((p == t) & (t != ignore)).sum() for p, t in pairs), sum((t != ignore).sum() for _, t in pairs))
    means = {"mIoU": rows["IoU"], "mAcc": rows["Acc"], "BIoU": rows["BIoU"], "BF1": rows["BF1"]}
    values = {name: np.nanmean(row) for name, row in means.items()} | {"aAcc": right / total}
    return values | {f"{name}/{c}": v for name, row in rows.items() for c, v in enumerate(row)}


def random_pair(rng, height, width, K, ignore=255, dtype=np.uint8):
    """Blocks and noise, a shifted prediction, one class absent from both, some pixels ignored."""
    blocks = rng.integers(0, K - 1, (height // 7 + 1, width // 7 + 1)).repeat(7, 0).repeat(7, 1)[:height, :width]
    truth = np.where(rng.random(blocks.shape) < 0.02, rng.integers(0, K - 1, blocks.shape), blocks).astype(dtype)
    prediction = np.roll(truth, (1, 2), (0, 1))
    truth[rng.random(truth.shape) < 0.03] = ignore
    truth[: height // 3, : width // 4] = ignore
    return prediction, truth


def measured(pairs, K, **options):
    metric = SceneMetrics([str(c) for c in range(K)], **options)
    for prediction, truth in pairs:
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    return metric.compute()


def assert_same(values, expected):
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert value == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("boundary_ignore", [False, True])
def test_scene_metrics_equal_the_definitions(boundary_ignore):
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng, h, w, 5) for h, w in ((31, 47), (1, 9), (64, 40), (23, 2100), (3, 3))]
    assert boundary_width(23, 2100) == 2
    assert_same(measured(pairs, 5, boundary_ignore=boundary_ignore), slow_metrics(pairs, 5, 255, boundary_ignore))


def test_more_classes_than_bytes_use_int32_and_minus_one():
    pairs = [random_pair(np.random.default_rng(1), 40, 61, 300, ignore=-1, dtype=np.int32)]
    assert_same(measured(pairs, 300, ignore=-1), slow_metrics(pairs, 300, -1))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_boundary_is_what_lies_near_the_outside(width):
    mask = np.random.default_rng(2).random((37, 53)) < 0.97
    mask[5:30, 10:40] = True
    assert np.array_equal(inner_boundary(mask.astype(np.uint8), width).astype(bool), slow_boundary(mask, width))


def test_boundary_width_is_a_thousandth_of_the_diagonal_rounded_half_to_even():
    assert [boundary_width(h, w) for h, w in ((3072, 4096), (1200, 1600), (1500, 2000), (64, 64))] == [5, 2, 2, 1]


@pytest.mark.parametrize("path", [SMALL, SHARED], ids=["frozen", "shared"])
def test_counts_equal_the_released_code(path):
    if not path.exists():
        pytest.skip(f"no {path.name}: set ZOO_SHARED to the folder whose parity/ holds it")
    data = np.load(path)
    for i in range(sum(name.startswith("truth_area") for name in data)):
        prediction, truth = data[f"pred{i}"], data[f"truth{i}"]
        metric = SceneMetrics([str(c) for c in range(7)])
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        confusion = metric.confusion.numpy()
        assert np.array_equal(confusion.diagonal(), data[f"intersect{i}"])
        assert np.array_equal(confusion.sum(0), data[f"pred_area{i}"])
        assert np.array_equal(confusion.sum(1), data[f"truth_area{i}"])
        assert np.array_equal(confusion.sum(0) + confusion.sum(1) - confusion.diagonal(), data[f"union{i}"])
        assert np.array_equal(metric.boundary_pixels[:, 0], data[f"b_intersect{i}"])
        assert np.array_equal(metric.boundary_pixels[:, 1], data[f"b_union{i}"])
        assert boundary_width(*truth.shape) == data[f"dilation{i}"]
        bits = np.packbits(inner_boundary((truth == 1).astype(np.uint8), int(data[f"dilation{i}"])))
        assert np.array_equal(bits, data[f"boundary_truth_class1_{i}"])


def test_totals_equal_the_released_code():
    if not SHARED.exists():
        pytest.skip(f"no {SHARED.name}: set ZOO_SHARED to the folder whose parity/ holds it")
    data = np.load(SHARED)
    values = measured([(data[f"pred{i}"], data[f"truth{i}"]) for i in range(6)], 7)
    for name, ours in (("IoU", "IoU"), ("BIoU", "BIoU"), ("Acc", "Acc")):
        assert [values[f"{ours}/{c}"] for c in range(7)] == pytest.approx(data[f"total_{name}"], abs=1e-6)
    assert values["aAcc"] == pytest.approx(float(data["total_aAcc"]), abs=1e-6)
    assert 100 * values["mIoU"] == pytest.approx(float(data["mIoU"]), abs=1e-4)
    assert 100 * values["BIoU"] == pytest.approx(float(data["mBIoU"]), abs=1e-4)


def test_a_perfect_prediction_scores_one_and_absent_classes_are_nan():
    truth = np.zeros((20, 30), np.uint8)
    truth[5:9, 4:12] = 2
    values = measured([(truth, truth)], 4)
    assert [values[name] for name in ("mIoU", "BIoU", "BF1", "aAcc", "mAcc")] == [1.0] * 5
    assert math.isnan(values["IoU/1"]) and math.isnan(values["BIoU/3"]) and math.isnan(values["BF1/3"])


def test_batches_and_lists_equal_one_by_one():
    rng = np.random.default_rng(3)
    pairs = [random_pair(rng, 30, 41, 4) for _ in range(3)]
    expected = measured(pairs, 4)
    predictions, truths = ([torch.from_numpy(m) for m in maps] for maps in zip(*pairs, strict=True))
    for batch in ((predictions, truths), (torch.stack(predictions), torch.stack(truths))):
        metric = SceneMetrics(list("0123"))
        metric.update(*batch)
        assert_same(metric.compute(), expected)


def test_sums_of_two_processes_equal_one():
    rng = np.random.default_rng(4)
    pairs = [random_pair(rng, 30, 41, 4) for _ in range(3)]
    parts = [SceneMetrics(list("0123")) for _ in range(2)]
    for i, (prediction, truth) in enumerate(pairs):
        parts[i % 2].update(torch.from_numpy(prediction), torch.from_numpy(truth))
    parts[0].merge_state(parts[1])
    assert_same(parts[0].compute(), measured(pairs, 4))


def test_without_boundaries_only_the_areas_are_told():
    pair = random_pair(np.random.default_rng(5), 20, 20, 3)
    values = measured([pair], 3, boundary=False)
    assert set(values) == {"mIoU", "aAcc", "mAcc"} | {f"{name}/{c}" for name in ("IoU", "Acc") for c in range(3)}


@pytest.mark.parametrize(("label", "ignore"), [(7, 255), (255, -1), (-1, 255)])
def test_a_label_beyond_the_classes_is_said_in_one_line(label, ignore):
    truth = torch.tensor([[0, label]], dtype=torch.int32)
    with pytest.raises(UserError, match=f"a label is {label}, but 7 classes"):
        SceneMetrics(list("abcdefg"), ignore=ignore).update(torch.zeros(1, 2, dtype=torch.int32), truth)
