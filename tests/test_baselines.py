"""DeepLabV3+ and Mask2Former: what the libraries' nets must keep when they live in this house."""

from functools import cache

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file

from datamodules.errors import UserError
from tests.conftest import ROOT
from tests.contract import CLASSES, SquareData, build, trainer
from zoo import hub
from zoo.deeplabv3plus.loss import cross_entropy
from zoo.deeplabv3plus.net import widen_rows
from zoo.mask2former.module import as_masks

ROOMS = ["deeplabv3plus", "mask2former"]
ENCODER = "test_resnet"                                     # timm's smallest
COUNTS = {"deeplabv3plus_r101": 21, "deeplabv3plus": 7, "mask2former_swin_b": 150, "mask2former": 7}


@cache
def preset(name, classes):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [f"model={name}", "model.net.encoder_weights=null"]).model
    with torch.device("meta"):
        return instantiate(config.net, _convert_="all")(classes=classes)


def tiny(room, **net):
    """The room's smallest method with other settings of its net."""
    config = yaml.safe_load((ROOT / "zoo" / room / "tiny.yaml").read_text())
    config["net"] |= net
    return hub.build(config, CLASSES)


@pytest.mark.parametrize("name", COUNTS)
def test_the_presets_have_the_parameters_their_cards_name(name):
    count = sum(p.numel() for p in preset(name, COUNTS[name]).parameters())
    assert f"{count:,}" in (ROOT / "zoo" / name.split("_")[0] / "README.md").read_text()


# -- DeepLabV3+ --------------------------------------------------------------------------------------------------------
def test_the_output_stride_is_16_and_the_context_has_rates_6_12_18():
    net = preset("deeplabv3plus_r101", 21)
    convolutions = [m for m in net.encoder.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1)]
    assert [c.stride[0] for c in convolutions if c.stride[0] > 1] == [2, 2, 2]          # and the stem's pooling: 16
    assert {c.dilation[0] for c in net.encoder.model.layer4[1:].modules() if isinstance(c, torch.nn.Conv2d)} == {1, 2}
    wide = [m for m in net.decoder.aspp[0].modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [(m.dilation[0], m.out_channels, m.groups) for m in wide] == [(6, 256, 1), (12, 256, 1), (18, 256, 1)]


def test_a_crop_of_321_has_features_of_21_and_scores_of_81_as_in_unimatch():
    net = tiny("deeplabv3plus").net.eval()
    picture = torch.zeros(1, 3, 321, 321)
    with torch.inference_mode():
        assert net.encoder(picture)[-1].shape[-2:] == (21, 21)
        assert net(picture).shape == (1, len(CLASSES), 81, 81)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (33, 65), (50, 31)])
def test_rows_of_logits_are_those_of_an_interpolation_with_aligned_corners(size):
    logits = torch.randn(2, 3, -(-size[0] // 4), -(-size[1] // 4), generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits, size, mode="bilinear", align_corners=True)
    for rows in (1, 7, 64):
        parts = [widen_rows(logits, size, r, min(r + rows, size[0])) for r in range(0, size[0], rows)]
        assert torch.allclose(torch.cat(parts, 2), whole, atol=1e-5)


def test_cross_entropy_is_the_mean_over_pixels_that_are_not_ignored():
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, :2] = 255
    each = [-logits[b, :, r, c].log_softmax(0)[labels[b, r, c]] for b, r, c in (labels != 255).nonzero().tolist()]
    assert torch.allclose(cross_entropy(logits, labels, 255), torch.stack(each).mean())
    nothing = cross_entropy(logits, torch.full_like(labels, 255), 255)
    nothing.backward()
    assert nothing == 0
    assert logits.grad.abs().sum() == 0


def test_one_picture_per_process_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"one picture per process.*data\.batch_size=2"):
        trainer(tmp_path, 1).fit(build("deeplabv3plus"), SquareData(batch_size=1))


# -- Mask2Former -------------------------------------------------------------------------------------------------------
def test_a_label_map_becomes_one_mask_a_class_and_ignored_or_padded_pixels_belong_to_none():
    labels = torch.tensor([[2, 2, 255], [0, 2, 255]])
    classes, masks = as_masks(labels, 255, (4, 4))
    assert classes.tolist() == [0, 2]
    assert masks.shape == (2, 4, 4)
    assert masks.nonzero().tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("labelled", [0, 1])
def test_losses_and_gradients_are_finite_where_pictures_have_no_labelled_pixel(labelled):
    model = build("mask2former")
    labels = torch.full((2, 40, 72), 255)
    labels[:labelled] = 1
    model.log_dict = model.log = lambda *args, **kwargs: None
    model.log_losses = lambda losses: sum(losses.values())
    loss = model.training_step({"image": torch.randint(0, 256, (2, 3, 40, 72)), "labels": labels}, 0)
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert loss.isfinite()
    assert all(g is not None and g.isfinite().all() for g in grads)


def test_scores_are_those_of_masks_at_the_pictures_size():
    model = build("mask2former").eval()
    image = torch.randint(0, 256, (1, 3, 45, 71))
    with torch.no_grad():
        out = model.net.whole(F.pad(model.normalise(image), (0, 96 - 71, 0, 64 - 45)))
        masks = F.interpolate(out.masks_queries_logits, (64, 96), mode="bilinear")[..., :45, :71].sigmoid()
        expected = torch.einsum("bqk,bqhw->bkhw", out.class_queries_logits.softmax(-1)[..., :-1], masks)
        assert torch.allclose(model.scores(image), expected, atol=1e-5)


def test_weights_of_a_whole_mask2former_load_but_for_another_number_of_classes(tmp_path):
    """In transformers' present names, and in older ones, which have no `swin.` in them and lack its last norm."""
    first = build("mask2former").net.whole
    first.save_pretrained(tmp_path / "new")
    first.save_pretrained(tmp_path / "old")
    encoder = "model.pixel_level_module.encoder."
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    old = {k.replace(f"{encoder}swin.", encoder): v for k, v in tensors.items() if "swin.layernorm" not in k}
    save_file(old, tmp_path / "old" / "model.safetensors", {"format": "pt"})
    config = yaml.safe_load((ROOT / "zoo/mask2former/tiny.yaml").read_text())
    for folder in ("new", "old"):
        config["net"]["weights"] = str(tmp_path / folder)
        same, other = hub.build(config, CLASSES), hub.build(config, [*CLASSES, "more"])
        for name, value in first.named_parameters():
            if "swin.layernorm" not in name:
                assert torch.equal(same.net.whole.get_parameter(name), value), name
                if not name.startswith("class_predictor"):
                    assert torch.equal(other.net.whole.get_parameter(name), value), name
    config["net"]["layers"] = 1
    with pytest.raises(UserError, match="of another shape than these settings: .* tensors"):
        hub.build(config, CLASSES)


# -- both --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("size", [(3, 5), (45, 71)])
def test_labels_by_bands_are_those_of_the_whole_at_the_pictures_own_size(room, size):
    model = build(room).eval()
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        whole = model.scores(image[None])[0]
        assert whole.shape == (len(CLASSES), *size)
        for rows in (1, 16, 1000):
            labels = model.label_map(image, rows)
            best = whole.gather(0, labels[None].long())[0]
            assert labels.shape == size
            assert torch.allclose(best, whole.max(0).values, atol=1e-5)


@pytest.mark.parametrize("room", ROOMS)
def test_weights_that_are_not_there_are_said_in_one_line(room):
    timms = {"encoder": ENCODER, "encoder_options": None}
    cases = [(timms | {"encoder_weights": "/nowhere"}, "/nowhere: no such file"), (timms | {"encoder_weights": "timm"}, "timm"),
             (timms | {"encoder": "nothing"}, "nothing")]  # fmt: skip
    if room == "mask2former":
        cases += [({"weights": "facebook/nobody"}, "facebook/nobody"), ({"encoder_weights": "/nowhere"}, "/nowhere")]
    for settings, said in cases:
        with pytest.raises(UserError, match=said) as caught:
            tiny(room, **settings)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("room", ROOMS)
def test_a_timm_encoder_takes_its_weights_from_a_file_and_an_export_needs_the_file_no_more(room, tmp_path):
    body = timm.create_model(ENCODER)
    save_file(body.state_dict(), tmp_path / "encoder.safetensors")
    model = tiny(room, encoder=ENCODER, encoder_options=None, encoder_weights=str(tmp_path / "encoder.safetensors"))
    taken = {name.rpartition("layer1.")[2]: p for name, p in model.net.named_parameters() if ".layer1." in name}
    assert taken
    assert all(torch.equal(p, body.get_parameter(f"layer1.{name}")) for name, p in taken.items())
    assert model.mean.flatten().tolist() == [255 * value for value in timm.get_pretrained_cfg(ENCODER).mean]
    hub.export(model, tmp_path / "export", {"seed": 0})
    (tmp_path / "encoder.safetensors").unlink()
    again = hub.load(tmp_path / "export")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
