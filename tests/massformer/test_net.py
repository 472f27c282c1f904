"""Sizes, counts and bands of MaSSFormer."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from tests.conftest import ROOT
from tests.massformer.test_loss import NET
from zoo.massformer.cost import count
from zoo.massformer.net import Encoder, MaSSFormerNet

COUNTS = {"massformer_r50": (37_578_176, 2010.3, 314.1), "massformer_lite": (15_080_864, 825.7, 79.9)}


def preset(name):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [f"model={name}", "model.net.encoder_weights=null"]).model
    with torch.device("meta"):
        return instantiate(config.net, _convert_="all")(classes=7)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_adds_are_the_cards(name):
    net, (parameters, without_taps, taps) = preset(name), COUNTS[name]
    assert sum(p.numel() for p in net.parameters()) == parameters
    costs = count(net, 4096, 3072)
    assert costs["deformable taps"] / 1e9 == pytest.approx(taps, abs=0.05)
    assert (costs["sum"] - costs["deformable taps"]) / 1e9 == pytest.approx(without_taps, abs=0.05)
    assert f"{parameters:,}" in (ROOT / "zoo/massformer/README.md").read_text()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return MaSSFormerNet(classes=3, **NET).eval()


@pytest.mark.parametrize("rows", [1, 7, 32, 1000])
def test_scores_by_bands_equal_the_whole(net, rows):
    with torch.no_grad():
        out = net(torch.randn(1, 3, 67, 83))
        whole = net.semantic_rows(out, 0, 67)
        bands = [net.semantic_rows(out, r, min(r + rows, 67)) for r in range(0, 67, rows)]
        embeddings, features = out.masks(-1)
        masks = torch.einsum("bqc,bchw->bqhw", embeddings, features)
        masks = torch.nn.functional.interpolate(masks, out.padded, mode="bilinear")[..., :67, :83].sigmoid()
        plain = torch.einsum("bqk,bqhw->bkhw", out.logits[-1].softmax(-1)[..., :-1], masks)
    assert torch.allclose(torch.cat(bands, 2), whole, atol=1e-5)
    assert torch.allclose(whole, plain, atol=1e-5)


def test_an_encoder_without_the_four_strides_is_refused_by_name():
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 has maps of strides"):
        Encoder("vit_tiny_patch16_224")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto"])
def test_other_timm_encoders_give_the_four_strides_and_their_own_normalisation(name):
    encoder = Encoder(name)
    sizes = [x.shape[-1] for x in encoder(torch.zeros(1, 3, 64, 64))]
    assert sizes == [16, 8, 4, 2]
    assert encoder.mean == ((0.5, 0.5, 0.5) if "lite" in name else (0.485, 0.456, 0.406))


def test_an_absent_encoder_file_is_said_in_one_line():
    with pytest.raises(ValueError, match="encoder_weights=/nowhere: no such file"):
        Encoder("resnet18", "/nowhere")


def test_pretrained_weights_out_of_reach_are_said_in_one_line():
    with pytest.raises(ValueError, match="encoder_weights=timm cannot be had for resnet18") as error:
        Encoder("resnet18", "timm")                         # the tests run without a network
    assert "\n" not in str(error.value)
