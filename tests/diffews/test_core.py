"""The net and what is around it: one pass or two, any batch, any size; memories; pictures of masks; folders of weights."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from datamodules.errors import UserError
from tests.diffusion import trees
from zoo import hub
from zoo.diffews import convert
from zoo.diffews.convert import load_net, save_folder
from zoo.diffews.masks import binary, check_support, draw_masks, foreground, picture
from zoo.diffews.memory import load_memory, save_memory
from zoo.diffews.net import REFERENCE, DiffewSNet, random_unet
from zoo.diffews.process import Process
from zoo.diffusion.schedule import clean

PROMPT = torch.randn(77, trees.WIDTH, generator=torch.Generator().manual_seed(9))
MI2M = (0.0272, 0.384)


def some(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def make(injection="concatenation", **more) -> DiffewSNet:
    net = DiffewSNet(trees.unet(), PROMPT, injection, **more).eval()
    if injection == "concatenation":                         # not its start, where photo and mask could change places
        with torch.no_grad():
            net.conv_in_ref.weight += 0.1 * some(*net.conv_in_ref.weight.shape, seed=5)
    return net


@pytest.fixture(scope="module")
def net():
    return make()


def episodes(batch: int, shots: int, size=(7, 10)):
    """Queries, photos, masks; sides that no level halves evenly."""
    return some(batch, 4, *size), some(batch, shots, 4, *size, seed=1), some(batch, shots, 4, *size, seed=2)


def near(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert (a - b).abs().max() < tolerance


# -- one pass or two ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch, shots, size", [(1, 1, (8, 8)), (3, 2, (7, 10)), (2, 5, (4, 9))])
@torch.no_grad()
def test_reading_a_memory_is_the_joint_pass(net, batch, shots, size):
    query, photos, masks = episodes(batch, shots, size)
    memory = net.write(photos, masks)
    together = net(query, photos, masks)
    assert memory.episodes == batch and together.shape == query.shape and together.dtype == torch.float32
    near(net.read(query, memory), together)


@torch.no_grad()
def test_an_answer_does_not_depend_on_its_batch_and_the_support_matters(net):
    query, photos, masks = episodes(3, 2)
    together = net(query, photos, masks)
    for b in range(3):
        near(net(query[b : b + 1], photos[b : b + 1], masks[b : b + 1]), together[b : b + 1])
    for other in (net(query, photos.flip(0), masks), net(query, photos, masks.flip(0))):
        assert (other - together)[0].abs().max() > 1e-3


@torch.no_grad()
def test_one_memory_serves_any_number_of_queries(net):
    query, photos, masks = episodes(4, 3)
    memory = net.write(photos[:1], masks[:1])
    near(net.read(query, memory), net(query, photos[:1].expand(4, -1, -1, -1, -1), masks[:1].expand(4, -1, -1, -1, -1)))


@torch.no_grad()
def test_memories_live_beside_one_another(net):
    query, photos, masks = episodes(2, 1)
    first = net.write(photos[:1], masks[:1])
    alone = net.read(query[:1], first)
    second = net.write(photos[1:], masks[1:])
    near(net.read(query[:1], second), net(query[:1], photos[1:], masks[1:]))
    assert torch.equal(net.read(query[:1], first), alone)


@torch.no_grad()
def test_each_episode_may_have_its_own_time(net):
    query, photos, masks = episodes(2, 2)
    together = net(query, photos, masks, torch.tensor([1, 700]))
    near(together[:1], net(query[:1], photos[:1], masks[:1], 1))
    near(together[1:], net(query[1:], photos[1:], masks[1:], 700))
    near(together[1:], net.read(query[1:], net.write(photos[1:], masks[1:], 700), 700))
    assert (together[1:] - net(query[1:], photos[1:], masks[1:], 1)).abs().max() > 1e-3


def gradients(net, work) -> dict:
    net.zero_grad()
    query, photos, masks = episodes(2, 2)
    F.mse_loss(work(net, query, photos, masks), query).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("injection", ["concatenation", "mask"])
def test_gradients_are_equal_by_one_pass_or_two_with_and_without_checkpointing(injection):
    def joint(net, query, photos, masks):
        return net(query, photos, masks if injection == "concatenation" else pixels)

    def two(net, query, photos, masks):
        return net.read(query, net.write(photos, masks if injection == "concatenation" else pixels))

    pixels = (some(2, 2, 28, 40) > 0).long()
    plain, checkpointed = make(injection).train(), make(injection, checkpointing=True).train()
    calls = []
    checkpointed.unet.get_submodule(checkpointed.names[0]).to_k.register_forward_hook(lambda *_: calls.append(1))
    wanted = gradients(plain, joint)
    for net, work in ((plain, two), (checkpointed, joint), (checkpointed, two)):
        found = gradients(net, work)
        for name, value in wanted.items():
            assert (found[name] - value).abs().max() <= 1e-4 * value.abs().max() + 1e-8, name
    assert len(calls) == 2 + 4                                # each pass was run again


def test_a_memory_is_not_changed_by_the_backward_pass_that_runs_its_writing_again():
    net = make("mask", checkpointing=True).train()
    query, photos, _ = episodes(1, 2)
    memory = net.write(photos, (some(1, 2, 28, 40) > 0).long())
    written = dict(memory.layers)
    net.read(query, memory).sum().backward()
    assert all(memory.layers[name] is layer for name, layer in written.items())


@torch.no_grad()
def test_the_prompt_has_its_own_length_in_training(net):
    query, photos, masks = episodes(1, 1)
    texts = []
    trained = make(tokens=2, train_tokens=77)
    trained.unet.register_forward_hook(lambda module, inputs, output: texts.append(inputs[2]))
    near(trained.eval()(query, photos, masks), net(query, photos, masks))
    trained.train()(query, photos, masks)
    assert torch.equal(texts[0], PROMPT[:2].expand(2, -1, -1)) and torch.equal(texts[1], PROMPT.expand(2, -1, -1))


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_finite_and_near(net, autocast):
    query, photos, masks = episodes(2, 2)
    half = make().train()
    half = half if autocast else half.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        v = half(query, photos, masks)
        with torch.no_grad():
            read = half.read(query, half.write(photos, masks))
    v.square().mean().backward()
    assert v.dtype == read.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in half.parameters())
    with torch.no_grad():
        exact = net(query, photos, masks)
    for answer in (v.detach(), read):
        assert (answer - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_all_of_the_unet_learns_though_the_base_was_frozen():
    unet = trees.unet().requires_grad_(False)
    assert all(p.requires_grad for p in DiffewSNet(unet, PROMPT).parameters())


# -- masks that hide ---------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_a_mask_hides_what_is_outside_it():
    net = make("mask")
    query, photos, _ = episodes(2, 3, (8, 8))
    blind = net.unet(net.conv_in(query), 1, net.text[:2].expand(2, -1, -1)).sample
    everything, nothing = torch.ones(2, 3, 32, 32), torch.zeros(2, 3, 32, 32)
    near(net(query, photos, nothing), blind)
    one = nothing.clone()
    one[:, 1] = 1
    near(net(query, photos, one), net(query, photos[:, 1:2], everything[:, :1]))
    assert (net(query, photos, everything) - blind).abs().max() > 1e-3
    half = nothing.clone()
    half[..., 8:16, :] = 1                                   # one row of the inner level's four, two of the outer's eight
    memory = net.write(photos, half)
    rows = {layer.seen.shape[1]: layer.seen.unflatten(1, (3, -1)) for layer in memory.layers.values()}
    assert rows[3 * 64].unflatten(2, (8, 8))[:, :, 2:4].all() and rows[3 * 64].sum() == 2 * 3 * 16
    assert rows[3 * 16].unflatten(2, (4, 4))[:, :, 1].all() and rows[3 * 16].sum() == 2 * 3 * 4
    near(net.read(query, memory), net(query, photos, half))


# -- KV sampling -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_sampled_memories_hold_as_many_cells_as_one_support_has(net):
    query, photos, masks = episodes(2, 3)
    memory = net.write(photos, masks)
    some_of_it = memory.sampled([1, 2])
    chosen = []
    for name, (keys, values, _) in some_of_it.layers.items():
        full = memory.layers[name]
        assert keys.shape[1] * 3 == full.keys.shape[1]
        places = torch.cdist(keys, full.keys, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
        assert all(len(set(row.tolist())) == keys.shape[1] for row in places)            # none twice
        assert torch.equal(values, torch.stack([full.values[b, row] for b, row in enumerate(places)]))
        assert places[0].tolist() != places[1].tolist()
        chosen.append(sorted(places[0].tolist()))
    assert len({tuple(row) for row in chosen if len(row) == len(chosen[0])}) > 1         # layers of one size draw their own
    near(net.read(query[1:], net.write(photos[1:], masks[1:]).sampled([2])), net.read(query, some_of_it)[1:])
    turned = replace(memory, layers=dict(reversed(memory.layers.items())))
    assert all(torch.equal(layer.keys, some_of_it.layers[name].keys) for name, layer in turned.sampled([1, 2]).layers.items())
    assert (net.read(query, memory.sampled([3, 4])) - net.read(query, some_of_it)).abs().max() > 1e-4


@torch.no_grad()
def test_one_shot_is_not_sampled(net):
    _, photos, masks = episodes(1, 1)
    memory = net.write(photos, masks)
    assert memory.sampled([5]) is memory


# -- memories in files -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("injection", ["concatenation", "mask"])
@torch.no_grad()
def test_a_saved_memory_answers_as_before(tmp_path, injection):
    net, process = make(injection), Process(MI2M, 3)
    query, photos, masks = episodes(2, 2, (8, 8))
    masks = masks if injection == "concatenation" else (some(2, 2, 32, 32) > 0).long()
    memories = process.condition(net, photos, masks)
    save_memory(tmp_path / "memory", memories, {"words": ["chat", "蛇"]})
    found, about = load_memory(tmp_path / "memory")
    assert about == {"words": ["chat", "蛇"]} and len(found) == 3
    assert torch.equal(process.answer(net, query, found), process.answer(net, query, memories))
    assert torch.equal(net.read(query, found[2].sampled([1, 2])), net.read(query, memories[2].sampled([1, 2])))
    half = found[0].to("cpu", torch.bfloat16)
    assert {layer.keys.dtype for layer in half.layers.values()} == {torch.bfloat16}
    near(net.read(query, half), net.read(query, memories[0]), 0.1)


def test_a_file_that_is_no_memory_is_one_line(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    (tmp_path / "torn").write_bytes(b"\x10\0\0")
    for name in ("other", "torn"):
        with pytest.raises(UserError, match=f"{name}: no saved memory .*; write it anew"):
            load_memory(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        load_memory(tmp_path / "absent")


# -- wrong input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spoil, said", [
    (lambda q, p, m: (q, p[:, :0], m[:, :0]), "with at least one shot"),
    (lambda q, p, m: (q, p[:, 0], m[:, 0]), "give B S C h w"),
    (lambda q, p, m: (q, p, m[:, :1]), "give one mask a support"),
    (lambda q, p, m: (q, p, m[..., :4]), "give one mask a support, of the same size"),
    (lambda q, p, m: (q[..., :4], p, m), "a query with latents of 4x7, supports with 10x7; bring both to one size"),
    (lambda q, p, m: (q, p[:2], m[:2]), "3 queries, but (supports|a memory) of 2 episodes"),
])
def test_wrong_supports_are_one_line_in_one_pass_or_two(net, spoil, said):
    query, photos, masks = spoil(*episodes(3, 2))
    for work in (lambda: net(query, photos, masks), lambda: net.read(query, net.write(photos, masks))):
        with torch.no_grad(), pytest.raises(UserError, match=said):
            work()


@torch.no_grad()
def test_one_pass_takes_one_episode_a_query(net):
    query, photos, masks = episodes(3, 2)
    with pytest.raises(UserError, match="3 queries, but supports of 1 episodes; give one episode a query"):
        net(query, photos[:1], masks[:1])


@torch.no_grad()
def test_a_memory_of_another_net_is_refused(net):
    query, photos, masks = episodes(1, 1)
    memory = net.write(photos, masks)
    del memory.layers[net.names[0]]
    with pytest.raises(UserError, match="not those of this net"):
        net.read(query, memory)


@pytest.mark.parametrize("settings, said", [
    ({"injection": "addition"}, "no such injection: 'addition'; give concatenation or mask"),
    ({"tokens": 78}, "78 and 2 tokens; give 1 to 77"),
    ({"train_tokens": 0}, "give 1 to 77"),
    ({"text": PROMPT[:, :8]}, r"shape \(77, 8\), the UNet reads a width of 16"),
])
def test_wrong_settings_are_one_line(settings, said):
    with pytest.raises(UserError, match=said):
        DiffewSNet(trees.unet(), **({"text": PROMPT} | settings))


# -- one step, or several ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("betas", [(1.0, 1.0), (0.00085, 0.012), MI2M])
def test_the_right_velocity_gives_the_mask(betas):
    process = Process(betas)
    query, mask = some(4, 4, 5, 6), some(4, 4, 5, 6, seed=1)
    times = process.times(4, torch.Generator().manual_seed(0))
    x, v = process.noisy(query, mask, times), process.target(query, mask, times)
    near(clean("v_prediction", x, v, process.abar[times]), mask, 1e-4)
    if process.one_step:
        assert torch.equal(x, query) and torch.equal(v, -mask) and times.tolist() == [1] * 4
    else:
        assert len(set(times.tolist())) > 1 and set(times.tolist()) <= set(range(1000))


@torch.no_grad()
def test_one_step_is_minus_the_nets_answer_and_several_are_ddims(net):
    query, photos, masks = episodes(2, 2)
    one = Process()
    assert torch.equal(one.answer(net, query, one.condition(net, photos, masks)), -net.read(query, net.write(photos, masks)))
    process = Process(MI2M, 4)
    assert process.evaluated == [751, 501, 251, 1]
    x, abar = query, process.abar
    for time, then in zip(process.evaluated, [*process.evaluated[1:], None]):
        v = net(x, photos, masks, time)
        mask = abar[time].sqrt() * x - (1 - abar[time]).sqrt() * v
        if then is not None:
            x = abar[then].sqrt() * mask + (1 - abar[then]).sqrt() * (abar[time].sqrt() * v + (1 - abar[time]).sqrt() * x)
    near(process.answer(net, query, process.condition(net, photos, masks)), mask, 1e-4)


@pytest.mark.parametrize("settings, said", [
    ({"betas": (0.5, 0.1)}, "0 < first <= last <= 1"), ({"betas": (0.0, 1.0)}, "0 < first"),
    ({"steps": 3}, "3 steps with betas of 1"), ({"betas": MI2M, "steps": 0}, "0 steps"),
])
def test_wrong_processes_are_one_line(settings, said):
    with pytest.raises(UserError, match=said):
        Process(**settings)


@torch.no_grad()
def test_a_memory_of_another_number_of_steps_is_refused(net):
    query, photos, masks = episodes(1, 1)
    with pytest.raises(UserError, match="a memory for 1 steps, but 3 are asked for"):
        Process(MI2M, 3).answer(net, query, [net.write(photos, masks)])


# -- masks and pictures ------------------------------------------------------------------------------------------------
def test_masks_are_drawn_white_on_black_and_found_again():
    masks = torch.tensor([[[0, 1, 255], [1, 0, 0]]], dtype=torch.uint8)
    drawn = draw_masks(masks)
    assert drawn.shape == (1, 3, 2, 3) and drawn.dtype == torch.uint8
    assert torch.equal(drawn[0, 1], torch.tensor([[0, 255, 0], [255, 0, 0]], dtype=torch.uint8))
    assert torch.equal(draw_masks(masks == 1), drawn)
    assert torch.equal(foreground(drawn), masks == 1)
    assert not foreground(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).any()


def test_pictures_are_cut_off_and_truncated():
    output = torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.0, 7.0]).expand(1, 3, 1, 6)
    assert picture(output)[0, 0, 0].tolist() == [0, 0, 127, 254, 255, 255]
    assert picture(output, (2, 12)).shape == (1, 3, 2, 12)


def test_the_threshold_is_a_share_of_each_pictures_own_largest_value():
    pictures = torch.zeros(2, 3, 1, 4, dtype=torch.uint8)
    pictures[0, :, 0] = torch.tensor([0, 50, 51, 200])       # a quarter of the largest is 50, and does not suffice
    pictures[1, :, 0] = torch.tensor([0, 10, 11, 40])
    assert foreground(pictures).tolist() == 2 * [[[False, False, True, True]]]
    pictures[0, 0, 0, 0] = 255                               # one channel sets the largest: 63.75, and the mean there is 85
    assert foreground(pictures).tolist() == [[[True, False, False, True]], [[False, False, True, True]]]
    assert foreground(pictures, 0.1, relative=False).tolist() == [[[True, True, True, True]], [[False, False, False, True]]]


@pytest.mark.parametrize("values", [[0, 1], [0, 255], [0, 38], [False, True], [0.0, 1.0]])
def test_masks_of_two_values_are_understood(values):
    assert binary(torch.tensor(values)).tolist() == [False, True]


def test_masks_of_more_values_are_refused():
    with pytest.raises(UserError, match=r"cat.png: a mask with the values 1, 128, 255 beside 0; give 0 and one other number"):
        binary(torch.tensor([0, 1, 128, 255]), "cat.png")


@pytest.mark.parametrize("pictures, masks, said", [
    (torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4), "0 shots; give at least one"),
    (torch.zeros(2, 3, 4, 4), torch.ones(1, 4, 4), "2 pictures, 1 masks"),
    (torch.zeros(1, 3, 4, 6), torch.ones(1, 4, 4), "a picture of 6x4 with a mask of 4x4"),
    (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), "an empty mask"),
    (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 255), "an empty mask"),
    (torch.zeros(2, 3, 1, 4), torch.tensor([[[1, 0, 0, 0]], [[0, 1, 2, 255]]]), "shot 2: a mask with the values 1, 2 beside 0"),
])
def test_what_is_no_support_is_one_line(pictures, masks, said):
    with pytest.raises(UserError, match=said):
        check_support(pictures.to(torch.uint8), masks.to(torch.uint8))


# -- folders of weights ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder as the authors' class saves it: the stock UNet's file with two tensors more, and a config that names the class."""
    folder = tmp_path_factory.mktemp("released") / "coco_fold0"
    trees.unet().save_pretrained(folder / "unet")
    more = {"conv_in_ref.weight": some(8, 8, 3, 3), "conv_in_ref.bias": some(8)}
    trees.rewrite(folder / "unet", lambda tensors: tensors | more)
    trees.set_config(folder / "unet" / "config.json", _class_name="MyUNet2DConditionModel", in_channels_ref=8)
    return folder


@pytest.fixture
def copy(released, tmp_path):
    return shutil.copytree(released, tmp_path / "copy")


def tensors_of(folder) -> dict:
    return load_file(trees.weights_of(folder / "unet"))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@torch.no_grad()
def test_a_released_folder_loads_and_is_saved_as_it_was(released, tmp_path):
    net = load_net(released, PROMPT)
    assert torch.equal(net.conv_in_ref.weight, tensors_of(released)["conv_in_ref.weight"])
    save_folder(net, tmp_path / "ours")
    assert same(tensors_of(tmp_path / "ours"), tensors_of(released))
    ours, theirs = (json.loads((folder / "unet" / "config.json").read_text()) for folder in (tmp_path / "ours", released))
    assert ours == {key: value for key, value in theirs.items() if key != "_name_or_path"}
    again = load_net(tmp_path / "ours", None).eval()
    query, photos, masks = episodes(1, 2)
    assert torch.equal(again(query, photos, masks), net.eval()(query, photos, masks))


@pytest.mark.parametrize("form", ["unet alone", "pickled", "stock config"])
def test_the_forms_in_which_such_weights_are_found(copy, released, form):
    place = copy / "unet" if form == "unet alone" else copy
    if form == "pickled":
        torch.save(tensors_of(copy), copy / "unet" / "diffusion_pytorch_model.bin")
        trees.weights_of(copy / "unet").unlink()
    if form == "stock config":                               # as the base that the authors start from
        trees.unet().save_config(copy / "unet")
    found = load_net(place, PROMPT).state_dict()
    assert same({convert.official_name(key): value for key, value in found.items() if key != "text"}, tensors_of(released))


def drop(*names):
    return lambda tensors: {key: value for key, value in tensors.items() if key not in names}


def test_without_the_supports_convolution_loading_is_loud_unless_it_is_to_be_made(copy):
    trees.rewrite(copy / "unet", drop(*REFERENCE))
    with pytest.raises(UserError, match="copy: holds no conv_in_ref.weight: a plain Stable Diffusion UNet"):
        load_net(copy, PROMPT)
    net = load_net(copy, PROMPT, initialise=True)
    assert torch.equal(net.conv_in_ref.weight, torch.cat(2 * [net.conv_in.weight], 1) / 2)
    assert torch.equal(net.conv_in_ref.bias, net.conv_in.bias)
    assert load_net(copy, PROMPT, injection="mask").injection == "mask"


@pytest.mark.parametrize("change, said", [
    (drop("conv_in_ref.weight"), "holds no conv_in_ref.weight, but its other half"),
    (drop("conv_in.weight"), "lacks tensors of UNet2DConditionModel: 1, first conv_in.weight"),
    (lambda t: t | {"conv_in_tag.weight": torch.zeros(1)}, "holds tensors unknown to UNet2DConditionModel: 1, first conv_in_tag"),
    (lambda t: t | {"conv_in_ref.weight": torch.zeros(8, 12, 3, 3)}, r"\(8, 12, 3, 3\), expected \(8, 8, 3, 3\)"),
])
@pytest.mark.parametrize("initialise", [False, True])
def test_a_folder_that_is_not_whole_is_one_line(copy, change, said, initialise):
    trees.rewrite(copy / "unet", change)
    with pytest.raises(UserError, match=said) as caught:
        load_net(copy, PROMPT, initialise=initialise)
    assert "\n" not in str(caught.value)


def test_a_folder_without_prompt_or_with_another_injection_is_one_line(released):
    with pytest.raises(UserError, match="no states of the empty prompt beside this UNet"):
        load_net(released, None)
    with pytest.raises(UserError, match="holds conv_in_ref.bias, which injection by mask has not"):
        load_net(released, PROMPT, injection="mask")
    with pytest.raises(UserError, match="no such folder"):
        load_net(released / "nowhere", PROMPT)


@torch.no_grad()
def test_released_weights_become_our_export_and_go_back(released, tmp_path, capsys):
    base = trees.write_base(tmp_path / "base", trees.VELOCITY)
    convert.main([str(released), str(tmp_path / "export"), str(base)])
    method = hub.load(tmp_path / "export")
    net = load_net(released, method.net.text, tokens=2, train_tokens=77).eval()
    assert (method.net.tokens, method.net.train_tokens) == (2, 77) and method.net.text.abs().sum() > 0
    query, photos, masks = episodes(1, 2)
    assert torch.equal(method.eval().net(query, photos, masks), net(query, photos, masks))
    convert.main(["--official", str(tmp_path / "export"), str(tmp_path / "back")])
    assert same(tensors_of(tmp_path / "back"), tensors_of(released))
    assert UNet2DConditionModel.load_config(tmp_path / "back" / "unet")["in_channels_ref"] == 8


@pytest.mark.parametrize("where", ["in the folder", "in the hub's cache"])
def test_the_base_need_not_be_named_where_it_lies_at_hand(copy, tmp_path, monkeypatch, where):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    base = trees.write_base(tmp_path / "cache" / "diffews" / "base", trees.VELOCITY)
    if where == "in the folder":
        for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
            shutil.move(base / part, copy / part)
    convert.main([str(copy), str(tmp_path / "export")])
    assert torch.equal(hub.load(tmp_path / "export").net.conv_in_ref.bias, tensors_of(copy)["conv_in_ref.bias"])


@pytest.mark.parametrize("arguments, said", [
    (["{released}", "{out}"], "a UNet without its VAE; name the base"), (["{released}"], "which weights, and where to"),
    (["--official", "{released}"], "which weights, and where to"), (["{out}/none", "{out}", "{out}"], "no such folder"),
])
def test_wrong_commands_are_one_line(released, tmp_path, monkeypatch, arguments, said):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=said):
        convert.main([word.format(released=released, out=tmp_path) for word in arguments])
    assert not list(tmp_path.iterdir())


def test_a_random_net_has_a_bases_shape_and_other_weights():
    config = dict(trees.unet().config) | {"_class_name": "MyUNet2DConditionModel", "in_channels_ref": 8}
    torch.manual_seed(3)
    ours, theirs = random_unet(config).state_dict(), trees.unet().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert not torch.equal(ours["conv_in.weight"], theirs["conv_in.weight"])


def test_the_papers_width_and_its_memory():
    config = {
        "sample_size": 96, "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024, "use_linear_projection": True, "upcast_attention": True,
    }
    with torch.device("meta"), torch.no_grad():
        net = DiffewSNet(random_unet(config), torch.empty(77, 1024)).eval()
        memory = net.write(torch.empty(1, 2, 4, 64, 64), torch.empty(1, 2, 4, 64, 64))
    assert sum(p.numel() for p in net.parameters()) == 865_910_724 + 23_360 and len(net.names) == 16
    assert [layer.keys.shape[1] // 2 for layer in memory.layers.values()] == [4096] * 2 + [1024] * 2 + [256] * 2 + [64] + \
        [256] * 3 + [1024] * 3 + [4096] * 3
    assert sum(layer.keys.numel() + layer.values.numel() for layer in memory.layers.values()) == 2 * 23_101_440
