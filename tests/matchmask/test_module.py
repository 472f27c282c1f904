"""MatchMask above its net: what learns and is kept, prompts in training, who judges, the end of a run."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.demo.kinds import DemoKinds
from datamodules.errors import UserError
from tests.contract import CLASSES, SquareData, Squares, trainer
from tests.matchmask.trees import built, matchmask
from zoo import hub
from zoo.diffusion.base import digest
from zoo.matchmask import judge
from zoo.matchmask.adapter import load_adapter
from zoo.matchmask.lessons import MOMENTS, squeezed, whole_scenes, with_moments
from zoo.matchmask.masks import FREE
from zoo.tiny.base import open_base


def batch_of(*scenes):
    return SquareData().collate(list(scenes))


def scene(labels, name="scene"):
    labels = torch.as_tensor(labels).to(torch.uint8)
    image = torch.randint(0, 256, (3, *labels.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return {"image": image, "labels": labels, "name": name, "size": tuple(labels.shape)}


def quiet(model):
    model.log_dict = model.log = lambda *args, **kwargs: None
    return model


# -- what learns -------------------------------------------------------------------------------------------------------
def test_training_moves_the_adapter_and_the_gates_and_nothing_of_the_base(tmp_path):
    model = matchmask()
    own = dict(model.state_dict())
    assert own and all(name.startswith(("net.lora.", "net.gates.")) for name in own)
    frozen = {name: value.clone() for name, value in model.net.unet.state_dict().items() if "lora" not in name}
    kept = [digest(model.vae), digest(model.text_encoder)]
    trainer(tmp_path, 3).fit(model, SquareData())
    now = model.net.unet.state_dict()
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert [digest(model.vae), digest(model.text_encoder)] == kept
    moved = [name for name, value in model.state_dict().items() if value.ne(0).any()]
    assert any(name.endswith("lora_B.weight") for name in moved) and any(name.startswith("net.gates") for name in moved)


def test_full_fine_tuning_keeps_the_whole_unet_in_its_weights(tmp_path):
    model = matchmask(net={"layers": "whole"})
    assert "unet" in matchmask().bases() and "unet" not in model.bases()
    trainer(tmp_path, 2).fit(model, SquareData())
    hub.export(model, tmp_path / "run", {"seed": 0})
    again = hub.load(tmp_path / "run")
    for one, other in zip(model.net.unet.parameters(), again.net.unet.parameters()):
        assert torch.equal(one, other)


def test_weights_refuse_another_base(tmp_path):
    hub.export(matchmask(), tmp_path, {"seed": 0})
    with pytest.raises(UserError, match="made for another unet"):
        hub.load(tmp_path, {"base": {"unet": {"block_out_channels": [8, 24]}}})


# -- lessons -----------------------------------------------------------------------------------------------------------
def test_kept_moments_give_the_loss_of_pictures_encoded_at_every_step(tmp_path):
    model, data = quiet(matchmask()), SquareData(flip=0.5)
    whole = whole_scenes(data.training(), model.size)
    kept = with_moments(whole, model.vae, "a" * 64, str(tmp_path), 0, 1, lambda: None)
    for visit in (0, 4):
        plain, cached = (data.collate([dataset[visit + i, visit + i] for i in range(2)]) for dataset in (whole, kept))
        assert MOMENTS in cached and MOMENTS not in plain
        losses = []
        for batch in (plain, cached):
            torch.manual_seed(visit)
            losses.append(model.training_step(batch, 0).item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_whole_scenes_are_squeezed_and_sometimes_mirrored_together_with_their_labels():
    data = SquareData(flip=0.5)
    samples = [whole_scenes(data.training(), (32, 48))[visit, visit % 7] for visit in range(12)]
    assert {tuple(one["image"].shape) for one in samples} == {(3, 32, 48)}
    assert {tuple(one["labels"].shape) for one in samples} == {(32, 48)}
    mirrored = 0
    for one in samples:
        read = Squares().read(Squares.names.index(one["name"]))
        straight = squeezed(read["image"], (32, 48))
        assert torch.equal(one["image"], straight) or torch.equal(one["image"], straight.flip(-1))
        mirrored += not torch.equal(one["image"], straight)
    assert 0 < mirrored < 12


def test_words_of_a_prompt_are_dropped_for_good_with_its_tokens():
    model = matchmask(dropout=0.5)
    labels = torch.stack([Squares().read(1)["labels"]] * 12)
    torch.manual_seed(0)
    states, tokens = model.prompts(labels)
    empty = [bool((row == FREE).all()) for row in tokens]
    assert 0 < sum(empty) < 12
    nothing, words = model.states([""])[0], model.states([model.prompter.prompt(labels[0]).text])[0]
    assert all(torch.equal(state, nothing if gone else words) for state, gone in zip(states, empty))
    with pytest.raises(UserError, match="model.dropout"):
        matchmask(dropout=1.0)


ODD = {
    "a class without a word": {"words": {"thing": None}},
    "no class with a word": {"words": dict.fromkeys(CLASSES)},
    "any pixel's class": {"net": {"reduce": "any"}},
    "a gate a pixel": {"net": {"gate": "pixel"}},
    "a constant gate of the adapter's blocks": {"net": {"gate": "constant", "gate_layers": "key"}},
    "no gate": {"net": {"gate": "off"}},
    "gradient checkpointing": {"net": {"checkpointing": True}},
    "pictures that are not square": {"size": [32, 48]},
    "plain prompts": {"rectify": False},
    "nothing but the words and the start": {"free": "start", "dropout": 0.5},
}


@pytest.mark.parametrize("which", ODD)
def test_variants_learn_from_odd_label_maps_and_paint_into_them(which):
    model = quiet(matchmask(**ODD[which]))
    speck, nothing, uneven = torch.zeros(64, 64), torch.full((64, 64), 255), torch.zeros(41, 67)
    speck[19, 45], uneven[10:, 30:] = 1, 2
    loss = model.training_step(batch_of(scene(speck), scene(nothing)), 0)
    loss.backward()
    assert math.isfinite(loss)
    for number, labels in enumerate((speck, nothing, uneven)):
        pairs = model.generate(labels.to(torch.uint8), k=2, name=f"map{number}")
        assert [pair.number for pair in pairs] == [0, 1] and not torch.equal(pairs[0].picture, pairs[1].picture)
        assert pairs[0].picture.shape[1:] == pairs[0].labels.shape == model.size
        assert set(pairs[0].labels.unique().tolist()) <= set(labels.unique().int().tolist())


def test_with_free_start_a_cell_sees_its_words_and_the_first_token_alone():
    labels = Squares().read(1)["labels"]
    seen, all_seen = (matchmask(free=free).prompter.prompt(labels).tokens for free in ("start", "all"))
    assert seen[0] == FREE and (seen == FREE).sum() == 1 and torch.equal(seen[seen >= 0], all_seen[all_seen >= 0])
    model = matchmask(free="start")
    guide = model.net.guide(labels[None], seen[None], (16, 16))
    assert (guide.seen[256].sum(-1) == 2).all()              # the first one and the one token of its class
    with pytest.raises(UserError, match="give all or start"):
        matchmask(free="none")


def test_generate_gives_the_same_pictures_one_by_one_and_other_ones_for_another_seed():
    model, labels = matchmask(), Squares().read(1)["labels"]
    together = model.generate(labels, k=3, seed=1, name="a")
    alone = model.generate(labels, k=1, seed=1, name="a")[0]
    assert (alone.picture.int() - together[0].picture.int()).abs().max() <= 1 and alone.seed == together[0].seed
    assert model.generate(labels.numpy(), k=1, seed=2, name="a")[0].seed != alone.seed


def test_a_generator_paints_into_classes_it_was_not_trained_with():
    model = matchmask(words={"thing": "cup"})
    model.take_classes(["background", "thing", "dog"], None, "here")
    labels = torch.tensor([[0, 1], [2, 255]], dtype=torch.uint8)
    assert model.generate(labels, k=1)[0].prompt == "cup dog"


def test_a_generator_refuses_made_pictures_and_impossible_settings(tmp_path):
    data = SquareData()
    data.synthetic = "somewhere"
    with pytest.raises(UserError, match="learns from real pictures"):
        matchmask().check_data(data)
    refused = (
        ({"size": 30}, "multiples of 4"), ({"sampler": "euler"}, "no such sampler"), ({"steps": 0}, "0 steps"),
        ({"words": {"dog": "hound"}}, "'dog' is no class"), ({"net": {"layers": "coarse"}}, "no layers are called"),
        ({"net": {"gate": "maybe"}}, "gate=maybe"),
        ({"full_tuning": -1.0}, "model.full_tuning: -1.0 is no learning rate"), ({"base": "nowhere"}, "nowhere: no such folder"),
    )  # fmt: skip
    for wrong, said in refused:
        with pytest.raises(UserError, match=said):
            matchmask(**wrong)


# -- who judges --------------------------------------------------------------------------------------------------------
def test_without_a_judge_validation_says_nothing_and_closing_says_so(tmp_path):
    model, data = matchmask(), SquareData()
    model.check_data(data)
    assert not model.judged and model.evaluator("val").compute() == {}
    fitted = trainer(tmp_path, 2, limit_val_batches=1.0, val_check_interval=2, check_val_every_n_epoch=None)
    fitted.fit(model, data)
    assert not any(key.startswith("val/") for key in fitted.callback_metrics)
    lines = model.closing(data, tmp_path)
    assert "nobody judges" in lines[-1] and "model.judge.weights" in lines[-1] and (tmp_path / "sheet.png").exists()


def test_the_oracle_judges_drawn_things_where_its_weights_are(monkeypatch, tmp_path):
    data = DemoKinds(things=["cow", "ball"], n_val=2)
    asked = judge.Judge()
    asked.appoint(data)
    assert asked.drawn and bool(asked) == (judge.oracle_file() is not None)
    monkeypatch.setattr(judge, "oracle_file", lambda: None)
    assert not asked and "zoo.tiny.oracle" in asked.absence()
    asked.appoint(SquareData())
    assert not asked.drawn and "model.judge.weights" in asked.absence()


def test_the_oracle_decides_among_the_sets_own_kinds():
    if judge.oracle_file() is None:
        pytest.skip("the tiny oracle is not trained yet")
    data = DemoKinds(things=["cow", "ball", "leaf"], n_val=12)
    asked = judge.Judge()
    asked.appoint(data)
    scenes = [data.source("val").read(i) for i in range(12)]
    seen = asked.see(torch.stack([one["image"] for one in scenes]))
    truth = torch.stack([one["labels"] for one in scenes])
    right = seen == truth
    assert seen.max() <= 3 and right.float().mean() > 0.9 and right[truth > 0].float().mean() > 0.6


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmenter")
    return str(hub.export(built("deeplabv3plus"), folder, {"seed": 0}))


def judged_by(weights, **more):
    return {"judge": {"_target_": "zoo.matchmask.judge.Judge", "weights": weights, "maps": 2} | more}


def test_a_judge_of_other_classes_is_refused(segmenter):
    model = matchmask(**judged_by(segmenter))
    data = DemoKinds(things=["cow"], n_val=2)
    model.check_data(data)
    model.take_classes(data.classes, data.palette, "here")
    with pytest.raises(UserError, match="model.judge.weights=.*it knows 3 classes"):
        model.seen(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_validation_is_agreement_of_the_judge_with_the_label_maps(segmenter, tmp_path):
    model, data = matchmask(**judged_by(segmenter)), SquareData()
    model.check_data(data)
    found = trainer(tmp_path, 1, limit_val_batches=1.0).validate(model, data, verbose=False)[0]
    alone = model.evaluator("val")
    for number in range(len(data.source("val"))):
        one = data.source("val").read(number)
        pair = model.generate(one["labels"], k=1, name=one["name"])[0]
        alone.update(model.seen(pair.picture[None])[0], pair.labels)
    assert found["val/mIoU"] == pytest.approx(alone.compute()["mIoU"], abs=2e-3)


# -- the end of a run --------------------------------------------------------------------------------------------------
def test_a_run_ends_with_adapter_sheet_and_figures_beside_the_bases(segmenter, tmp_path):
    model, data = matchmask(**judged_by(segmenter), full_tuning=1e-3), SquareData()
    model.check_data(data)
    fitted = trainer(tmp_path, 2)
    fitted.fit(model, data)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lines = model.closing(data, tmp_path)
    results = json.loads((tmp_path / "agreement.json").read_text())["results"]
    assert list(results) == ["adapter", "base, rectified", "base, words alone", "whole UNet", "real pictures"]
    for row in list(results)[:-1]:
        assert set(results[row]) == {"mIoU", "aAcc", "mIoU_train", "difference"} and 0 <= results[row]["mIoU"] <= 1
        assert any(line.split("  ")[1] == row for line in lines if line.startswith("  "))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 6 * 128
    assert sum(file.stat().st_size for file in (tmp_path / "adapter").iterdir()) < 4e6
    net, about = load_adapter(tmp_path / "adapter", open_base(model.place))
    assert about["classes"] == CLASSES and all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values()))


def test_a_panel_shows_scene_label_map_and_paintings():
    shown = matchmask().panel(SquareData().source("val").read(1))
    assert list(shown) == ["scene", "label map", "painted 0", "painted 1"]
    assert {picture.shape for picture in shown.values()} == {(128, 128, 3)} and all(p.dtype == np.uint8 for p in shown.values())
