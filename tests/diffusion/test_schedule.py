"""The noise as functions of tensors, against diffusers' own schedulers and against the formulas."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from tests.diffusion.trees import FIRST_SD, SD_NOISE, VELOCITY
from zoo.diffusion import schedule

TIMES = torch.tensor([0, 1, 500, 999])
LATENTS, NOISE, ANSWER = torch.randn(3, 4, 4, 5, 6, generator=torch.Generator().manual_seed(0))


def test_alphas_are_the_product_of_what_each_time_leaves():
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    assert torch.allclose(schedule.alphas(FIRST_SD).double(), (1 - roots**2).cumprod(0), atol=1e-5)
    given = schedule.alphas({"num_train_timesteps": 3, "trained_betas": [0.1, 0.2, 0.5]})
    assert torch.allclose(given, torch.tensor([0.9, 0.72, 0.36]))


@pytest.mark.parametrize("prediction", schedule.PREDICTIONS)
def test_noise_target_and_answer_are_diffusers_own(prediction):
    abar = schedule.alphas(SD_NOISE)[TIMES]
    ddpm = DDPMScheduler(**SD_NOISE, prediction_type=prediction)
    noisy = schedule.add_noise(LATENTS, NOISE, abar)
    assert torch.equal(noisy, ddpm.add_noise(LATENTS, NOISE, TIMES))
    wanted = NOISE if prediction == "epsilon" else ddpm.get_velocity(LATENTS, NOISE, TIMES)
    assert torch.equal(schedule.target(prediction, LATENTS, NOISE, abar), wanted)
    ddim = DDIMScheduler(**SD_NOISE, prediction_type=prediction, clip_sample=False)
    ddim.set_timesteps(1000)
    for i, time in enumerate(TIMES):
        step = ddim.step(ANSWER[i], int(time), noisy[i])
        found = schedule.clean(prediction, noisy[i : i + 1], ANSWER[i : i + 1], abar[i : i + 1])[0]
        assert torch.allclose(found, step.pred_original_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", schedule.PREDICTIONS)
def test_the_right_answer_gives_back_latents_and_noise(prediction):
    abar = schedule.alphas(SD_NOISE)[TIMES].double()
    latents, noise = LATENTS.double(), NOISE.double()
    noisy = schedule.add_noise(latents, noise, abar)
    answer = schedule.target(prediction, latents, noise, abar)
    assert torch.allclose(schedule.clean(prediction, noisy, answer, abar), latents)
    assert torch.allclose(schedule.noise_of(prediction, noisy, answer, abar), noise)


def test_with_nothing_left_of_the_signal_a_velocity_is_minus_the_latents():
    assert torch.equal(schedule.clean("v_prediction", NOISE, ANSWER, torch.zeros(4)), -ANSWER)
    assert torch.equal(schedule.add_noise(LATENTS, NOISE, torch.tensor(0.0)), NOISE)


def test_half_precision_stays_half_and_roots_are_taken_in_full():
    abar = schedule.alphas(VELOCITY)[TIMES]
    noisy = schedule.add_noise(LATENTS.bfloat16(), NOISE.bfloat16(), abar)
    exact = schedule.add_noise(LATENTS, NOISE, abar)
    assert noisy.dtype == torch.bfloat16 and (noisy.float() - exact).abs().max() < 0.05
