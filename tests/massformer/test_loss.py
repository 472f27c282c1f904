"""The odd crops a loss meets, and its pieces against brute force."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from zoo.massformer.loss import Criterion, Target, dice_loss, edge_target, edge_weight, mask_loss
from zoo.massformer.net import MaSSFormerNet

NET = {"encoder": "resnet18", "encoder_options": {"channels": [8, 8, 16, 16]}, "width": 16, "queries": 6, "layers": 3, "heads": 2,
       "hidden": 16, "cst_hidden": 16}  # fmt: skip


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return MaSSFormerNet(classes=3, **NET)


def losses(net, labels, size=64):
    torch.manual_seed(0)
    out = net(torch.randn(len(labels), 3, size, size), auxiliary=True)
    targets = [Target.of(one, 255) for one in labels]
    return Criterion(points=32)(out, targets, labels, 255, max(1, sum(len(t.classes) for t in targets)))


CROPS = {
    "all ignored": torch.full((2, 64, 64), 255),
    "one class": torch.ones(2, 64, 64).long(),
    "one of two ignored": torch.stack([torch.full((64, 64), 255), torch.zeros(64, 64).long()]),
    "ignored inside a mask": torch.where(torch.eye(64) > 0, 255, 2).expand(2, 64, 64).contiguous(),
}


@pytest.mark.parametrize("name", CROPS)
def test_the_loss_is_finite_and_every_parameter_gets_a_gradient(net, name):
    net.zero_grad()
    total = sum(losses(net, CROPS[name]).values())
    assert math.isfinite(total.item())
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_ignored_pixels_change_no_mask_or_dice_loss(net):
    """What the net says under ignored pixels does not matter to a mask's losses."""
    torch.manual_seed(0)
    truth, points = torch.zeros(1, 8, 8), torch.rand(1, 40, 2)
    truth[:, :4] = 1
    ignored = torch.zeros(8, 8)
    ignored[:, 4:] = 1
    target = Target(torch.tensor([0]), truth, ignored)
    points[..., 0] = 0.6 + 0.3 * points[..., 0]                # well inside the ignored half
    criterion, extent = Criterion(points=40), torch.ones(2)
    for logits in (torch.randn(1, 8, 8), torch.full((1, 8, 8), 9.0)):
        mask, dice = criterion.point_losses(logits, points, target, torch.tensor([0]), edge_weight(truth), extent)
        assert mask.abs() < 1e-5
        assert dice.abs() < 1e-5                                      # 1 - (0 + 1) / (0 + 0 + 1)


def test_edge_weight_is_the_distance_to_the_local_mean():
    mask = (np.random.default_rng(0).random((2, 11, 13)) > 0.6).astype(np.float32)
    expected = [np.abs(uniform_filter(m, 5, mode="constant") - m) for m in mask]
    assert np.allclose(edge_weight(torch.tensor(mask)).numpy(), expected, atol=1e-6)


def test_edge_target_equals_a_loop_over_pixels():
    labels = np.random.default_rng(1).choice([0, 1, 2, 255], (9, 12), p=[0.4, 0.3, 0.2, 0.1])
    edge = np.zeros((9, 12), bool)
    for r in range(9):
        for c in range(12):
            for dr, dc in ((-1, 0), (0, 1), (1, 1), (1, -1)):
                if 0 <= r + dr < 9 and 0 <= c + dc < 12:
                    a, b = labels[r, c], labels[r + dr, c + dc]
                    edge[r, c] |= a != b and 255 not in (a, b)
    wide = [[edge[max(r - 1, 0) : r + 1, max(c - 1, 0) : c + 1].any() for c in range(12)] for r in range(9)]
    assert np.array_equal(edge_target(torch.tensor(labels)[None], 255)[0].bool().numpy(), wide)


def test_mask_and_dice_loss_of_a_hand_example():
    logits, truth = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert math.isclose(mask_loss(logits, truth, torch.ones(1, 2)).item(), math.log(2), rel_tol=1e-6)
    assert math.isclose(dice_loss(logits, truth, torch.ones(1, 2)).item(), 1 - 2 / 3, rel_tol=1e-6)


@pytest.mark.parametrize("part", ["cst", "rfb", "lse", "egf"])
def test_a_net_without_one_of_its_parts_trains(part):
    torch.manual_seed(0)
    net = MaSSFormerNet(classes=3, **NET, **{part: False})
    total = sum(losses(net, CROPS["one class"]).values())
    total.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_crop_of_any_size_gives_the_losses_of_its_own_pixels(net):
    """Padding to multiples of 256 moves no point: a mask that is right in the crop has a small dice loss."""
    labels = torch.zeros(1, 40, 72).long()
    labels[:, :, 36:] = 1
    target = Target.of(labels[0], 255)
    logits = torch.full((2, 128, 128), -20.0)                   # half size of the padded 256 x 256
    logits[0, :20, :18], logits[1, :20, 18:36] = 20.0, 20.0
    extent = torch.tensor([72 / 256, 40 / 256])
    points = torch.rand(2, 500, 2, generator=torch.Generator().manual_seed(0))
    _, dice = Criterion().point_losses(logits, points, target, torch.tensor([0, 1]), edge_weight(target.masks), extent)
    assert dice < 0.15
