"""The numbers of AlignDiff's released code, and of Algorithm 1 by brute force: all the fixtures hold, sizes from their JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests.conftest import shared_folder
from tests.parity.freeze_aligndiff import PLACE
from zoo.aligndiff.align import Rules, align
from zoo.aligndiff.capture import Capture, Captured
from zoo.aligndiff.embedding import encode_ids
from zoo.aligndiff.loss import FOREGROUND, cells_of, masked_loss
from zoo.aligndiff.masks import coarse_map, foreground, to_bytes
from zoo.diffusion.attention import install

OUTSIDE = shared_folder() / "parity"
BOTH = pytest.mark.parametrize("folder", [PLACE, OUTSIDE], ids=["frozen", "outside"])
WHOLE = pytest.mark.parametrize("folder", [OUTSIDE], ids=["outside"])
STRIDE = 4                               # every such pixel of the float maps is in the fixture
BYTE = 1                                 # and the bytes may differ by so much


def fixture(folder: Path, part: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Facts and tensors of a part: aligndiff_<part>.json and .safetensors."""
    if not (folder / f"aligndiff_{part}.safetensors").exists():
        pytest.skip(f"no aligndiff fixture in {folder}")
    return json.loads((folder / f"aligndiff_{part}.json").read_text()), load_file(folder / f"aligndiff_{part}.safetensors")


def close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


# -- 1. the loss -------------------------------------------------------------------------------------------------------
@BOTH
def test_the_loss_is_the_authors_with_each_samples_own_mask(folder):
    about, t = fixture(folder, "loss")
    assert about["threshold"] == FOREGROUND
    cells = cells_of(t["masks"], tuple(t["pred"].shape[-2:]))
    assert torch.equal(cells, t["foreground"].bool())
    for i, bg_lambda in enumerate(about["lambdas"]):
        pred = t["pred"].clone().requires_grad_(True)
        each = masked_loss(pred, t["target"], cells, bg_lambda)
        close(each, t[f"loss_each_{i}"], about["tolerance"])
        close(each.mean(), t[f"loss_{i}"], about["tolerance"])
        if f"grad_pred_{i}" in t:
            each.mean().backward()
            close(pred.grad, t[f"grad_pred_{i}"], about["tolerance"])
        assert (each.mean() - t[f"loss_released_batch_{i}"]).abs() > 10 * about["tolerance"]
    close(masked_loss(t["pred"], t["target"], cells, masking="none").mean(), t["plain_mse"], about["tolerance"])


# -- 2. the learnt adjective -------------------------------------------------------------------------------------------
@BOTH
def test_the_learnt_word_passes_through_the_text_encoder(folder):
    about, t = fixture(folder, "embedding")
    encoder = CLIPTextModel(CLIPTextConfig(**about["config"])).eval().requires_grad_(False)
    encoder.load_state_dict({k.removeprefix("w/"): v.float() for k, v in t.items() if k.startswith("w/")})
    new = t["input_ids"] == about["new_token_id"]
    assert new.nonzero()[:, 1].tolist() == [about["position_of_v_star"]] * len(new)
    vector = t["v_star"].clone().requires_grad_(True)
    hidden = encode_ids(encoder, t["input_ids"], new, vector.expand(len(new), -1))
    close(hidden, t["hidden"], about["tolerance"])
    (hidden * t["grad_out"]).sum().backward()
    close(vector.grad, t["grad_v_star"], 10 * about["tolerance"])
    without = encode_ids(encoder, t["input_ids_without"], torch.zeros_like(new), None)
    close(without, t["hidden_without"], about["tolerance"])
    close(encoder(t["input_ids_without"]).last_hidden_state, without, about["tolerance"])
    assert (hidden - t["hidden_inserted_after_encoding"]).abs().max() > 100 * about["tolerance"]


# -- 3. attention maps of a UNet ---------------------------------------------------------------------------------------
@WHOLE
def test_captured_maps_are_the_means_of_the_authors_store(folder):
    about, t = fixture(folder, "capture")
    unet = UNet2DConditionModel(**about["diffusers_config"]).eval()
    unet.load_state_dict({k.removeprefix("unet/"): v.float() for k, v in t.items() if k.startswith("unet/")})
    install(unet, Captured)
    rows, tokens = t["x"].repeat(2, 1, 1, 1), t["context"].shape[1]
    grids = {side * side: (side, side) for side in about["resolutions"]}
    capture = Capture(torch.arange(tokens)[None], grids, ("down", "mid", "up"))
    with torch.no_grad():
        for number, time in enumerate(about["timesteps"]):
            eps = unet(rows, time, t["context"], cross_attention_kwargs={"capture": capture}).sample
            if number == 0:
                close(eps, t["eps_0"], about["tolerance"])
    for name in [name for name in t if name.startswith("mean_")]:
        side, places = int(name.rpartition("_")[2]), ("down", "up") if "updown" in name else None
        close(capture.mean((side, side), places)[0].permute(1, 2, 0), t[name], about["tolerance"])


# -- 4. coarse masks ---------------------------------------------------------------------------------------------------
@WHOLE
def test_coarse_masks_are_the_authors_bytes(folder):
    about, t = fixture(folder, "coarse")
    tokens = next(v for k, v in t.items() if k.startswith("step0_")).shape[-1]
    sides = sorted(int(k.removeprefix("mean_")) for k in t if k.startswith("mean_"))
    capture = Capture(torch.arange(tokens)[None], {side * side: (side, side) for side in sides})
    for step in range(about["steps"]):
        for number, layer in enumerate(about["layers"]):
            name = f"{layer['place']}_{number}"
            if capture.wants(name, layer["res"] ** 2):
                capture.add(name, t[f"step{step}_layer{number}"].float().mean(0)[None])
    for side in sides:
        close(capture.mean((side, side))[0].permute(1, 2, 0), t[f"mean_{side}"].float(), 1e-3)       # kept in 16 bit
    for k, (first, end) in enumerate(about["token_spans"]):
        size = tuple(t[f"coarse_{k}"].shape)
        found = coarse_map([maps[:, first:end] for maps in capture.means()], [end - first], size)[0]
        close(found[::STRIDE, ::STRIDE], t[f"map_{k}"], 1e-5)
        values = to_bytes(found)
        close(values.int(), t[f"coarse_{k}"].int(), BYTE)
        unsure = (t[f"coarse_{k}"].int() - 102).abs() <= BYTE
        assert ((foreground(values) == (t[f"coarse_{k}"] > 102)) | unsure).all()


# -- 5. Algorithm 1 ----------------------------------------------------------------------------------------------------
class TraceSegmenter:
    """f of the trace: prototypes, and a sigmoid of the difference of two cosines."""

    def __init__(self):
        self.thetas = []

    def condition(self, pairs):
        def mean(weights):
            return torch.stack([(f * m).sum((1, 2)) / (m.sum() + 1e-5) for (f, _), m in zip(pairs, weights)]).mean(0)

        masks = [mask.double() for _, mask in pairs]
        self.thetas.append(torch.stack([mean(masks), mean([1 - mask for mask in masks])]))
        return self.thetas[-1]

    def segment(self, pictures, memory, threshold):
        def alike(picture, theta):
            return F.cosine_similarity(picture, theta[:, None, None], dim=0)

        return [torch.sigmoid(10 * (alike(p, memory[0]) - alike(p, memory[1]))) > threshold for p in pictures]


@BOTH
@pytest.mark.parametrize("way", ["paper", "released"])
def test_algorithm_1_accepts_and_re_estimates_as_the_trace(folder, way):
    if not (folder / "aligndiff_algorithm1.npz").exists():
        pytest.skip(f"no aligndiff fixture in {folder}")
    trace = np.load(folder / "aligndiff_algorithm1.npz")
    masks = lambda name: torch.from_numpy(np.unpackbits(trace[name], axis=-1)[..., : int(trace["width"])]).bool()
    features = lambda name: torch.from_numpy(trace[name].astype(np.float64))
    rules = {"paper": Rules(float(trace["alpha"]), "coarse", 0.5, 0.5), "released": Rules(float(trace["alpha"]))}[way]
    f = TraceSegmenter()
    found = align(f, list(zip(features("good_features"), masks("good_masks"))), list(features("features")),
                  list(masks("coarse")), rules)
    assert np.abs(f.thetas[0].numpy() - trace["theta1"]).max() <= 1e-4
    assert torch.equal(torch.stack(found.first), masks(f"{way}_prediction1"))
    assert np.allclose(found.iou, trace[f"{way}_iou"], atol=1e-6, equal_nan=True)
    assert found.accepted == trace[f"{way}_accepted"].tolist()
    assert np.abs(f.thetas[1].numpy() - trace[f"{way}_theta2"]).max() <= 1e-4
    assert torch.equal(torch.stack(found.masks), masks(f"{way}_final"))
