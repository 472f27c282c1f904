"""What the training of MaSSFormer says of itself."""

import pytest
import torch

import train
from datamodules.errors import UserError
from tests.contract import build
from tests.doors.test_doors import FEW, config
from zoo import hub
from zoo.massformer.fast import plain_bands
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


def test_what_is_saved_asks_for_no_encoder_weights(tmp_path):
    model = build("massformer")
    model.recipe["model"]["net"]["encoder_weights"] = "/nowhere"
    hub.export(model, tmp_path, {})
    assert hub.load(tmp_path).recipe["model"]["net"]["encoder_weights"] is None


def test_predictions_of_a_compiled_model_are_the_plain_paths():
    model = build("massformer").eval()
    image = torch.randint(0, 256, (3, 40, 70), dtype=torch.uint8)
    with torch.inference_mode():
        fast = model.scores(image[None])
        model.bands = plain_bands
        assert torch.allclose(model.scores(image[None]), fast, atol=1e-4)
