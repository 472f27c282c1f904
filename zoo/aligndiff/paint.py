"""Prompts to pictures with coarse masks: sampling while the attention to the class's words is summed up.

All pictures of a call and both halves of the guidance are one batch. A picture depends on its prompt, its vector and its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.errors import UserError
from zoo.aligndiff.capture import LEVELS, Capture, Captured, grids_of
from zoo.aligndiff.embedding import Prompt, encode
from zoo.aligndiff.masks import coarse_map, to_bytes
from zoo.diffusion.attention import install
from zoo.diffusion.base import Base
from zoo.diffusion.latents import decode, to_pictures
from zoo.diffusion.samplers import denoise, make_sampler, start_noise


@dataclass
class Job:
    """vectors: n width, for the prompt's new places; None where it has none."""

    prompt: Prompt
    vectors: Tensor | None
    seed: int


class Painter:
    """base: on the device and in the precision that are wanted. size: (H, W) of the pictures. sampler, steps, guidance: plms, 50
    and 7.5 are the released code's (zoo.diffusion.samplers). levels: of how many of the UNet's sides, from the finest on,
    attention makes coarse masks (released: 3, which are 64, 32 and 16 cells)."""

    def __init__(self, base: Base, size: tuple[int, int], sampler: str = "plms", steps: int = 50, guidance: float = 7.5,
                 levels: int = LEVELS):
        self.base, self.size, self.cells = base, size, base.latent_size(*size)
        self.sampler, self.steps, self.guidance, self.levels = sampler, steps, guidance, levels
        make_sampler(sampler, base.configs["scheduler"]).times(steps)                    # refuses what cannot be, at once
        install(base.unet, Captured)
        self.empty = base.text.encode([""])                                              # 1 T width

    @torch.inference_mode()
    def paint(self, jobs: list[Job]) -> tuple[Tensor, Tensor]:
        """Pictures uint8 B 3 H W and coarse masks, bytes B H W; on the CPU."""
        device = self.base.unet.device
        capture = Capture(columns_of([job.prompt.word for job in jobs]).to(device), grids_of(self.cells, self.levels))
        text = encode(self.base.text.encoder, [job.prompt for job in jobs], [job.vectors for job in jobs]).float()
        start = start_noise([job.seed for job in jobs], self.base.latent_channels, self.cells).to(device)
        sampler = make_sampler(self.sampler, self.base.configs["scheduler"])
        latents = denoise(self.base.unet, start, text, self.empty.to(text), self.steps, self.guidance, sampler,
                          {"capture": capture})
        if not (maps := capture.means()):
            raise UserError("no attention to words there", f"levels={self.levels}", "raise model.levels, for coarser sides")
        coarse = to_bytes(coarse_map(maps, [len(job.prompt.word) for job in jobs], self.size))
        return to_pictures(decode(self.base.vae, latents)).cpu(), coarse.cpu()


def columns_of(words: list[range]) -> Tensor:
    """int64 R n: each row's tokens, its last one repeated where other words are longer."""
    most = max(map(len, words))
    return torch.tensor([[*word, *[word[-1]] * (most - len(word))] for word in words])
