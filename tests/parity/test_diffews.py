"""The authors' numbers: every tensor the fixture holds, sizes and widths from its own JSON."""

import json

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from tests.conftest import shared_folder
from tests.parity.freeze_diffews import thaw
from zoo.diffews.masks import draw_masks, foreground, picture
from zoo.diffews.net import REFERENCE, DiffewSNet, random_unet, reference_convolution
from zoo.diffews.process import Process
from zoo.diffusion.latents import decode, encode, mean
from zoo.diffusion.schedule import noise_of
from zoo.metrics import EpisodeIoU

OUTSIDE = shared_folder() / "parity"


def outside() -> tuple[dict, dict, dict, dict]:
    """Facts, tensors of the cases, weights, tensors of the metric."""
    if not (OUTSIDE / "diffews_cases.safetensors").exists():
        pytest.skip(f"no diffews fixture in {OUTSIDE}")
    about = json.loads((OUTSIDE / "diffews_cases.json").read_text())
    about["metric"] = json.loads((OUTSIDE / "diffews_metric.json").read_text())
    return about, *(load_file(OUTSIDE / f"diffews_{name}.safetensors") for name in ("cases", "weights", "metric"))


class Fixture:
    def __init__(self, about: dict, tensors: dict, weights: dict, metric: dict, slack: float = 1):
        self.about, self.tensors, self.weights, self.metric, self.slack = about, tensors, weights, metric, slack
        self.vae = AutoencoderKL(**about["vae_config"]).eval()
        self.vae.load_state_dict(self.part("vae."))

    def close(self, ours, theirs, tolerance=1e-4):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= self.slack * tolerance

    def part(self, prefix: str) -> dict:
        return {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)}

    def net(self, text: str, injection: str = "concatenation") -> DiffewSNet:
        weights, states = self.part("unet."), self.tensors[f"text.{text}"][0]
        reference = {name: weights.pop(name) for name in REFERENCE}
        unet = random_unet(self.about["unet_config"])
        unet.load_state_dict(weights)
        count = len(states)
        return DiffewSNet(unet, states, injection, count, count, reference=None if injection == "mask" else reference).eval()

    def episode(self, name: str):
        """Query, photos and masks of a case as B C h w and B S C h w, its target."""
        about, get = self.about["cases"][name], lambda key: self.tensors[f"{name}.{key}"]
        support = get("support").unflatten(0, (about["batch"], about["shots"]))
        photos, masks = support.chunk(2, 2)
        return get("query"), photos, masks, get("target_latent")

    def cases(self, wanted: str) -> list[str]:
        return [name for name in self.about["cases"] if f"{name}.{wanted}" in self.tensors]


@pytest.fixture(scope="module", params=[thaw, outside], ids=["frozen", "outside"])
def fixture(request):
    return Fixture(*request.param(), slack=3 if request.param is thaw else 1)     # the frozen weights are rounded


def test_the_supports_first_convolution_starts_as_the_authors(fixture):
    if "init.conv_in.weight" not in fixture.tensors:
        pytest.skip("this fixture holds no initialisation")
    weight = fixture.tensors["init.conv_in.weight"]
    conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], padding=1)
    conv.load_state_dict({name: fixture.tensors[f"init.conv_in.{name}"] for name in ("weight", "bias")})
    made = reference_convolution(conv)
    for name in REFERENCE:
        assert torch.equal(made.get_parameter(name.removeprefix("conv_in_ref.")), fixture.tensors[f"init.{name}"])


def test_one_pass_or_two_give_the_authors_answer(fixture):
    names = [name for name in fixture.cases("v_query") if "text" in fixture.about["cases"][name]]
    assert names
    for name in names:
        net = fixture.net(fixture.about["cases"][name]["text"])
        seen = []
        net.unet.register_forward_hook(lambda module, inputs, output: seen.append(output.sample))  # noqa: B023
        query, photos, masks, _ = fixture.episode(name)
        with torch.no_grad():
            memory = net.write(photos, masks)
            theirs = fixture.tensors[f"{name}.v_query"]
            fixture.close(net.read(query, memory), theirs)
            fixture.close(net(query, photos, masks), theirs)
            if f"{name}.v_support" in fixture.tensors:
                fixture.close(seen[0], fixture.tensors[f"{name}.v_support"], 5e-4)
            fixture.close(Process().answer(net, query, [memory]), fixture.tensors[f"{name}.z0_query"])
            if photos.shape[1] > 1:
                fixture.close(net.read(query, net.write(photos.flip(1), masks.flip(1))), theirs)
            blind = net.unet(net.conv_in(query), 1, net.text.expand(len(query), -1, -1)).sample
        effect = fixture.about["cases"][name]["max_abs_effect_of_support"]
        assert abs((blind - theirs).abs().max() - effect) < 1e-3 * effect


def test_the_memory_is_the_authors(fixture):
    listed = fixture.about["self_attention_names"]
    for name in [name for name, about in fixture.about["cases"].items() if "memory" in about]:
        about = fixture.about["cases"][name]
        net = fixture.net(about["text"])
        assert net.names == listed and len(listed) == fixture.about["n_self_attention"]
        _, photos, masks, _ = fixture.episode(name)
        with torch.no_grad():
            memory = net.write(photos, masks)
        assert memory.episodes == about["batch"] and set(memory.layers) == set(listed)
        for layer, facts in about["memory"].items():
            keys, values, _ = memory.layers[layer]
            assert keys.shape == values.shape == (about["batch"], about["shots"] * facts["tokens"], facts["dim"])
            for part, letter in ((keys, "k"), (values, "v")):
                assert abs(part.mean() - facts[f"{letter}_mean"]) < 1e-4 and abs(part.std() - facts[f"{letter}_std"]) < 1e-4
                if (key := f"{name}.memory.{layer}.{letter}") in fixture.tensors:
                    fixture.close(part.unflatten(1, (about["shots"], -1)).flatten(0, 1), fixture.tensors[key])


def by_joint_pass(net, query, photos, masks):
    return net(query, photos, masks)


def by_memory(net, query, photos, masks):
    return net.read(query, net.write(photos, masks))


@pytest.mark.parametrize("work", [by_joint_pass, by_memory])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_the_authors(fixture, work, checkpointing):
    names = [name for name, about in fixture.about["cases"].items() if "grad_norm_all" in about]
    assert names
    for name in names:
        about = fixture.about["cases"][name]
        net = fixture.net(about["text"])
        if checkpointing:
            net.unet.enable_gradient_checkpointing()
        net.train()
        query, photos, masks, target = fixture.episode(name)
        process = Process()
        times = process.times(len(query))
        assert times.tolist() == [about["timestep"]] * len(query)
        wanted = process.target(query, target, times)
        assert torch.equal(process.noisy(query, target, times), query) and torch.equal(wanted, -target)
        loss = F.mse_loss(work(net, query, photos, masks), wanted)
        loss.backward()
        assert abs(loss.item() - about["loss"]) < 1e-4
        ours = {key.removeprefix("unet."): p.grad for key, p in net.named_parameters()}
        assert sorted(key for key, grad in ours.items() if grad is None) == about["params_without_grad"]
        norm = torch.stack([grad.norm() for grad in ours.values()]).norm()
        assert abs(norm - about["grad_norm_all"]) < 1e-3 * about["grad_norm_all"]
        prefix = f"{name}.grad."
        for key in (key for key in fixture.tensors if key.startswith(prefix)):
            theirs = fixture.tensors[key]
            assert (ours[key.removeprefix(prefix)] - theirs).abs().max() <= 1e-3 * theirs.abs().max(), key


def test_masks_that_hide_the_supports_give_the_authors_answer(fixture):
    for name in fixture.cases("mask"):
        net = fixture.net("tokens2", "mask")
        get = lambda key: fixture.tensors[f"{name}.{key}"]  # noqa: B023
        shots = fixture.about["cases"][name]["shots"]
        photos = get("support").unflatten(0, (-1, shots))
        masks = get("mask").unflatten(0, (-1, shots))
        with torch.no_grad():
            fixture.close(net.read(get("query"), net.write(photos, masks)), get("v_query"))
            fixture.close(net(get("query"), photos, masks), get("v_query"))


def test_the_mask_appearing_in_several_steps_is_the_authors(fixture):
    if "mi2m.z0" not in fixture.tensors:
        pytest.skip("this fixture holds no such run")
    about = fixture.about["mi2m"]
    case = fixture.about["cases"][about["case"]]
    net, process = fixture.net(case["text"]), Process(tuple(fixture.about["scheduler_sd"]["betas"]), about["steps"])
    assert process.evaluated == fixture.about["scheduler_sd"]["timesteps_5"]
    query, photos, masks, _ = fixture.episode(about["case"])
    last = []
    step = process.sampler.step
    process.sampler.step = lambda *arguments: last.append(step(*arguments)) or last[-1]
    with torch.no_grad():
        z0 = process.answer(net, query, process.condition(net, photos, masks))
    fixture.close(z0, fixture.tensors["mi2m.z0"], 5e-4)
    fixture.close(last[-1], fixture.tensors["mi2m.x_last"], 5e-4)


def test_betas_of_one_leave_nothing_but_minus_the_answer(fixture):
    about, process = fixture.about["scheduler_1.0_1.0"], Process()
    assert process.evaluated == about["timesteps_1"] and process.abar.unique().tolist() == about["alphas_cumprod_unique"]
    if "sched.x" in fixture.tensors:
        x, v = fixture.tensors["sched.x"], fixture.tensors["sched.v"]
        assert torch.equal(noise_of("v_prediction", x, v, process.abar[1]), x)


def test_pictures_latents_and_masks_are_the_authors(fixture):
    names = fixture.cases("picture_uint8")
    assert names
    for name in names:
        get = lambda key: fixture.tensors[f"{name}.{key}"]  # noqa: B023
        net, scaling = fixture.net("tokens2"), fixture.vae.config.scaling_factor
        query, photos = (mean(encode(fixture.vae, part), scaling) for part in (get("query_uint8")[None], get("support_uint8")))
        masks = mean(encode(fixture.vae, draw_masks(get("support_mask"))), scaling)
        for ours, key in ((query, "z_query"), (photos, "z_support"), (masks, "z_support_mask")):
            fixture.close(ours, get(key))
        with torch.no_grad():
            z0 = Process().answer(net, query, Process().condition(net, photos[None], masks[None]))
        output = decode(fixture.vae, z0)
        fixture.close((output.clamp(-1, 1) * 0.5 + 0.5) * 255, get("picture_float"), 0.02)
        made, theirs = picture(output), get("picture_uint8")
        different = (made.int() - theirs.int()).abs()
        assert different.max() <= 1 and (different > 0).float().mean() <= fixture.slack * 0.002
        for mask, key in ((foreground(made), "mask_rel025"), (foreground(made, 0.1, relative=False), "mask_abs010")):
            assert (mask != get(key).bool()).float().mean() <= fixture.slack * 0.002
        assert torch.equal(foreground(theirs), get("mask_rel025").bool())
        assert torch.equal(foreground(theirs, 0.1, relative=False), get("mask_abs010").bool())


def test_the_metric_is_hsnets(fixture):
    for name, facts in fixture.about["metric"].items():
        get = lambda key: fixture.metric[f"{name}.{key}"]  # noqa: B023
        truth = get("gt")
        if f"{name}.ignore" in fixture.metric:
            truth = truth.masked_fill(get("ignore").bool(), 255)
        metric = EpisodeIoU([str(i) for i in range(facts["n_classes"])], facts["fold_class_ids"])
        for row in zip(get("pred"), truth, get("class_id").tolist(), strict=True):
            metric.update(*row)
        assert torch.equal(metric.intersection, get("intersection").long()) and torch.equal(metric.union, get("union").long())
        found = metric.compute()
        assert abs(100 * found["mIoU"] - facts["miou"]) < 1e-3 and abs(100 * found["FB-IoU"] - facts["fb_iou"]) < 1e-3
