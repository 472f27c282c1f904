"""Official figures: the PLMS of FreestyleNet on its tiny UNet, the VAE of DiffewS's fixture. Sizes come from the fixtures."""

import json

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from zoo.diffusion.latents import encode, mean
from zoo.diffusion.samplers import denoise, make_sampler
from zoo.diffusion.schedule import add_noise, alphas, clean


def fixture(shared, name: str) -> tuple[dict, dict]:
    folder = shared / "parity"
    if not (folder / f"{name}.json").exists():
        pytest.skip(f"no {name} in {folder}")
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


class Visible:
    """Cross-attention in which a cell sees the words of its own class and all that belong to no class; labels at latent x 8."""

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, temb=None, labels=None, owners=None):
        context = x if encoder_hidden_states is None else encoder_hidden_states
        mask = None
        if encoder_hidden_states is not None:
            side = round(x.shape[1] ** 0.5)
            cells = labels[:, :: labels.shape[1] // side, :: labels.shape[2] // side].flatten(1)          # B cells
            mask = ((cells[:, :, None] == owners[:, None]) | (owners[:, None] == -1))[:, None]            # B 1 cells T
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                   for part in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


@pytest.mark.parametrize("steps", [10, 50])
def test_plms_is_the_official_one(shared, steps):
    about, tensors = fixture(shared, "matchmask_unet_plms")
    net = UNet2DConditionModel(**about["diffusers_config"]).eval()
    net.load_state_dict({k.removeprefix("unet/"): v.float() for k, v in tensors.items() if k.startswith("unet/")})
    net.set_attn_processor(Visible())
    count = len(tensors["x_T"])
    owners = torch.full(tensors["context"].shape[:2], -1)
    for row, classes in zip(owners, about["ade_token_classes"]):
        row[1 : 1 + len(classes)] = torch.tensor(classes)
    everywhere = torch.full_like(owners, -1)                 # the unconditional rows are not rectified
    seen = {"labels": tensors["label"].long().repeat(2, 1, 1), "owners": torch.cat([everywhere, owners])}
    found = denoise(net, tensors["x_T"], tensors["context"], tensors["uncond"], steps, about["guidance"],
                    make_sampler("plms", about["scheduler"]), seen)
    assert found.shape[0] == count
    assert (found - tensors[f"plms_{steps}"]).abs().max() < about["tolerance"]["plms"]


@pytest.mark.parametrize("case", ["pic1", "pic5"])
def test_latents_and_pictures_of_a_stable_diffusion_vae(shared, case):
    about, tensors = fixture(shared, "diffews_cases")
    vae = AutoencoderKL(**about["vae_config"]).eval()
    weights = load_file(shared / "parity" / "diffews_weights.safetensors")
    vae.load_state_dict({k.removeprefix("vae."): v for k, v in weights.items() if k.startswith("vae.")})
    scaling = vae.config.scaling_factor
    query = tensors[f"{case}.query_uint8"]
    latent = mean(encode(vae, query[None]), scaling)
    assert (latent - tensors[f"{case}.z_query"].view_as(latent)).abs().max() < 1e-4
    white = tensors[f"{case}.support_mask"].reshape(-1, 1, *query.shape[-2:]).expand(-1, 3, -1, -1).to(torch.uint8) * 255
    masks = mean(encode(vae, white), scaling)
    assert (masks - tensors[f"{case}.z_support_mask"].view_as(masks)).abs().max() < 1e-4


def test_steps_of_the_velocity_sampler_are_the_official_ones(shared):
    _, tensors = fixture(shared, "diffews_cases")
    abar = alphas({"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
    assert torch.allclose(abar, tensors["sched.sd_alphas_cumprod"].float(), atol=1e-6)
    x, v = tensors["sched.x"], tensors["sched.v"]
    times = sorted({int(k.split(".")[2][1:]) for k in tensors if k.startswith("sched.sd.t")}, reverse=True)
    for time, then in zip(times, [*times[1:], 0]):
        z = clean("v_prediction", x, v, abar[time])
        assert (z - tensors[f"sched.sd.t{time}.z0"]).abs().max() < 1e-4
        noise = abar[time].sqrt() * v + (1 - abar[time]).sqrt() * x
        assert (add_noise(z, noise, abar[then]) - tensors[f"sched.sd.t{time}.prev"]).abs().max() < 1e-4
