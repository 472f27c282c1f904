"""Pictures painted into label maps: K of each, from K noises that are known by the seed, the map's name and their number.

    painter = Painter(base, net, prompter)
    for jobs in grouped([Job("2007_000032", labels, [0, 1, 2, 3, 4])], batch=10):
        for painted in painter.paint(jobs): ...

All pictures of a group and both halves of the guidance are one batch. What does not change from step to step is made once: who
sees which word, and the text's keys and values. The unconditional half is not rectified (FreestyleNet's way).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.errors import UserError
from zoo.diffusion.base import Base
from zoo.diffusion.latents import decode, to_pictures
from zoo.diffusion.samplers import denoise, make_sampler, seed_of, start_noise
from zoo.matchmask.masks import resized
from zoo.matchmask.net import MatchMaskNet
from zoo.matchmask.prompts import Prompt, Prompter


@dataclass
class Job:
    """A label map H W of any size, and which of its pictures are to be painted."""

    name: str
    labels: Tensor
    numbers: list[int]


@dataclass
class Painted:
    """picture: uint8 3 H W; labels: the map at its size, H W."""

    name: str
    number: int
    picture: Tensor
    labels: Tensor
    prompt: Prompt
    seed: int


class Painter:
    """base: on the device and in the precision that are wanted; its UNet is the net's. size: (H, W) of the pictures (None: the
    base's own). sampler, steps, guidance: plms, 50 and 2 are the paper's; dpm needs 20 steps (zoo.diffusion.samplers). rectify:
    False paints from the prompts alone."""

    def __init__(self, base: Base, net: MatchMaskNet, prompter: Prompter, size: tuple[int, int] | None = None,
                 sampler: str = "plms", steps: int = 50, guidance: float = 2.0, seed: int = 0, rectify: bool = True):
        if base.unet is not net.unet:
            raise UserError("this net stands on another base", "painter", "make it of base.unet")
        self.base, self.net, self.prompter, self.rectify = base, net.to(base.unet.device), prompter, rectify
        self.size = tuple(size) if size else (base.side, base.side)
        self.cells = base.latent_size(*self.size)
        self.sampler, self.steps, self.guidance, self.seed = sampler, steps, guidance, seed
        make_sampler(sampler, base.configs["scheduler"]).times(steps)                    # refuses what cannot be, at once
        net.unet.to(memory_format=torch.channels_last)
        self.empty = base.text.encode([""])                                              # 1 T width

    def paint(self, jobs: list[Job]) -> list[Painted]:
        """The pictures of all jobs, as one batch."""
        maps = [resized(job.labels, self.size) for job in jobs]
        prompts = [self.prompter.prompt(labels) for labels in maps]
        pictures = to_pictures(decode(self.base.vae, self.latents(jobs, maps, prompts))).cpu()
        places = [(m, number) for m, job in enumerate(jobs) for number in job.numbers]
        return [Painted(jobs[m].name, number, picture, maps[m].cpu(), prompts[m], self.seed_of(jobs[m].name, number))
                for (m, number), picture in zip(places, pictures)]

    def latents(self, jobs: list[Job], maps: list[Tensor], prompts: list[Prompt],
                callback: Callable[[int, int, Tensor], None] | None = None) -> Tensor:
        """R C h w of all jobs' pictures. maps: the jobs' label maps at the pictures' size; callback: see `denoise`."""
        device, channels = self.base.unet.device, self.base.latent_channels
        rows = [m for m, job in enumerate(jobs) for _ in job.numbers]
        start = start_noise([self.seed_of(job.name, number) for job in jobs for number in job.numbers], channels, self.cells)
        text = self.base.text.encode([prompt.text for prompt in prompts])[rows]
        guide = None
        if self.rectify:
            labels, tokens = torch.stack(maps).to(device), torch.stack([prompt.tokens for prompt in prompts]).to(device)
            guide = self.net.guide(labels, tokens, self.cells, rows, keep=True)
        sampler = make_sampler(self.sampler, self.base.configs["scheduler"])
        return denoise(self.base.unet, start.to(device), text, self.empty, self.steps, self.guidance, sampler, {"guide": guide},
                       callback)

    def seed_of(self, name: str, number: int) -> int:
        return seed_of(self.seed, name, number)


def grouped(jobs: Iterable[Job], batch: int) -> Iterator[list[Job]]:
    """Groups of `batch` pictures, the last may have fewer; the pictures of a label map may fall into several."""
    group, room = [], batch
    for job in jobs:
        left = list(job.numbers)
        while left:
            now, left = left[:room], left[room:]
            group.append(Job(job.name, job.labels, now))
            room -= len(now)
            if room == 0:
                yield group
                group, room = [], batch
    if group:
        yield group
