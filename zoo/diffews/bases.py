"""What a base model gives to DiffewS: the VAE, a UNet to start from, the states of the empty prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.errors import UserError
from zoo.diffews.net import REFERENCE, random_unet
from zoo.diffusion.base import Base, digest, frozen, load_base

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

STARTS = ("base", "random", "weights")
TINY = "tiny"
TOKENS = 77                                                  # of a prompt, in every CLIP that Stable Diffusion was built on
PROMPT = ""


@dataclass
class Start:
    """vae, unet: fresh objects. text: states of the empty prompt, 77 width. reference: the supports' first convolution, where the
    base brings one. sha256: of the VAE's weights."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text: Tensor
    reference: dict[str, Tensor] | None
    sha256: str


def open_base(place: str | dict, start: str) -> Start:
    """place: "tiny" (shipped), a folder in diffusers' format, owner/name of the Hugging Face hub; or configs {vae, unet}, of
    which a base with random weights is made, the same every time. start: what the UNet begins with:

    base     the base's own weights, and its second first convolution if it has one
    random   fresh weights of the same shape, by torch's generator; the VAE and the prompt stay the base's
    weights  fresh ones too, and no prompt: for an export, which holds both. Of the base no more than its VAE is read
    """
    if start not in STARTS:
        raise UserError(f"no such start: {start!r}", "model.start", f"give {', '.join(STARTS)}")
    if isinstance(place, dict):
        base, text = _of_configs(place)
    else:
        base = _load(place, unet=start == "base", text=start != "weights")
        text = torch.zeros(TOKENS, base.text_width) if start == "weights" else base.text.encode([PROMPT])[0]
    unet = base.unet if start == "base" else random_unet(base.configs["unet"])
    return Start(base.vae, unet, text, base.extra or None, base.sha256("vae"))


def _load(place: str, unet: bool, text: bool) -> Base:
    if place != TINY:
        return load_base(place, unet=unet, text=text, extra=REFERENCE)
    from zoo.tiny import clip, diffusion
    from zoo.tiny.text import text_encoder, tokenizer

    own = {"text_encoder": text_encoder(clip.load()), "tokenizer": tokenizer()} if text else {}
    return load_base(diffusion.FOLDER, unet=unet, text=text, **own)


def _of_configs(configs: dict) -> tuple[Base, Tensor]:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if set(configs) != {"vae", "unet"}:
        raise UserError(f"configs of {', '.join(configs) or 'nothing'}", "model.base", "give those of vae and unet, or a place")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae, unet = frozen(AutoencoderKL(**configs["vae"])), frozen(UNet2DConditionModel(**configs["unet"]))
        text = torch.randn(TOKENS, configs["unet"]["cross_attention_dim"])
    known = {part: dict(net.config) for part, net in (("vae", vae), ("unet", unet))}
    return Base("random", Path(), vae, unet, None, known, digests={"vae": digest(vae)}), text
