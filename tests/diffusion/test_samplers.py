"""Samplers: formulas by hand, guidance in one batch, and nothing that depends on the batch."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from datamodules.errors import UserError
from tests.diffusion import trees
from tests.diffusion.trees import FIRST_SD, SD_NOISE, VELOCITY
from zoo.diffusion.samplers import NAMES, denoise, make_sampler, sample, seed_of, start_noise
from zoo.diffusion.schedule import alphas, clean

BOTH = [FIRST_SD, VELOCITY]


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return trees.unet()


@pytest.fixture(scope="module")
def states():
    rng = torch.Generator().manual_seed(3)
    return torch.randn(4, 6, trees.WIDTH, generator=rng), torch.randn(1, 6, trees.WIDTH, generator=rng)


class Exact:
    """Stands for a UNet that knows the noise exactly: latents are normally distributed about `centre`, with this spread."""

    dtype = torch.float32

    def __init__(self, scheduler: dict, centre: float, spread: float):
        self.abar, self.prediction = alphas(scheduler).double(), scheduler.get("prediction_type", "epsilon")
        self.centre, self.spread = centre, spread

    def __call__(self, noisy, time, encoder_hidden_states, cross_attention_kwargs):
        abar = self.abar[int(time)]
        noise = (1 - abar).sqrt() * (noisy - abar.sqrt() * self.centre) / (abar * self.spread**2 + 1 - abar)
        z = (noisy - (1 - abar).sqrt() * noise) / abar.sqrt()
        answer = noise if self.prediction == "epsilon" else abar.sqrt() * noise - (1 - abar).sqrt() * z
        return type("Output", (), {"sample": answer.float()})

    def end(self, start, first: int, last: float):
        """Where the flow leads from `start` at time `first`, at the abar `last`."""
        a, b = self.abar[first], torch.as_tensor(last).double()
        width = [(abar * self.spread**2 + 1 - abar).sqrt() for abar in (a, b)]
        return b.sqrt() * self.centre + (start - a.sqrt() * self.centre) * width[1] / width[0]


# -- the samplers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scheduler", BOTH, ids=["eps", "v"])
@pytest.mark.parametrize("name, steps, error", [("ddim", 50, 0.04), ("plms", 50, 0.02), ("dpm", 20, 0.02), ("dpm", 50, 0.004)])
def test_with_exact_noise_every_sampler_ends_where_the_flow_does(scheduler, name, steps, error):
    start = start_noise([1, 2], 4, (8, 8))
    net, made = Exact(scheduler, 1.5, 0.5), make_sampler(name, scheduler)
    found = denoise(net, start, torch.zeros(1, 1, 1), None, steps, 1.0, made)
    last = 1.0 if name == "dpm" else net.abar[0]
    wanted = net.end(start.double(), int(made.times(steps)[0]), last)
    assert (found - wanted).abs().mean() < error < 0.1 * wanted.std()


@pytest.mark.parametrize("name", NAMES)
def test_a_velocity_base_is_sampled_as_its_noise_is(name):
    start = start_noise([1, 2], 4, (8, 8))
    nets = [(Exact(base, 1.5, 0.5), make_sampler(name, base)) for base in BOTH]
    one, other = (denoise(net, start, torch.zeros(1, 1, 1), None, 10, 1.0, sampler) for net, sampler in nets)
    assert torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("scheduler", BOTH, ids=["eps", "v"])
def test_a_ddim_step_by_its_formula(unet, states, scheduler):
    abar, prediction = alphas(scheduler), scheduler.get("prediction_type", "epsilon")
    x = start_noise([7], 4, (8, 8))
    found = denoise(unet, x, states[0][:1], None, 2, 1.0, make_sampler("ddim", scheduler))
    with torch.no_grad():
        for time, then in ((501, abar[1]), (1, abar[0])):
            answer = unet(x, time, states[0][:1]).sample
            z = clean(prediction, x, answer, abar[time])
            noise = (x - abar[time].sqrt() * z) / (1 - abar[time]).sqrt()
            x = then.sqrt() * z + (1 - then).sqrt() * noise
    assert torch.allclose(found, x, atol=1e-4)


def test_evaluations_and_their_times():
    assert make_sampler("ddim", FIRST_SD).times(4).tolist() == [751, 501, 251, 1]
    plms = make_sampler("plms", FIRST_SD).times(50).tolist()
    assert len(plms) == 51 and plms[:4] == [981, 961, 961, 941] and plms[-1] == 1
    dpm = make_sampler("dpm", VELOCITY).times(20).tolist()
    assert dpm[0] == 999 and dpm[-1] == 0 and dpm == sorted(set(dpm), reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_reads_noise_and_prediction_from_the_base(name):
    other = {"num_train_timesteps": 100, "beta_start": 0.002, "beta_end": 0.03, "beta_schedule": "linear", "clip_sample": True,
             "prediction_type": "v_prediction", "timestep_spacing": "trailing", "steps_offset": 0, "_class_name": "EulerDiscrete"}
    made = make_sampler(name, other)
    assert torch.allclose(made.scheduler.alphas_cumprod, alphas(other)) and made.prediction == "v_prediction"
    assert make_sampler(name, FIRST_SD).prediction == "epsilon"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 999])
def test_any_number_of_steps_that_fits_stays_within_the_noise(name, steps):
    found = make_sampler(name, SD_NOISE).times(steps)
    assert found.min() >= 0 and found.max() <= 999 and len(found) == steps + (name == "plms" and steps > 1)


@pytest.mark.parametrize("steps", [0, -1, 1000])
def test_other_numbers_of_steps_are_refused(steps):
    with pytest.raises(UserError, match=f"{steps} steps; give 1 to 999"):
        make_sampler("ddim", SD_NOISE).times(steps)


def test_an_unknown_sampler_is_one_line():
    with pytest.raises(UserError, match="euler: no such sampler; give one of ddim, plms, dpm"):
        make_sampler("euler", SD_NOISE)


# -- guidance ----------------------------------------------------------------------------------------------------------
def test_both_halves_in_one_batch_are_two_calls(unet, states):
    cond, uncond = states
    start = start_noise([1, 2, 3, 4], 4, (8, 6))
    found = denoise(unet, start, cond, uncond, 5, 3.0, make_sampler("ddim", FIRST_SD))
    scheduler = DDIMScheduler(**SD_NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(5)
    x = start
    with torch.no_grad():
        for time in scheduler.timesteps:
            without = unet(x, time, uncond.expand(4, -1, -1)).sample
            x = scheduler.step(without + 3.0 * (unet(x, time, cond).sample - without), time, x).prev_sample
    assert torch.allclose(found, x, atol=1e-4)


def test_guidance_one_evaluates_half_as_many_rows(unet, states):
    rows = []
    handle = unet.register_forward_pre_hook(lambda net, inputs: rows.append(len(inputs[0])))
    start, sampler = start_noise([1, 2, 3, 4], 4, (8, 8)), make_sampler("ddim", FIRST_SD)
    alone = denoise(unet, start, states[0], None, 2, 1.0, sampler)
    nearly = denoise(unet, start, *states, 2, 1.000001, sampler)
    handle.remove()
    assert rows == [4, 4, 8, 8] and torch.allclose(alone, nearly, atol=1e-3)


def test_guidance_without_an_empty_prompt_or_with_one_of_another_length_is_refused(unet, states):
    start, sampler = start_noise([1], 4, (8, 8)), make_sampler("ddim", FIRST_SD)
    with pytest.raises(UserError, match="guidance needs the states of the empty prompt"):
        denoise(unet, start, states[0][:1], None, 2, 3.0, sampler)
    with pytest.raises(UserError, match=r"prompts of \(6, 16\) and an empty one of \(2, 16\)"):
        denoise(unet, start, states[0][:1], states[1][:, :2], 2, 3.0, sampler)


# -- seeds, batches ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_latents_in_any_batch(unet, states, name):
    cond, uncond = states
    seeds = [seed_of(0, "mask", k) for k in range(4)]
    sampler = make_sampler(name, VELOCITY)

    def painted(which):
        return sample(unet, cond[which], uncond, (8, 6), 6, 2.0, [seeds[i] for i in which], sampler)

    together = painted([0, 1, 2, 3])
    apart = torch.cat([painted([2, 1]), painted([3]), painted([0])])
    assert torch.allclose(together[[2, 1, 3, 0]], apart, atol=1e-4)
    assert (together[0] - together[1]).abs().mean() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_used_again_starts_anew(unet, states, name):
    sampler = make_sampler(name, FIRST_SD)
    first = sample(unet, *states, (8, 8), 4, 2.0, [1, 2, 3, 4], sampler)
    sample(unet, *states, (8, 8), 7, 2.0, [5, 6, 7, 8], sampler)
    assert torch.equal(sample(unet, *states, (8, 8), 4, 2.0, [1, 2, 3, 4], sampler), first)


def test_noise_is_what_diffusers_draws_for_the_seed():
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    from diffusers.utils.torch_utils import randn_tensor

    theirs = randn_tensor((2, 4, 5, 6), generators, torch.device("cpu"), torch.float32)
    assert torch.equal(start_noise([3, 4], 4, (5, 6)), theirs)


def test_seeds_are_stable_and_tell_their_parts_apart():
    assert seed_of(0, "mask", 1) == 1957412707
    made = {seed_of(*parts) for parts in ((0, "a", 1), (0, "a", 11), (0, "a1", 1), (0, "a", "1"), (1, "a", 1), (0, "a"))}
    assert len(made) == 6 and all(0 <= seed < 2**32 for seed in made)


# -- what else a method needs ------------------------------------------------------------------------------------------
def test_the_callback_follows_every_evaluation(unet, states):
    seen = []
    found = sample(unet, *states, (8, 8), 3, 2.0, [1, 2, 3, 4], make_sampler("plms", FIRST_SD),
                   callback=lambda number, time, latents: seen.append((number, time, latents)))
    assert [(number, time) for number, time, _ in seen] == [(0, 667), (1, 334), (2, 334), (3, 1)]
    assert torch.equal(seen[-1][2], found)


class Marked:
    """An attention processor that takes an object by the name `marks`."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, marks=None):
        marks.append(len(hidden_states))
        return hidden_states


def test_cross_attention_kwargs_reach_the_processors_with_both_halves():
    net = trees.unet()
    net.set_attn_processor(Marked())
    marks = []
    sample(net, torch.zeros(1, 6, trees.WIDTH), torch.zeros(1, 6, trees.WIDTH), (8, 8), 1, 2.0, [1, 2, 3],
           make_sampler("ddim", FIRST_SD), cross_attention_kwargs={"marks": marks})
    assert marks and set(marks) == {6}


class Silent:
    """Stands for a UNet in half precision that sees no noise."""

    dtype = torch.bfloat16

    def __call__(self, noisy, time, encoder_hidden_states, cross_attention_kwargs):
        assert noisy.dtype == encoder_hidden_states.dtype == self.dtype
        return type("Output", (), {"sample": torch.zeros_like(noisy)})


def test_a_unet_in_half_precision_is_stepped_in_full(states):
    net, sampler = trees.unet().to(torch.bfloat16), make_sampler("ddim", FIRST_SD)
    found = sample(net, *states, (8, 8), 3, 2.0, [1, 2, 3, 4], sampler)
    exact = sample(trees.unet(), *states, (8, 8), 3, 2.0, [1, 2, 3, 4], sampler)
    assert found.dtype == torch.float32 and (found - exact).abs().mean() < 0.05 * exact.abs().mean()
    start, abar = start_noise([1], 4, (8, 8)), alphas(FIRST_SD)
    kept = denoise(Silent(), start, torch.zeros(1, 1, 1), None, 1, 1.0, sampler)
    assert torch.allclose(kept, start * (abar[0] / abar[1]).sqrt(), atol=1e-5)     # bfloat16 would be off by 1e-2


def test_the_bar_is_drawn_only_when_asked_for(unet, states, capfd):
    sampler = make_sampler("ddim", FIRST_SD)
    sample(unet, *states, (8, 8), 2, 1.0, [1, 2, 3, 4], sampler)
    assert capfd.readouterr().err == ""
    sample(unet, *states, (8, 8), 2, 1.0, [1, 2, 3, 4], sampler, progress=True)
    assert "0/2" in capfd.readouterr().err
