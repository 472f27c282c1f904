"""From the query to its mask: one step (OI2M, the method), or several in which the mask appears out of the photo (MI2M).

x_t = sqrt(abar_t) mask + sqrt(1 - abar_t) query: the photo's latents play the part of the noise, so the net answers with the
velocity v = sqrt(abar_t) query - sqrt(1 - abar_t) mask. With betas of 1 every abar is 0: x_t is the query, and v is minus the
mask's latents (section 4.3 of the paper).
"""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.errors import UserError
from zoo.diffews.net import TIME, DiffewSNet
from zoo.diffusion.attention import Memory
from zoo.diffusion.samplers import make_sampler
from zoo.diffusion.schedule import add_noise, alphas, clean, target

VELOCITY = "v_prediction"
TIMES = 1000


class Process:
    """betas: the first and the last, roots evenly between. (1, 1) is the paper's best; its MI2M has (0.00085, 0.012), as Stable
    Diffusion's noise, or (0.0272, 0.384). steps: evaluations for an answer, by DDIM."""

    def __init__(self, betas: tuple[float, float] = (1.0, 1.0), steps: int = 1):
        if not 0 < betas[0] <= betas[1] <= 1:
            raise UserError(f"betas of {betas[0]} and {betas[1]}", "betas", "give 0 < first <= last <= 1")
        self.steps = steps
        self.scheduler = {"num_train_timesteps": TIMES, "beta_start": betas[0], "beta_end": betas[1],
                          "beta_schedule": "scaled_linear", "prediction_type": VELOCITY}
        self.abar = alphas(self.scheduler)
        if self.one_step and steps != 1:
            raise UserError(f"{steps} steps with betas of 1, where every step is the same", "steps", "give 1, or other betas")
        self.sampler = make_sampler("ddim", self.scheduler)
        self.evaluated = self.sampler.times(steps).tolist()      # the times at which the net is asked

    @property
    def one_step(self) -> bool:
        return not self.abar.any()

    # -- training --
    def times(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """int64 B on the generator's device: even over all, or the one at which the net is asked."""
        if self.one_step:
            return torch.full((batch,), TIME)
        return torch.randint(TIMES, (batch,), generator=generator, device=None if generator is None else generator.device)

    def noisy(self, query: Tensor, mask: Tensor, times: Tensor) -> Tensor:
        """x_t, B C h w, of latents B C h w."""
        return add_noise(mask, query, self.abar[times.cpu()])

    def target(self, query: Tensor, mask: Tensor, times: Tensor) -> Tensor:
        """v, B C h w: what the net should answer at x_t."""
        return target(VELOCITY, mask, query, self.abar[times.cpu()])

    # -- inference --
    def condition(self, net: DiffewSNet, photos: Tensor, masks: Tensor, weights: Tensor | None = None) -> list[Memory]:
        """The supports' memory at each time that is evaluated; arguments as in `DiffewSNet.write`."""
        return [net.write(photos, masks, time, weights) for time in self.evaluated]

    def answer(self, net: DiffewSNet, query: Tensor, memories: list[Memory]) -> Tensor:
        """The mask's latents B C h w fp32 of a query's."""
        if len(memories) != self.steps:
            raise UserError(f"a memory for {len(memories)} steps, but {self.steps} are asked for", "memory", "write it anew")
        times, x = self.sampler.times(self.steps), query
        for time, memory in zip(times, memories):
            v = net.read(x, memory, int(time))
            mask = clean(VELOCITY, x, v, self.abar[time])
            x = self.sampler.step(v, time, x)
        return mask
