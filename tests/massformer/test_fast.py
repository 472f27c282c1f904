"""Every piece of the fast path against the plain one, and the whole against the authors' numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.massformer.test_loss import NET
from tests.parity.test_massformer import case  # noqa: F401
from zoo.massformer import fast
from zoo.massformer.layers import Deformable, resize
from zoo.massformer.net import MaSSFormerNet

BOTTLENECKS = {"encoder": "resnet50", "encoder_options": {"channels": [4, 4, 8, 8]}}


def settled(net, seed=0):
    """Random statistics in every norm and offsets of about a pixel, so that nothing is hidden by zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
        if isinstance(module, Deformable):
            module.offset.weight.data.normal_(0, 0.2, generator=generator)
            module.offset.bias.data.normal_(0, 1.5, generator=generator)
    return net.eval()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return settled(MaSSFormerNet(classes=3, **NET))


@pytest.fixture
def small_bands(monkeypatch):
    """Many bands in a small picture."""
    monkeypatch.setattr(fast, "bands", lambda h, w, device, unit=2: ((r, min(r + unit, h)) for r in range(0, h, unit)))


def plain(net, image):
    with torch.no_grad():
        out = net(image)
        return net.semantic_rows(out, 0, out.size[0])[0]


def near(ours, theirs, tolerance=1e-4):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * max(1, theirs.abs().max())


@pytest.mark.parametrize("kept", [0, 2**30], ids=["made again", "kept"])
@pytest.mark.parametrize("size", [(256, 256), (67, 300)])
def test_scores_from_top_to_bottom_are_those_of_the_plain_path(net, size, kept, small_bands, monkeypatch):
    monkeypatch.setattr(fast, "KEPT_NUMBERS", kept)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    bands = list(fast.score_bands(net, image, 20))
    assert max(band.shape[1] for band in bands) <= 2 * fast.LEVEL_UNIT
    near(torch.cat(bands, 1), plain(net, image))


@pytest.mark.parametrize("change", [BOTTLENECKS, {"encoder": "tf_efficientnet_lite0", "encoder_options": None}, {"cst": False},
                                    {"rfb": False}, {"lse": False}, {"egf": False}], ids=str)  # fmt: skip
def test_other_encoders_and_rows_of_the_ablation_give_the_plain_scores(change):
    torch.manual_seed(0)
    net = settled(MaSSFormerNet(classes=3, **NET | change))
    image = torch.randn(1, 3, 100, 256)
    near(torch.cat(list(fast.score_bands(net, image, 64)), 1), plain(net, image))


@torch.no_grad()
def test_with_the_authors_weights_both_paths_agree_to_the_last_digits(case):  # noqa: F811
    """In float64, since in float32 a mask logit within rounding of 0 may let a query look at one place more or less."""
    net, image = copy.deepcopy(case.net).double(), case.image.double()
    out = net(image)
    exact = net.semantic_rows(out, 0, out.size[0])[0]
    near(torch.cat(list(fast.score_bands(net, image, 64)), 1), exact, 1e-9)
    rounded = torch.cat(list(fast.score_bands(case.net, case.image, 64)), 1)
    assert (rounded - exact).abs().mean() <= 1e-4
    best = exact.topk(2, 0).values
    assert ((rounded.argmax(0) == exact.argmax(0)) | (best[0] - best[1] < 1e-2)).all()


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, BOTTLENECKS], ids=["basic blocks", "bottlenecks"])
def test_an_encoder_with_folded_norms_gives_the_same_maps(options):
    encoder = settled(MaSSFormerNet(classes=3, **NET | options)).encoder
    assert encoder.plain_resnet
    image = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(fast.encoder_maps(encoder, image), encoder(image), strict=True):
        near(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("offsets", [1.0, 30.0], ids=["near", "far outside"])
def test_a_deformable_layer_by_bands_is_the_layer(offsets, small_bands):
    torch.manual_seed(0)
    layer = Deformable(7, 6)
    settled(layer).offset.bias.data.mul_(offsets)
    x = torch.randn(1, 7, 12, 10)
    map_ = fast.framed(12, 10, 7, x)
    map_[1:-1] = x[0].permute(1, 2, 0)
    near(fast.deform_rows(layer, map_).permute(2, 0, 1)[None], layer(x))
    near(fast.deformed(x, layer), layer(x))


@torch.no_grad()
def test_the_two_halves_of_lse_and_what_egf_reads_are_the_plain_ones(net, small_bands):
    lse, egf = net.pixels.lse, net.pixels.egf
    image, s1, x4 = torch.randn(1, 3, 64, 32), torch.randn(1, 16, 16, 8), torch.randn(1, 16, 16, 8)
    plain_, deform = fast.details(lse, image, s1)
    near(lse.fuse(torch.cat([plain_, deform], -1).permute(2, 0, 1)[None]), lse(image, s1))
    reduced = fast.gate_semantics(net.pixels, plain_, deform, x4)
    assert not reduced[0].any() and not reduced[-1].any()
    near(reduced[1:-1].permute(2, 0, 1)[None], egf.reduce(lse(image, s1).sigmoid() * resize(x4, (32, 16))))


@torch.no_grad()
def test_mask_features_at_the_levels_are_made_without_the_whole_map(net, small_bands):
    fine, x4 = torch.randn(64, 32, 8), torch.randn(1, 16, 32, 16)
    sharp = fast.Sharp(fine, x4, net.pixels)
    egf = net.pixels.egf
    whole = net.pixels.masks(resize(x4, (64, 32)) + egf.bn(egf.expand(fine.permute(2, 0, 1)[None])))
    small, kept = sharp.at_levels()
    near(torch.cat(kept).permute(2, 0, 1)[None], whole)
    for level, size in zip(small, [(4, 2), (8, 4), (16, 8)], strict=True):
        near(level, resize(resize(whole, (32, 16)), size))
    embeddings = torch.randn(6, 32)
    masks = F.interpolate(torch.einsum("qc,bchw->bqhw", embeddings, whole), scale_factor=2, mode="bilinear")
    ours = torch.cat(list(fast.mask_bands(sharp, [], embeddings, 64)))
    near(ours.permute(2, 0, 1)[None], masks)


@torch.no_grad()
@pytest.mark.parametrize("rows", [(0, 2), (6, 12), (14, 16), (0, 16)])
def test_rows_of_a_doubled_map_are_those_of_the_whole(rows):
    x = torch.randn(1, 5, 8, 6)
    near(fast.double(x, *rows).permute(2, 0, 1)[None], F.interpolate(x, scale_factor=2, mode="bilinear")[..., slice(*rows), :])


def test_bf16_scores_are_near_those_of_fp32(net):
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.cat(list(fast.score_bands(net, image, 256)), 1).float()
    exact = plain(net, image)
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()
