"""Trains the tiny text-to-image UNet from nothing: python -m zoo.tiny.train_unet [--out runs/tiny_unet] [--seed 0]

It needs the tiny CLIP (its text tower stays as it is) and the tiny autoencoder. First objects that fill the picture, then scenes
too, last larger pictures. Run it again to go on.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from open_clip import CLIP
from torch import Tensor

from zoo.tiny import autoencoder, clip
from zoo.tiny.diffusion import scheduler, untrained, write
from zoo.tiny.pictures import Pool
from zoo.tiny.sentences import prompt
from zoo.tiny.text import text_encoder, tokenizer
from zoo.tiny.training import arguments, average, cosine, descend, optimiser, train


@dataclass(frozen=True)
class Phase:
    """mix: how often each pool is drawn from."""

    steps: int
    side: int  # pixels
    batch: int
    mix: dict[str, float]


PHASES = [
    Phase(5000, 64, 16, {"solo": 0.8, "single": 0.2, "scene": 0.0}),
    Phase(4500, 64, 16, {"solo": 0.4, "single": 0.2, "scene": 0.4}),
    Phase(500, 128, 6, {"solo": 0.3, "single": 0.1, "scene": 0.6}),
]
POOLS = {  # side -> layout -> start, count
    64: {"solo": (0, 6000), "single": (20_000, 2500), "scene": (30_000, 5000)},
    128: {"solo": (40_000, 600), "single": (50_000, 200), "scene": (60_000, 1200)},
}
LR, EMPTY = 1e-3, 0.1  # EMPTY: how often the prompt is left out, for classifier-free guidance


class Latents:
    """The pictures of a pool as latents; each is drawn and encoded when first asked for."""

    def __init__(self, pool: Pool, vae: AutoencoderKL):
        self.pool, self.vae, self.kept = pool, vae, {}

    @torch.inference_mode()
    def __getitem__(self, i: int) -> Tensor:
        if i not in self.kept:
            image = torch.from_numpy(self.pool[i].image)
            latent = self.vae.encode(autoencoder.pictures_to_input(image[None])).latent_dist
            self.kept[i] = latent.mean[0] * self.vae.config.scaling_factor
        return self.kept[i]


class Training:
    def __init__(self, seed: int, phases: list[Phase], vae: AutoencoderKL, model: CLIP):
        torch.manual_seed(seed)
        self.phases, self.net, self.scheduler = phases, untrained(), scheduler()
        self.average = average(self.net, 0.999)
        self.optimizer = optimiser(self.net, LR, decay=0.01, betas=(0.9, 0.99))
        self.encoder, self.words = text_encoder(model), tokenizer()
        self.pools = {
            side: {layout: Latents(Pool("unet", *span, layout, side), vae) for layout, span in pools.items()}
            for side, pools in POOLS.items()
        }
        self.steps = sum(phase.steps for phase in phases)

    def phase(self, number: int) -> Phase:
        for phase in self.phases:
            if number < phase.steps:
                return phase
            number -= phase.steps
        raise IndexError(number)

    def batch(self, phase: Phase, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        """Latents [B, 4, h, w] and their prompts, some of them empty."""
        latents, prompts = [], []
        for layout in rng.choice(list(phase.mix), phase.batch, p=list(phase.mix.values())):
            source = self.pools[phase.side][layout]
            i = int(rng.integers(len(source.pool)))
            latents.append(source[i])
            prompts.append("" if rng.random() < EMPTY else prompt(source.pool[i], rng))
        return torch.stack(latents), prompts

    @torch.no_grad()
    def said(self, prompts: list[str]) -> Tensor:
        """[B, 77, width], as the pipeline's own."""
        ids = self.words(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.encoder(ids).last_hidden_state

    def step(self, number: int, rng: np.random.Generator) -> dict[str, float]:
        latents, prompts = self.batch(self.phase(number), rng)
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        times = torch.from_numpy(rng.integers(self.scheduler.config.num_train_timesteps, size=len(latents)))
        noisy = self.scheduler.add_noise(latents, noise, times)
        aim = self.scheduler.get_velocity(latents, noise, times)
        loss = F.mse_loss(self.net(noisy, times, self.said(prompts)).sample, aim)
        descend(loss, self.net, self.optimizer, LR * cosine(number, self.steps, warmup=200))
        self.average.update_parameters(self.net)
        return {"loss": loss.item()}


def main() -> None:
    asked = arguments("Trains the tiny UNet.", "runs/tiny_unet", {"vae": autoencoder.FOLDER, "clip": clip.FOLDER})
    phases = [Phase(**asdict(p) | {"steps": max(2, round(p.steps * asked.share))}) for p in PHASES]
    vae = autoencoder.load(asked.vae)
    run = Training(asked.seed, phases, vae, clip.load(asked.clip))
    recipe = {"seed": asked.seed, "phases": json.dumps([asdict(p) for p in phases])}
    train(asked.out, recipe, run.steps, {"net": run.net, "average": run.average, "optimizer": run.optimizer}, run.step)
    write(run.average.module, vae, asked.out)
    print(f"weights: {asked.out}")


if __name__ == "__main__":
    from datamodules.errors import door

    door(main)
