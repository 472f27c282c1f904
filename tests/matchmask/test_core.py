"""The generator without its training: who sees which word, prompts, gates, adapters, painting, filters, the probe."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.errors import UserError
from tests.diffusion import trees
from zoo.diffusion.base import load_base
from zoo.diffusion.latents import to_pictures
from zoo.matchmask import filter as filters
from zoo.matchmask import layers, probe
from zoo.matchmask.adapter import ABOUT, GATE, LORA, load_adapter, save_adapter
from zoo.matchmask.layers import choose, layers_of, unet_like
from zoo.matchmask.loss import denoising_loss
from zoo.matchmask.masks import ANY, FREE, NEAREST, resized, visible
from zoo.matchmask.net import MatchMaskNet, gated
from zoo.matchmask.paint import Job, Painter, grouped
from zoo.matchmask.prompts import Prompter

CLASSES = ["background", "cat", "car", "dog", "wall-other-merged", "doormat", "cow", "tub"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=seeded(seed))


def label_maps(*size: int, classes: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(classes, size, generator=seeded(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return trees.write_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture
def base(folder):
    return load_base(folder)


def trained(net: MatchMaskNet) -> MatchMaskNet:
    """As if it had learnt: away from its start, where an adapter does nothing."""
    with torch.no_grad():
        for number, p in enumerate(net.parameters()):
            p += 0.3 * some(*p.shape, seed=number)
    return net


def prompter_of(base, **more) -> Prompter:
    return Prompter(base.text.tokenizer, base.text.context, CLASSES, **more)


# -- label maps and words ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size, cells", [((64, 64), (8, 8)), ((37, 53), (5, 7)), ((9, 6), (9, 6)), ((5, 7), (8, 3))])
def test_a_cell_sees_the_tokens_of_its_class_and_the_free_ones(size, cells):
    labels = label_maps(2, *size, classes=6)
    labels[1, :, 2:4] = 255
    tokens = torch.tensor([[FREE, 1, 1, 4, FREE, FREE], [FREE, 0, 3, FREE, 5, 5]])
    for reduce in (NEAREST, ANY):
        seen = visible(labels, tokens, cells, reduce)
        assert seen.dtype == torch.bool and seen.shape == (2, cells[0] * cells[1], 6)
        for m, i, j, t in np.ndindex(2, *cells, 6):
            rows = [n * size[0] // cells[0] for n in (i, i + 1)], [n * size[1] // cells[1] for n in (j, j + 1)]
            bottom, right = -(-(i + 1) * size[0] // cells[0]), -(-(j + 1) * size[1] // cells[1])
            own = labels[m, rows[0][0] : bottom, rows[1][0] : right] if reduce == ANY else labels[m, rows[0][0], rows[1][0]]
            wanted = tokens[m, t] == FREE or bool((own == tokens[m, t]).any())
            assert bool(seen[m, i * cells[1] + j, t]) == wanted


def test_a_thing_of_one_pixel_vanishes_or_is_seen_where_it_is():
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[0, 19, 45] = 1
    tokens = torch.tensor([[FREE, 1]])
    assert visible(labels, tokens, (8, 8))[0, :, 1].sum() == 0
    assert visible(labels, tokens, (8, 8), ANY)[0, :, 1].nonzero().tolist() == [[2 * 8 + 5]]


def test_an_enlarged_or_shrunken_label_map_has_the_labels_of_the_middles():
    labels = label_maps(5, 7, classes=200)
    assert torch.equal(resized(labels, (10, 14)), labels.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert torch.equal(resized(labels, (1, 1)), labels[2:3, 3:4])


def test_a_prompt_is_the_words_of_what_is_there_and_knows_their_tokens(base):
    prompter = prompter_of(base, words={"cow": "dog cat", "tub": None})
    labels = torch.tensor([[6, 6, 0, 255], [4, 2, 7, 2]])
    prompt = prompter.prompt(labels)
    assert prompt.text == "car wall dog cat" and prompt.dropped == () and prompt.remark() is None
    ids = base.text.ids([prompt.text])[0]
    spelt = {label: base.text.tokenizer.decode(ids[prompt.tokens == label]).replace(" ", "") for label in (2, 4, 6)}
    assert spelt == {2: "car", 4: "wall", 6: "dogcat"}
    assert (prompt.tokens == 4).sum() == 4 and prompt.tokens[0] == FREE and (prompt.tokens[8:] == FREE).all()


def test_a_label_map_without_words_gives_the_empty_prompt(base):
    for labels in (torch.full((3, 5), 255), torch.zeros(3, 5, dtype=torch.uint8)):
        prompt = prompter_of(base).prompt(labels)
        assert prompt.text == "" and (prompt.tokens == FREE).all()
    assert prompter_of(base, background_word="floor").prompt(torch.zeros(2, 2)).text == "floor"


def test_more_words_than_a_prompt_holds_cost_the_smallest_classes_and_are_said(base):
    prompter = prompter_of(base, words={"wall-other-merged": "w" * 41, "doormat": "d" * 30})
    labels = torch.tensor([1] * 2 + [4] * 30 + [5] * 20 + [6] * 9 + [3])
    prompt = prompter.prompt(labels[None])
    assert prompt.text == f"cat {'w' * 41} {'d' * 30} cow"            # 75 tokens, and the start and the end
    assert prompt.dropped == ("dog",) and "(dog)" in prompt.remark()
    assert len(base.text.ids([prompt.text])[0]) == 77


def test_words_and_labels_that_cannot_be_are_one_line(base):
    for words, said in (({"lion": "cat"}, "no class of this set"), ({"cow": "c" * 90}, "90 tokens, 75 fit")):
        with pytest.raises(UserError, match=said):
            prompter_of(base, words=words)
    with pytest.raises(UserError, match="label 9 is none of 8 classes"):
        prompter_of(base).prompt(torch.tensor([[0, 9]]))


# -- the net -----------------------------------------------------------------------------------------------------------
def asked(width: int = trees.WIDTH, size=(7, 9)):
    """Noisy latents, times, text, label maps, tokens."""
    tokens = torch.full((2, 77), FREE)
    tokens[0, 1:4], tokens[1, 2:4] = torch.tensor([1, 1, 2]), torch.tensor([0, 3])
    return some(2, 4, *size), torch.tensor([10, 900]), some(2, 77, width, seed=1), label_maps(2, 29, 40), tokens


@torch.no_grad()
def test_the_base_is_untouched_at_the_start_without_a_label_map_and_with_closed_gates():
    unet = trees.unet()
    x, times, text, labels, tokens = asked()
    wanted = unet(x, times, text).sample
    net = MatchMaskNet(trees.unet(), rank=3)
    net.unet.load_state_dict(net.unet.state_dict())
    assert torch.equal(net(x, times, text), wanted)
    guide = net.guide(labels, tokens, (7, 9))
    assert (net(x, times, text, guide) - wanted).abs().max() > 1e-3
    for gate in guide.gates.values():
        gate.bias.fill_(-torch.inf)
    assert torch.equal(net(x, times, text, guide), wanted)
    for kind in ("off", "picture"):                                  # nothing to tell apart: all words are free
        wordless = MatchMaskNet(trees.unet(), gate=kind)
        free = wordless.guide(labels, torch.full_like(tokens, FREE), (7, 9))
        assert (wordless(x, times, text, free) - wanted).abs().max() < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("gate", ["picture", "pixel", "constant", "off"])
def test_rows_before_the_guides_are_plain_and_rows_do_not_depend_on_each_other(gate):
    net = trained(MatchMaskNet(trees.unet(), gate=gate))
    x, times, text, labels, tokens = asked()
    alone = [net(x[i : i + 1], times[i : i + 1], text[i : i + 1], net.guide(labels[m : m + 1], tokens[m : m + 1], (7, 9)))
             for i, m in ((0, 1), (1, 0), (1, 1))]
    free = net(x, times, text)
    rows = [0, 1, 0, 1, 1]
    guide = net.guide(labels, tokens, (7, 9), rows=[1, 0, 1], keep=True)
    for _ in range(2):                                               # the second time with the keys and values that were kept
        together = net(x[rows], times[rows], text[rows], guide)
        assert (together - torch.cat([free, *alone])).abs().max() < 1e-5
    assert (alone[1] - free[1:]).abs().max() > 1e-3 and (alone[1] - alone[2]).abs().max() > 1e-3


def test_only_adapter_and_gates_learn_and_are_saved():
    net = MatchMaskNet(trees.unet(), rank=2, gate="pixel", checkpointing=True)
    x, times, text, labels, tokens = asked()
    before = {name: value.clone() for name, value in net.unet.state_dict().items()}
    names = {name for name, _ in net.named_parameters()}
    assert names == set(net.state_dict()) and not list(net.buffers())
    assert {name.split(".")[0] for name in names} == {"lora", "gates"}
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):                                               # at the start A has no gradient, since B is 0
        loss = denoising_loss(net, x, some(*x.shape, seed=3), times, text, net.guide(labels, tokens, (7, 9)),
                              torch.linspace(0.99, 0.01, 1000), "v_prediction")
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    moved = {name for name, value in net.unet.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert not net.train().unet.training
    twin = copy.deepcopy(net)
    assert twin.lora.state_dict().keys() == net.lora.state_dict().keys() and twin.unet is not net.unet
    assert next(twin.double().unet.parameters()).dtype == torch.float64 == next(twin.gates.parameters()).dtype


def test_all_of_the_unet_can_learn_instead():
    net = MatchMaskNet(trees.unet(), layers="whole", gate="off")
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in trees.unet().parameters())
    assert sum(p.numel() for p in MatchMaskNet(trees.unet(), layers="none", gate="off").parameters()) == 0


def test_the_default_trains_706560_parameters_of_stable_diffusion_and_a_gate(capsys):
    layers.main([])
    printed = capsys.readouterr().out
    assert "20 layers, rank 32: 706,560 parameters + gate 12,496 = 719,056" in printed and "859,520,964" in printed
    layers.main(["gate_layers=key"])
    assert "gate 1,605" in capsys.readouterr().out
    unet = unet_like("sd14")
    assert sum(p.numel() for gate in gated(unet, "constant", "all", None).values() for p in gate.parameters()) == 16
    costs = {layer.name: layer.cost for layer in layers_of(unet)}
    presets = [("finest", 32, 20, 706_560), ("finest_out", 28, 25, 707_840), ("fine_text", 16, 40, 706_560),
               ("fine_time", 16, 32, 701_440), ("fine_words", 16, 30, 680_960), ("all", 5, 86, 738_880)]
    for preset, rank, count, parameters in presets:
        names, _ = choose(unet, preset, rank)
        assert (len(names), rank * sum(costs[name] for name in names)) == (count, parameters)
    names, rank = choose(unet, 700_000, 1)
    assert rank == 31 and names == choose(unet, "finest", 32)[0]
    net = MatchMaskNet(unet)
    assert sum(p.numel() for p in net.parameters()) == 719_056
    assert sum(p.numel() * 4 for p in net.parameters()) < 4e6 - 100_000


def test_layers_that_are_not_there_are_one_line(tmp_path):
    unet = trees.unet()
    (tmp_path / "torn.json").write_text('{"layers": 3}')
    for chosen, said in (("finer", "no layers are called"), (["conv_nought"], "no linear layer"), (3, "do not suffice"),
                         (str(tmp_path / "nought.json"), "no list of layers"), (str(tmp_path / "torn.json"), "no list of names")):
        with pytest.raises(UserError, match=said):
            choose(unet, chosen, 4)


# -- the adapter as a folder -------------------------------------------------------------------------------------------
def test_an_adapter_comes_back_exactly_and_diffusers_reads_its_lora(base, folder, tmp_path):
    net = trained(MatchMaskNet(base.unet, rank=3, alpha=5.0, gate="pixel", gate_layers="key", reduce=ANY))
    x, times, text, labels, tokens = asked()
    out = save_adapter(tmp_path / "adapter", net, base, prompter_of(base), (16, 16))
    again, about = load_adapter(out, load_base(folder))
    assert about["classes"] == CLASSES and about["words"]["wall-other-merged"] == "wall" and about["size"] == [16, 16]
    other = load_base(folder).unet
    other.load_lora_adapter(out, prefix=None, use_safetensors=True)
    with torch.no_grad():
        wanted = net(x, times, text, net.guide(labels, tokens, (7, 9)))
        assert torch.equal(again(x, times, text, again.guide(labels, tokens, (7, 9))), wanted)
        assert (other(x, times, text).sample - net(x, times, text)).abs().max() < 1e-6
    assert any(name.endswith("attn2.gate.weight") for name in load_file(out / GATE))


def test_an_adapter_goes_onto_its_own_base_only_and_is_whole_or_refused(base, folder, tmp_path):
    out = save_adapter(tmp_path / "adapter", MatchMaskNet(base.unet), base, prompter_of(base), (16, 16))
    trees.write_base(tmp_path / "other")
    trees.rewrite(tmp_path / "other" / "unet", lambda tensors: {k: v + 1e-3 for k, v in tensors.items()})
    with pytest.raises(UserError, match="not the one these weights were made with"):
        load_adapter(out, load_base(tmp_path / "other"))
    about = json.loads((out / ABOUT).read_text())
    wider = load_base(trees.write_base(tmp_path / "wider", width=24))
    (out / ABOUT).write_text(json.dumps(about | {"base": wider.record("unet")}))
    with pytest.raises(UserError, match="do not fit this base"):
        load_adapter(out, wider)
    (out / ABOUT).write_text(json.dumps(about))
    save_file({name: value + 1 for name, value in load_file(out / LORA).items()}, out / LORA)
    with pytest.raises(UserError, match=f"not the one {ABOUT} was written for"):
        load_adapter(out, load_base(folder))
    (out / ABOUT).write_text('{"layers": []}')
    with pytest.raises(UserError, match="not whole"):
        load_adapter(out, load_base(folder))
    with pytest.raises(UserError, match="no adapter can be read"):
        load_adapter(tmp_path, load_base(folder))


# -- painting ----------------------------------------------------------------------------------------------------------
def test_the_same_seeds_give_the_same_pictures_at_any_batch_size(base):
    net = trained(MatchMaskNet(base.unet))
    painter = Painter(base, net, prompter_of(base), size=(32, 24), steps=2)
    jobs = [Job("a", label_maps(21, 30), [0, 1, 2]), Job("b", torch.full((5, 4), 255), [1, 4])]
    groups = {batch: [painted for group in grouped(jobs, batch) for painted in painter.paint(group)] for batch in (1, 2, 7)}
    assert [(p.name, p.number) for p in groups[2]] == [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 4)]
    for batch in (1, 2):
        for one, other in zip(groups[batch], groups[7]):
            assert one.seed == other.seed and torch.equal(one.labels, other.labels) and one.labels.shape == (32, 24)
            assert (one.picture.int() - other.picture.int()).abs().max() <= 1
    shown = [p.picture for p in groups[7]]
    assert shown[0].shape == (3, 32, 24) and all(not torch.equal(a, b) for a, b in zip(shown, shown[1:]))


@torch.no_grad()
def test_painting_equals_one_picture_and_one_half_of_the_guidance_at_a_time(base):
    net = trained(MatchMaskNet(base.unet))
    painter = Painter(base, net, prompter_of(base), size=(32, 32), steps=3, guidance=3.0, sampler="dpm")
    labels = label_maps(32, 32)
    together = painter.latents([Job("a", labels, [0, 1])], [labels], [painter.prompter.prompt(labels)])
    prompt = painter.prompter.prompt(labels)
    text, empty = base.text.encode([prompt.text]), base.text.encode([""])
    for number in (0, 1):
        from zoo.diffusion.samplers import make_sampler, start_noise

        sampler = make_sampler("dpm", base.configs["scheduler"])
        x = start_noise([painter.seed_of("a", number)], 4, (8, 8))
        for time in sampler.times(3):
            guide = net.guide(labels[None], prompt.tokens[None], (8, 8))
            without, within = net(x, time[None], empty), net(x, time[None], text, guide)
            x = sampler.step(without + 3 * (within - without), time, x)
        assert (together[number] - x[0]).abs().max() < 1e-4
    plain = Painter(base, net, prompter_of(base), size=(32, 32), steps=3, guidance=3.0, sampler="dpm", rectify=False)
    unguided = plain.latents([Job("a", labels, [0, 1])], [labels], [prompt])
    assert (unguided - together).abs().max() > 1e-3 and to_pictures(unguided).dtype == torch.uint8


def test_a_painter_refuses_what_it_cannot_do_at_once(base, folder):
    net = MatchMaskNet(base.unet)
    refused = ({"sampler": "euler"}, "no such sampler"), ({"steps": 0}, "0 steps"), ({"size": (30, 32)}, "multiples of 4")
    for more, said in refused:
        with pytest.raises(UserError, match=said):
            Painter(base, net, prompter_of(base), **more)
    with pytest.raises(UserError, match="another base"):
        Painter(load_base(folder), net, prompter_of(base))


# -- filters -----------------------------------------------------------------------------------------------------------
def brute_force(predictions: np.ndarray, labels: np.ndarray, classes: int, ignore: int) -> np.ndarray:
    """The relative filter, pixel by pixel."""
    out = np.full(predictions.shape, ignore, predictions.dtype)
    for y, x in np.ndindex(labels.shape):
        counts = [int((predictions[:, y, x] == c).sum()) for c in range(classes)]
        if max(counts) == 0:
            continue
        tied = [c for c in range(classes) if counts[c] == max(counts)]
        proto = labels[y, x] if labels[y, x] in tied else tied[0]
        for k in range(len(predictions)):
            if predictions[k, y, x] == proto:
                out[k, y, x] = labels[y, x]
    return out


@pytest.mark.parametrize("siblings, classes, ignore", [(1, 3, 255), (2, 3, 255), (5, 4, 255), (8, 300, -1)])
def test_the_relative_filter_is_that_of_brute_force(siblings, classes, ignore):
    rng, kind = np.random.default_rng(siblings), np.uint8 if ignore == 255 else np.int32
    labels = rng.integers(classes, size=(13, 17)).astype(kind)
    wrong = rng.integers(classes, size=(siblings, 13, 17))
    predictions = np.where(rng.random(wrong.shape) < 0.5, labels, wrong).astype(kind)
    labels[rng.random(labels.shape) < 0.1] = ignore
    predictions[rng.random(predictions.shape) < 0.2] = ignore
    readings = filters.Readings(torch.from_numpy(predictions), None, None)
    kept = filters.Relative()(torch.from_numpy(labels), readings, ignore)
    assert np.array_equal(kept.numpy(), brute_force(predictions, labels, classes, ignore))
    whole = filters.NoFilter()(torch.from_numpy(labels), readings, ignore)
    assert whole.shape == kept.shape and (whole == torch.from_numpy(labels)).all()


def test_one_or_two_pictures_are_no_majority_and_this_is_said():
    assert "keeps every pixel" in filters.Relative.remark(1) and "ties" in filters.Relative.remark(2)
    assert filters.Relative.remark(3) is None
    labels = label_maps(5, 6)
    predictions = labels.clone()[None]
    assert torch.equal(filters.Relative()(labels, filters.Readings(predictions, None, None))[0], labels)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, torch.Tensor):
                self.bytes = max(self.bytes, value.numel() * value.element_size())
        return out


def test_voting_takes_no_memory_for_the_classes():
    labels, predictions = label_maps(512, 512, classes=171), label_maps(8, 512, 512, classes=171, seed=1)
    with Largest() as seen:
        filters.Relative()(labels, filters.Readings(predictions, None, None))
    assert seen.bytes <= 8 * 512 * 512 * 2                           # two bytes a pixel and picture: 4 MB; classes would take 45


class Colours:
    """A segmenter whose scores are the picture's three colours, twice."""

    device = torch.device("cpu")

    def scores(self, images):
        return images.float() * 2


def test_readings_and_class_means_are_those_of_a_softmax_by_hand():
    pictures = torch.randint(1, 255, (3, 3, 4, 5), generator=seeded(), dtype=torch.uint8)
    labels = label_maps(4, 5, classes=3)
    labels[0, 0] = 255
    found = filters.read(Colours(), pictures, labels)
    share = pictures.double() / pictures.double().sum(1, keepdim=True)
    assert torch.equal(found.predictions, share.argmax(1).to(torch.uint8)) and found.loss[:, 0, 0].abs().max() == 0
    assert (found.confidence - share.amax(1)).abs().max() < 1e-6
    for k, y, x in np.ndindex(3, 4, 5):
        if labels[y, x] != 255:
            assert abs(found.loss[k, y, x] + share[k, int(labels[y, x]), y, x].log()) < 1e-5
    scenes = [{"image": picture, "labels": labels} for picture in pictures]
    means = filters.class_means(Colours(), scenes, 4)
    assert means[3].isnan() and all(abs(means[c] - found.loss[:, labels == c].mean()) < 1e-5 for c in range(3))
    kept = filters.ClassLoss(1.0, means)(labels, found)
    wanted = (labels != 255) & (found.loss <= means.nan_to_num(0)[labels.long().clamp(max=3)])
    assert torch.equal(kept != 255, wanted) and wanted.any() and not wanted.all()
    assert torch.equal(filters.Confidence(0.5)(labels, found) != 255, (labels != 255) & (found.confidence >= 0.5))


def test_precision_and_recall_count_what_was_dropped_rightly():
    labels, seen = torch.tensor([[0, 1, 1, 255]]), torch.tensor([[[0, 0, 1, 3]], [[1, 1, 0, 0]]])
    kept = torch.tensor([[[0, 255, 255, 255]], [[255, 1, 1, 255]]])
    assert filters.precision_recall(labels, kept, seen) == (2, 3, 3)


# -- the probe ---------------------------------------------------------------------------------------------------------
def test_the_probe_scores_by_change_and_by_gradient_and_leaves_the_weights_as_they_were():
    net = MatchMaskNet(trees.unet(), layers="whole", gate="off")
    x, times, text, labels, tokens = asked()
    guide, all_layers = net.guide(labels, tokens, (7, 9)), layers_of(trees.unet())
    loss_of = lambda generator: net(x, times, text, guide).square().mean()
    before = {name: value.clone() for name, value in net.unet.state_dict().items()}
    found = probe.score(net.unet, all_layers, loss_of, 0, epochs=1, steps=1, lr=1e-3)
    loss_of(None).backward()
    for i, layer in enumerate(all_layers):
        parts = list(net.unet.get_submodule(layer.name).parameters(recurse=False))
        pull, size = (torch.cat([value.flatten() for value in values]).norm() for values in ([p.grad for p in parts], parts))
        assert abs(found["gradient"][i] - pull / size.clamp(min=1e-8)) <= 1e-4 * found["gradient"][i]
    assert np.allclose(found["change"], 1e-3 * found["gradient"], rtol=0.02, atol=1e-7)        # by SGD, in one step
    assert all(torch.equal(value, before[name]) for name, value in net.unet.state_dict().items())
    with pytest.raises(UserError, match="lower lr"):
        probe.score(net.unet, all_layers, lambda generator: net(x, times, text).square().mean() * torch.inf, 0, 1, 1, 1.0)
    assert {layer.kind for layer in all_layers} == set(layers.KINDS)
    blocks = list(dict.fromkeys(layer.block for layer in all_layers))
    assert blocks == ["in", "time", "down 0", "down 1", "mid", "up 0", "up 1", "out"]


def test_the_probe_writes_a_list_that_the_net_takes(folder, tmp_path, capsys):
    settings = ["data=demo", "data.size=32", "data.n_train=3", f"base={folder}", "seeds=[0,1]", "epochs=1", "steps=1", "batch=2",
                "rank=2", "budget=400", "random=1", "+words.sky=null", f"out={tmp_path / 'a'}"]
    probe.main(settings)
    assert "between its 2 seeds" in capsys.readouterr().out and (tmp_path / "a" / probe.PICTURE).stat().st_size > 1000
    costs = {layer.name: layer.cost for layer in layers_of(trees.unet())}
    for name in (probe.FILE, "random_0.json"):
        net = MatchMaskNet(trees.unet(), layers=str(tmp_path / "a" / name), rank=2, gate="off")
        assert 0 < sum(p.numel() for p in net.parameters()) == 2 * sum(costs[name] for name in net.layers) <= 400
    found = probe.read(tmp_path / "a")
    assert probe.likeness(found, found) == {"rank_change": 1, "jaccard_change": 1, "rank_gradient": 1, "jaccard_gradient": 1}
    probe.main(["compare", str(tmp_path / "a"), str(tmp_path / "a" / probe.FILE)])
    assert capsys.readouterr().out.count("between its 2 seeds") == 2
    for wrong, said in (([*settings, "score=loudness"], "no such score"), ([*settings, "steps=0"], "steps"),
                        ([*settings, "random=x"], "random"), ([*settings, "size=x"], "size"), ([*settings, "rank=2.5"], "rank"),
                        ([*settings, "out=null"], "out"), ([*settings, "device=nothing"], "device=nothing: torch has no such"),
                        (["compare", str(tmp_path)], "not what a probe has written"), (["base=tiny"], "data=<set> is missing")):
        with pytest.raises(UserError, match=said):
            probe.main(wrong)
