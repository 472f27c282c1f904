"""What the training of MaSSFormer says of itself."""

import pytest
import torch

import train
from datamodules.errors import UserError
from tests.doors.test_doors import FEW, config
from zoo.massformer.loss import Criterion, Target
from zoo.massformer.net import MaSSFormerNet


def test_one_picture_per_process_is_refused_in_one_line(tmp_path):
    few = [key for key in FEW if not key.startswith("data.batch_size")]
    with pytest.raises(UserError, match="one picture per process.*data.batch_size=2"):
        train.run(config("train", "model=massformer", f"runs={tmp_path}", *few, "data.batch_size=1"))


def test_a_half_ignored_picture_has_one_mask_and_finite_losses_of_every_layer():
    torch.manual_seed(0)
    net = MaSSFormerNet(classes=3, encoder="resnet18", encoder_options={"channels": [8, 8, 16, 16]}, width=16, queries=6,
                        layers=3, heads=2, hidden=16, cst_hidden=16)  # fmt: skip
    labels = torch.zeros(2, 64, 64).long()
    labels[:, 32:] = 255
    out = net(torch.randn(2, 3, 64, 64), auxiliary=True)
    targets = [Target.of(one, 255) for one in labels]
    assert [t.classes.tolist() for t in targets] == [[0], [0]]
    losses = Criterion(points=64)(out, targets, labels, 255, 2.0)
    assert len(losses) == 3 * 4 + 1
    assert all(torch.isfinite(value) for value in losses.values())
