"""What the generator is trained for."""

import torch.nn.functional as F
from torch import Tensor

from zoo.diffusion.attention import Guide
from zoo.diffusion.schedule import add_noise, target
from zoo.matchmask.net import MatchMaskNet


def denoising_loss(net: MatchMaskNet, latents: Tensor, noise: Tensor, times: Tensor, text: Tensor, guide: Guide | None,
                   abar: Tensor, prediction: str) -> Tensor:
    """Mean squared error of what the net answers to noisy latents, B C h w, at times B. text: B T width; abar: of all times;
    prediction: what the base answers with (zoo.diffusion.schedule)."""
    share = abar.to(times.device)[times]
    answer = net(add_noise(latents, noise, share), times, text, guide)
    return F.mse_loss(answer, target(prediction, latents, noise, share).float())
