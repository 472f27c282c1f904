"""The noise of a base as functions of tensors: what is added, what a net is asked for, what its answer says.

latents, noise, noisy, output: B and any further axes. abar: B (or one number), the share of the signal's power that is left
at each sample's time, `alphas(...)[times]`. prediction, what the net answers with: "epsilon", the noise, or "v_prediction",
sqrt(abar) noise - sqrt(1 - abar) latents.
"""

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction")


def alphas(scheduler: dict) -> Tensor:
    """abar of every time, [T] fp32, from a base's scheduler_config.json."""
    from diffusers import DDIMScheduler

    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    return DDIMScheduler(**{key: scheduler[key] for key in known if key in scheduler}).alphas_cumprod


def add_noise(latents: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    signal, disturbance = _roots(abar, latents)
    return signal * latents + disturbance * noise


def target(prediction: str, latents: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """What the net should answer."""
    if prediction == "epsilon":
        return noise
    signal, disturbance = _roots(abar, latents)
    return signal * noise - disturbance * latents


def clean(prediction: str, noisy: Tensor, output: Tensor, abar: Tensor) -> Tensor:
    """The latents that an answer speaks of. An answer with the noise says nothing about them where abar is 0."""
    signal, disturbance = _roots(abar, noisy)
    if prediction == "epsilon":
        return (noisy - disturbance * output) / signal
    return signal * noisy - disturbance * output


def noise_of(prediction: str, noisy: Tensor, output: Tensor, abar: Tensor) -> Tensor:
    """The noise that an answer speaks of."""
    if prediction == "epsilon":
        return output
    signal, disturbance = _roots(abar, noisy)
    return signal * output + disturbance * noisy


def _roots(abar: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of signal and noise, of as many axes as `like`; roots are taken in the precision of abar."""
    abar = abar.to(like.device)
    abar = abar.view(abar.shape + (1,) * (like.ndim - abar.ndim)) if abar.ndim else abar
    return torch.sqrt(abar).to(like.dtype), torch.sqrt(1 - abar).to(like.dtype)
