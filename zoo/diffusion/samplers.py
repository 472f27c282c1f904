"""Noise to latents: DDIM, PLMS and DPM-Solver++ with guidance, all pictures and both halves of the guidance in one batch.

    sampler = make_sampler("plms", base.configs["scheduler"])
    seeds = [seed_of(seed, name, k) for k in range(5)]
    latents = sample(base.unet, cond, uncond, base.latent_size(512, 512), 50, 2.0, seeds, sampler)
    pictures = to_pictures(decode(base.vae, latents))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.errors import UserError
from zoo.diffusion.schedule import noise_of

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UNet2DConditionModel

NAMES = ("ddim", "plms", "dpm")
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
STABLE_DIFFUSION = {"steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"}   # ends at time 1 and abar[0]


@dataclass
class Sampler:
    """A scheduler of diffusers, and what the UNet answers with (schedule.py)."""

    scheduler: DDIMScheduler | PNDMScheduler | DPMSolverMultistepScheduler
    prediction: str

    def times(self, steps: int) -> Tensor:
        """The times of the evaluations, from noise to picture; the scheduler starts anew."""
        most = self.scheduler.config.num_train_timesteps - 1
        if not 1 <= steps <= most:
            raise UserError(f"{steps} steps", "steps", f"give 1 to {most}")
        self.scheduler.set_timesteps(steps)
        return self.scheduler.timesteps

    def step(self, answer: Tensor, time: Tensor, latents: Tensor) -> Tensor:
        if self.scheduler.config.prediction_type != self.prediction:
            answer = noise_of(self.prediction, latents, answer, self.scheduler.alphas_cumprod[time])
        return self.scheduler.step(answer, time, latents, return_dict=False)[0]


def make_sampler(name: str, scheduler: dict) -> Sampler:
    """A sampler for a base's scheduler_config.json, of which the noise and what is predicted are read; the rest is the sampler's.

    ddim: one evaluation a step, plain. plms: as FreestyleNet's and the first Stable Diffusion's, one evaluation more than
    steps; it averages answers of several times, so velocities become noise first (left to diffusers, the error is eight times
    as large). dpm: DPM-Solver++ of second order at Karras' noise levels, of which many are small; it ends without noise, the
    other two at abar[0]. Mean error at 10, 20, 50 steps where the noise is known exactly (a mixture of 6 normal distributions
    of spread 0.15 in 16 dimensions): ddim 0.058, 0.040, 0.016; plms 0.054, 0.012, 0.002; dpm 0.015, 0.003, 0.002.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

    noise = {key: scheduler[key] for key in NOISE if key in scheduler}
    prediction = scheduler.get("prediction_type", "epsilon")
    if name == "ddim":
        made = DDIMScheduler(**noise, **STABLE_DIFFUSION, clip_sample=False, prediction_type=prediction)
    elif name == "plms":
        made = PNDMScheduler(**noise, **STABLE_DIFFUSION, skip_prk_steps=True)
    elif name == "dpm":
        made = DPMSolverMultistepScheduler(**noise, use_karras_sigmas=True, algorithm_type="dpmsolver++", solver_order=2,
                                           prediction_type=prediction)
    else:
        raise UserError("no such sampler", name, f"give one of {', '.join(NAMES)}")
    return Sampler(made, prediction)


# -- seeds and noise ---------------------------------------------------------------------------------------------------
def seed_of(*parts: str | int) -> int:
    """A seed from whatever names a picture (the run's seed, a mask's name, its number): the same on every machine.

    32 bits, since torch's CPU generator takes no more of a seed.
    """
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4], "big")


def start_noise(seeds: list[int], channels: int, size: tuple[int, int]) -> Tensor:
    """B channels h w, on the CPU: row i depends on seeds[i] alone (and is what diffusers draws for a generator of that seed)."""
    return torch.stack([torch.randn(channels, *size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


# -- sampling ----------------------------------------------------------------------------------------------------------
def sample(unet: UNet2DConditionModel, cond: Tensor, uncond: Tensor | None, size: tuple[int, int], steps: int, guidance: float,
           seeds: list[int], sampler: Sampler, cross_attention_kwargs: dict | None = None,
           callback: Callable[[int, int, Tensor], None] | None = None, progress: bool = False) -> Tensor:
    """Latents B C h w of B seeds. size: (h, w) of the latents; the rest as in `denoise`."""
    noise = start_noise(seeds, unet.config.in_channels, size).to(cond.device)
    return denoise(unet, noise, cond, uncond, steps, guidance, sampler, cross_attention_kwargs, callback, progress)


@torch.no_grad()
def denoise(unet: UNet2DConditionModel, start: Tensor, cond: Tensor, uncond: Tensor | None, steps: int, guidance: float,
            sampler: Sampler, cross_attention_kwargs: dict | None = None,
            callback: Callable[[int, int, Tensor], None] | None = None, progress: bool = False) -> Tensor:
    """Latents B C h w fp32 from a start B C h w; the UNet runs in its own precision, the steps in fp32.

    cond: B T width, or 1 T width for all. uncond: likewise. With guidance 1 the unconditional half is left out (uncond may be
    None); otherwise the UNet sees 2B rows, the unconditional ones first, and cross_attention_kwargs must speak of these.
    callback(number, time, latents) follows every evaluation, of which plms has one more than steps.
    """
    guided = guidance != 1
    text = guidance_rows(cond, uncond, len(start)) if guided else cond.expand(len(start), -1, -1)
    text = text.to(unet.dtype)
    latents = start.to(cond.device, torch.float32)
    for number, time in enumerate(tqdm(sampler.times(steps), disable=not progress, leave=False)):
        rows = torch.cat([latents, latents]) if guided else latents
        output = unet(rows.to(unet.dtype), time, encoder_hidden_states=text, cross_attention_kwargs=cross_attention_kwargs)
        answer = output.sample.float()
        if guided:
            without, with_text = answer.chunk(2)
            answer = without + guidance * (with_text - without)
        latents = sampler.step(answer, time, latents)
        if callback is not None:
            callback(number, int(time), latents)
    return latents


def guidance_rows(cond: Tensor, uncond: Tensor | None, count: int) -> Tensor:
    """2 count T width: unconditional rows, then conditional ones."""
    if uncond is None:
        raise UserError("guidance needs the states of the empty prompt", "uncond", "give them, or guidance 1")
    if cond.shape[1:] != uncond.shape[1:]:
        raise UserError(f"prompts of {tuple(cond.shape[1:])} and an empty one of {tuple(uncond.shape[1:])}", "uncond",
                        "both need the same number of tokens and the same width")
    return torch.cat([uncond.expand(count, -1, -1), cond.expand(count, -1, -1)])
