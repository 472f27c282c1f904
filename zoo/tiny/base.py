"""The base a method stands on, by its place: the shipped tiny one, a folder, a name, or configs with random weights for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from datamodules.errors import UserError
from zoo.diffusion.base import Base, digest, frozen, load_base

TINY = "tiny"
PARTS = ("vae", "unet", "text_encoder")
NOISE = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def open_base(place: str | dict) -> Base:
    """place: "tiny" (shipped), a folder in diffusers' format, owner/name of the Hugging Face hub; or configs {vae, unet,
    text_encoder}, of which a base with random weights is made, the same every time, that predicts noise."""
    if isinstance(place, dict):
        return _of_configs(place)
    if place != TINY:
        return load_base(place)
    from zoo.tiny import clip, diffusion
    from zoo.tiny.text import text_encoder, tokenizer

    return load_base(diffusion.FOLDER, text_encoder=text_encoder(clip.load()), tokenizer=tokenizer())


def _of_configs(configs: dict) -> Base:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from zoo.diffusion.text import Text
    from zoo.tiny.text import tokenizer

    if set(configs) != set(PARTS):
        raise UserError(f"configs of {', '.join(configs) or 'nothing'}", "base", f"give those of {', '.join(PARTS)}, or a place")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae, unet = AutoencoderKL(**configs["vae"]), UNet2DConditionModel(**configs["unet"])
        encoder = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    nets = dict(zip(PARTS, map(frozen, (vae, unet, encoder))))
    known = {"vae": dict(vae.config), "unet": dict(unet.config), "scheduler": dict(NOISE)}
    digests = {part: digest(net) for part, net in nets.items()}
    return Base("random", Path(), vae, unet, Text(encoder, tokenizer()), known, digests=digests)
