"""The numbers of FreestyleNet's own code, and of filters by brute force: all the fixtures hold, sizes from their JSON."""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file

from tests.conftest import shared_folder
from tests.parity.freeze_matchmask import PLACE, thaw
from zoo.diffusion.attention import Guide, Rectified
from zoo.diffusion.samplers import denoise, make_sampler
from zoo.matchmask.filter import ClassLoss, Confidence, Readings, Relative, vote
from zoo.matchmask.masks import FREE, visible
from zoo.matchmask.net import MatchMaskNet

OUTSIDE = shared_folder() / "parity"
NAME = "attn2"


def outside(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    if not (OUTSIDE / f"matchmask_{name}.safetensors").exists():
        pytest.skip(f"no matchmask fixture in {OUTSIDE}")
    return json.loads((OUTSIDE / f"matchmask_{name}.json").read_text()), load_file(OUTSIDE / f"matchmask_{name}.safetensors")


def placed(words: list[list[int]], context: int) -> torch.Tensor:
    """Classes of all tokens, given those of the words, which begin at token 1."""
    tokens = torch.full((len(words), context), FREE)
    for row, classes in zip(tokens, words):
        row[1 : 1 + len(classes)] = torch.tensor(classes)
    return tokens


def close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


# -- attention ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["frozen", "outside"])
def attention(request):
    return thaw() if request.param == "frozen" else outside("rca")


def module_of(about: dict, tensors: dict, part: str) -> Attention:
    attn = Attention(about["query_dim"], about["context_dim"], heads=about["heads"], dim_head=about["dim_head"],
                     processor=Rectified(NAME))
    prefix = f"{part}/w/"
    attn.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return attn


def test_rectified_attention_plain_and_fused_are_the_authors(attention):
    about, tensors = attention
    attn, context, label = module_of(about, tensors, "ade"), tensors["ade/context"], tensors["ade/label"]
    tokens = placed(about["ade_token_classes"], context.shape[1])
    for row, present in zip(tokens, tensors["ade/class_set"]):
        assert row[row != FREE].unique().tolist() == present.nonzero().flatten().tolist()
    for side in about["resolutions"]:
        x, gate = tensors[f"ade/x_{side}"], tensors[f"ade/gate_{side}"]
        seen = visible(label, tokens, (side, side))
        assert torch.equal(seen, tensors[f"ade/mask_{side}"].bool())
        with torch.no_grad():
            close(attn(x, context), tensors[f"ade/out_plain_{side}"], about["tolerance"])
            close(attn(x, context, guide=Guide({side**2: seen})), tensors[f"ade/out_rect_{side}"], about["tolerance"])
            mixed = Guide({side**2: seen}, {NAME: lambda cells: gate})  # noqa: B023
            close(attn(x, context, guide=mixed), tensors[f"ade/out_fused_{side}"], about["tolerance"])


def test_gradients_of_rectified_attention_are_the_authors(attention):
    about, tensors = attention
    attn, context = module_of(about, tensors, "ade"), tensors["ade/context"].clone().requires_grad_(True)
    tokens, label = placed(about["ade_token_classes"], context.shape[1]), tensors["ade/label"]
    cotangent = tensors["ade/grad_out"]
    side = next(side for side in about["resolutions"] if side**2 == cotangent.shape[1])
    x = tensors[f"ade/x_{side}"].clone().requires_grad_(True)
    attn(x, context, guide=Guide({side**2: visible(label, tokens, (side, side))})).backward(cotangent)
    ours = {"x": x.grad, "context": context.grad} | {name: p.grad for name, p in attn.named_parameters()}
    theirs = {k.removeprefix("ade/grad/"): v for k, v in tensors.items() if k.startswith("ade/grad/")}
    assert set(theirs) == set(ours)
    for name, value in theirs.items():
        close(ours[name], value, 1e-4)


def test_tokens_of_no_class_are_seen_everywhere_as_in_the_authors(attention):
    about, tensors = attention
    attn, context, mask = module_of(about, tensors, "tok"), tensors["tok/context"], tensors["tok/mask"].bool()
    assert tensors["tok/token_classes"].tolist() == about["tok_token_classes"]
    tokens = placed(about["tok_token_classes"], context.shape[1])
    side = round(mask.shape[1] ** 0.5)
    seen = visible(tensors["tok/label"], tokens, (side, side))
    assert torch.equal(seen, mask)
    with torch.no_grad():
        close(attn(tensors["tok/x"], context, guide=Guide({side**2: seen})), tensors["tok/out_rect"], about["tolerance"])


# -- a whole UNet ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def painted():
    about, tensors = outside("unet_plms")
    unet = UNet2DConditionModel(**about["diffusers_config"])
    unet.load_state_dict({k.removeprefix("unet/"): v.float() for k, v in tensors.items() if k.startswith("unet/")})
    net = MatchMaskNet(unet, layers="none", gate="off")
    tokens = placed(about["ade_token_classes"], tensors["context"].shape[1])
    return about, tensors, net, lambda keep: net.guide(tensors["label"], tokens, tuple(tensors["x"].shape[-2:]), keep=keep)


@torch.no_grad()
def test_a_whole_unet_answers_as_the_authors(painted):
    about, tensors, net, guide = painted
    given = tensors["x"], tensors["t"], tensors["context"]
    close(net(*given), tensors["eps_plain"], about["tolerance"]["eps"])
    close(net(*given, guide(False)), tensors["eps_rect"], about["tolerance"]["eps"])
    assert (tensors["eps_rect"] - tensors["eps_plain"]).abs().max() > 100 * about["tolerance"]["eps"]


def test_plms_paints_as_the_authors(painted):
    about, tensors, net, guide = painted
    for steps in about["steps"]:
        sampler = make_sampler("plms", about["scheduler"])
        made = denoise(net.unet, tensors["x_T"], tensors["context"], tensors["uncond"], steps, about["guidance"], sampler,
                       {"guide": guide(True)})
        close(made, tensors[f"plms_{steps}"], about["tolerance"]["plms"])


# -- filters -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=[PLACE, OUTSIDE], ids=["frozen", "outside"])
def filters(request):
    if not (request.param / "matchmask_filter.npz").exists():
        pytest.skip(f"no matchmask fixture in {request.param}")
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(request.param / "matchmask_filter.npz").items()}


def test_votes_and_filters_are_those_of_brute_force(filters):
    for case in range(int(filters["cases"])):
        get = lambda name: filters[f"{name}_{case}"]  # noqa: B023
        labels, readings = get("label"), Readings(get("predictions"), get("confidence"), get("loss"))
        found = vote(readings.predictions, labels)
        assert torch.equal(found.prototype, get("prototype")) and torch.equal(found.votes, get("votes").to(found.votes.dtype))
        assert torch.equal(found.tie, get("tie").bool())
        for filtered, name in ((Relative(), "relative"), (Relative("agree"), "agree_with_label"),
                               (Confidence(filters["confidence_threshold"].item()), "confident"),
                               (ClassLoss(filters["margin"].item(), get("class_mean_loss")), "class_loss")):
            assert torch.equal(filtered(labels, readings), get(name)), name
