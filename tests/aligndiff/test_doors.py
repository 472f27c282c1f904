"""The commands of the card, in one process, with a base of random weights: words learnt, pictures painted, masks aligned, use."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import seed_everything

import train
from datamodules.demo.episodes import DemoEpisodes
from datamodules.errors import UserError
from datamodules.files import read_image, read_labels
from datamodules.pair import PairData
from datamodules.prompted import PromptedFolders
from datamodules.samples import ExampleSet, read_classes, read_manifest
from tests.aligndiff.trees import build, config, smallest, write_examples, write_pair
from tests.conftest import ROOT
from tests.contract import CLASSES, SquareData
from zoo import generate, hub, predict
from zoo.aligndiff.loss import cells_of
from zoo.aligndiff.making import BLOCK, Painting, block_bytes, read_block
from zoo.aligndiff.segmenter import FewShotSettings

SSP = ["fss=ssp", "fss.model.net.encoder=resnet10t", "+fss.model.net.level=3",
       "+fss.model.net.encoder_options={channels: [8,8,16,16]}"]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("own") / "examples")


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    results = train.run(smallest("data=prompted", f"data.root={root}", "data.batch_size=3", "data.workers=0", f"runs={runs}",
                                 "run=one"))
    return runs / "aligndiff" / "examples" / "one", results


def painted(run, out, *overrides):
    seed_everything(0, verbose=False)                        # the SSP of these tests has random weights
    return generate.run(config("generate", f"weights={run[0]}", f"out={out}", "k=3", *overrides))


@pytest.fixture(scope="module")
def coarse(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("coarse") / "pairs"
    painted(run, out)
    return out


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".parts" not in p.parts
            and p.name != "figures.json"}


# -- learning ----------------------------------------------------------------------------------------------------------
def test_pairs_that_cannot_be_used_are_passed_over_one_line_each(root, capsys):
    data = PromptedFolders(root=str(root))
    assert [(one.word, one.names) for one in data.example_sets("test")] == [
        ("kite", ("kite/1",)), ("toy horse", ("toy horse/2", "toy horse/10"))]
    assert data.example_sets("test")[0].texts == ("A red kite, over a seahorse.",)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("passed over")]
    assert len(lines) == 4
    for said in ("3.png: an empty mask", "4.png: a full mask", "5.png: a mask of 20x20", "6.jpg: a picture without a mask"):
        assert any(said in line for line in lines)


def test_a_run_learns_a_word_for_each_pair_and_keeps_nothing_of_the_base(run):
    folder, results = run
    assert {"loss", "loss_without"} <= set(results["trained"]) and np.isfinite(list(results["trained"].values())).all()
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {"bank.0", "bank.1", "bank.2"} and state["bank.0"].shape == (1, 16)
    assert set(json.loads((folder / "bank" / "bank.json").read_text())["entries"]) == {
        "kite/kite/1", "toy horse/toy horse/2", "toy horse/toy horse/10"}
    model = hub.load(folder)
    assert [one.name for one in model.instances] == ["kite/1", "toy horse/2", "toy horse/10"]
    fresh = build()
    assert all((vector - fresh.bank[0]).abs().max() > 0 for vector in model.bank)


def test_a_name_that_no_prompt_holds_is_passed_over_and_the_others_go_on(tmp_path, capsys):
    folder, long = tmp_path / "own", "very " * 80 + "cat"
    write_pair(folder / "kite", "1")
    write_pair(folder / "very_cat", "1")
    data = PromptedFolders(root=str(folder))
    data.classes[2] = long
    model = build()
    model.check_data(data)
    assert [one.key for one in model.instances] == ["kite/kite/1"]
    assert "passed over: a photo of a very very" in capsys.readouterr().out
    model.take_classes(data.classes, data.palette, "")
    read = data.source("train").read
    assert set(model.panel(read(1))) == {long, "mask"}                          # not painted, and no end of the run
    assert model.panel(read(0) | {"labels": torch.zeros(40, 48, dtype=torch.uint8)}).keys() == {"background"}
    labels = torch.full((40, 48), 255, dtype=torch.uint8)
    labels[:20], labels[20:30] = 1, 2                        # two classes, and pixels that are ignored: one class is shown
    shown = model.panel(read(0) | {"labels": labels})
    bright = (shown["mask"] == shown["kite"]).all(-1)
    half = len(bright) // 2                                   # pixels are squares of 2x2 there
    assert bright[:half].all() and bright[half:].mean() < 0.1
    data.classes[1] = long
    with pytest.raises(UserError, match="no pair of a picture and a mask can be learnt from"):
        build().check_data(data)


def test_a_bank_is_started_from_and_one_of_other_pictures_is_one_line(run, root):
    model = build(bank=str(run[0] / "bank"))
    model.check_data(PromptedFolders(root=str(root)))
    learnt = hub.load(run[0])
    assert all(torch.equal(a, b) for a, b in zip(model.bank, learnt.bank))
    with pytest.raises(UserError, match="model.bank: none of the data's pairs is in this bank"):
        build(bank=str(run[0] / "bank"), size=32).check_data(PromptedFolders(root=str(root)))


def test_sentences_of_a_list_that_cannot_be_used_are_one_line(tmp_path):
    write_pair(tmp_path / "car", "1")
    car = {"type": "text", "category": "car", "text": "a car", "D_good_dir": "./car"}
    for rows, line in (([car | {"text": "a red carpet"}], "'car' is no word of 'a red carpet'"), ([car | {"type": "x"}], "type"),
                       ([car, car | {"D_good_dir": "./cars"}], "two folders for 'car'"), ([car | {"D_good_dir": 5}], "strings")):
        (tmp_path / "dataset.json").write_text(json.dumps({"prompt_dataset": rows}))
        with pytest.raises(UserError, match=line):
            PromptedFolders(root=str(tmp_path))


def test_a_pair_of_files_and_episodes_of_a_set_are_learnt_from(tmp_path):
    picture, mask = write_pair(tmp_path / "p", "sofa")
    few = ["data.batch_size=2", "data.workers=0", f"runs={tmp_path}", "run=one"]
    train.run(smallest("data=pair", f"data.image={picture}", f"data.mask={mask}", "data.word=sofa", *few))
    assert (tmp_path / "aligndiff" / "pair" / "one" / "weights.safetensors").exists()
    model = build()
    model.check_data(DemoEpisodes(size=32, fixed=True, episodes=24, pictures_per_class=3, rare=True))
    assert len(model.instances) == 20 == len({one.word for one in model.instances})
    with pytest.raises(UserError, match="data=squares: AlignDiff learns from pairs"):
        build().check_data(SquareData())
    with pytest.raises(UserError, match="a generator learns from real pictures"):
        build().check_data(PairData(image=picture, mask=mask, word="sofa", synthetic=str(tmp_path)))


@pytest.mark.parametrize("kind", ["empty", "full"])
def test_a_useless_mask_is_one_line(kind, tmp_path):
    picture, mask = write_pair(tmp_path, "sofa", mask=kind)
    with pytest.raises(UserError, match=f"sofa.png: an? {kind} mask"):
        PairData(image=picture, mask=mask, word="sofa").source("train")


def test_settings_out_of_range_are_one_line():
    for settings, line in (
        ({"placement": "verb"}, "placement='verb'"), ({"masking": "half"}, "masking='half'"), ({"vectors": 0}, "0 vectors"),
        ({"bg_lambda": -1.0}, "negative"), ({"threshold": 1.5}, "1.5 is no share"), ({"levels": 0}, "0 levels"),
        ({"start": "very good"}, "'very good' is 2 tokens"), ({"texts": ["a kite"]}, "model.texts: 'a kite' has 0 places"),
        ({"sampler": "x"}, "no such sampler"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=line):
            build(**settings)
    with pytest.raises(UserError, match="fss.rules.alpha: 1.5 is no IoU"):
        FewShotSettings(rules={"alpha": 1.5})
    with pytest.raises(UserError, match="no few-shot model"):
        FewShotSettings(model={})


def test_the_example_folder_keeps_its_grey_levels_and_its_smallest_object(shared):
    data = PromptedFolders(root=str(shared / "data" / "aligndiff_examples"))
    kite, mushroom = data.example_sets("test")
    assert (kite.word, kite.names, mushroom.names) == ("kite", ("kite/1", "kite/2", "kite/10"), ("mushroom/1",))
    assert len(kite.texts) == 2 and not mushroom.texts
    sizes = [tuple(data.example("test", name, 1)[0].shape[1:]) for name in kite.names]
    assert len(set(sizes)) == 3
    for name, class_id in (("kite/2", 1), ("mushroom/1", 2)):
        grey = data.example("test", name, class_id)[1]
        assert ((grey > 0) & (grey < 1)).any()
    grey = data.example("test", "kite/10", 1)[1]
    assert (grey > 0.3).float().mean() < 0.01 and [int(cells_of(grey[None], (n, n)).sum()) > 0 for n in (8, 16)] == [True, True]
    model = build()
    model.check_data(data)
    assert [one.key for one in model.instances] == ["kite/kite/1", "kite/kite/2", "kite/kite/10", "mushroom/mushroom/1"]


# -- painting ----------------------------------------------------------------------------------------------------------
def test_the_folder_holds_k_pairs_of_each_set_by_learnt_words_and_texts(run, root, coarse):
    rows = read_manifest((coarse / "manifest.jsonl").read_text())
    sets = PromptedFolders(root=str(root)).example_sets("test")
    assert [row["source"] for row in rows] == [one.key for one in sets for _ in range(3)]
    assert read_classes((coarse / "classes.txt").read_text())[0] == ["background", "kite", "toy horse"]
    for row in rows:
        picture, mask = read_image(coarse / "images" / f"{row['name']}.png"), read_labels(coarse / "masks" / f"{row['name']}.png")
        assert picture.shape == (3, 64, 64) and mask.shape == (64, 64)
        assert set(mask.unique().tolist()) <= {0, {"kite": 1, "toy horse": 2}[row["word"]]}
    assert [row["filter"]["learnt"] for row in rows] == [0, 1, 0] * 2                  # share 0.5 of three
    assert rows[1]["prompt"] == "a photo of a <new> kite" and rows[2]["prompt"] == "A red kite, over a seahorse."
    assert len({row["seed"] for row in rows}) == 6


def test_pictures_do_not_depend_on_the_batch_and_a_second_start_makes_what_is_missing(run, coarse, tmp_path, capsys):
    painted(run, tmp_path / "single", "batch=1")
    for part in ("images", "masks"):
        for file in sorted((coarse / part).iterdir()):
            one, other = (read_image(place / part / file.name).int() for place in (coarse, tmp_path / "single"))
            apart = (one - other).abs()
            assert apart.max() <= 2 if part == "images" else apart.bool().float().mean() < 0.01    # sums of another order
    painted(run, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(coarse)
    victim = sorted((tmp_path / "again" / "images").iterdir())[0]
    victim.unlink()
    capsys.readouterr()
    painted(run, tmp_path / "again")
    assert "1 of 2 are to be made here" in capsys.readouterr().out
    assert contents(tmp_path / "again") == contents(coarse)
    painted(run, tmp_path / "again")
    assert "to be made" not in capsys.readouterr().out
    with pytest.raises(UserError, match="made with another share"):
        painted(run, tmp_path / "again", "share=1.0")


def test_two_processes_make_what_one_does(run, coarse, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        painted(run, tmp_path / "two")
    assert contents(tmp_path / "two") == contents(coarse)


def test_masks_are_aligned_by_a_few_shot_model_from_paintings_made_now_or_before(run, coarse, tmp_path, capsys):
    figures = painted(run, tmp_path / "aligned", *SSP, "fss.rules.alpha=0.0")
    rows = read_manifest((tmp_path / "aligned" / "manifest.jsonl").read_text())
    assert len(rows) == 6 and figures["all"]["accepted"] > 0
    assert not list((tmp_path / "aligned" / ".parts").glob("*.npz"))
    painted(run, tmp_path / "later", *SSP, "fss.rules.alpha=0.0", f"painted={coarse}")
    for name in [row["name"] for row in rows]:
        now, then = (read_labels(tmp_path / place / "masks" / f"{name}.png") for place in ("aligned", "later"))
        assert torch.equal(now, then)
    capsys.readouterr()
    painted(run, tmp_path / "strict", *SSP, "fss.rules.score=1.0")                 # of such a probability nothing is
    assert "kite: no picture is accepted at alpha=0.8: masks are estimated with the real pairs alone" in capsys.readouterr().out
    with pytest.raises(UserError, match="aligned already"):
        painted(run, tmp_path / "x", *SSP, f"painted={tmp_path / 'aligned'}")


def test_diffews_aligns_masks_by_its_own_threshold(run, coarse, tmp_path):
    seed_everything(0, verbose=False)
    recipe = yaml.safe_load((ROOT / "zoo" / "diffews" / "tiny.yaml").read_text()) | {"size": 32}
    weights = hub.export(hub.build(recipe, CLASSES), tmp_path / "diffews", {"seed": 0})
    fss = ["fss=diffews", f"fss.weights={weights}", "fss.rules.alpha=0.0"]
    figures = painted(run, tmp_path / "aligned", *fss, f"painted={coarse}")
    assert "accepted" in figures["all"] and (tmp_path / "aligned" / "manifest.jsonl").exists()
    with pytest.raises(UserError, match="fss.weights: no few-shot model"):
        painted(run, tmp_path / "x", "fss=diffews")
    with pytest.raises(UserError, match="does not learn from a few pairs"):
        painted(run, tmp_path / "y", "fss=diffews", f"fss.weights={run[0]}")


def test_paintings_of_a_stopped_process_are_taken_up(tmp_path):
    one = Painting(4, torch.zeros(3, 8, 8, dtype=torch.uint8), torch.ones(8, 8, dtype=torch.bool), "a cat", 7, True)
    file = tmp_path / "block.npz"
    file.write_bytes(block_bytes([one]))
    (again,) = read_block(file, 1)
    assert (again.number, again.prompt, again.seed, again.learnt) == (4, "a cat", 7, True) and again.coarse.all()
    assert read_block(file, BLOCK) is None
    file.write_bytes(file.read_bytes()[:50])
    assert read_block(file, 1) is None and read_block(tmp_path / "absent", 1) is None


def test_what_cannot_be_painted_is_one_line(run, tmp_path):
    for override, line in (("share=1.5", "1.5 is no share"), ("by=paste", "not into label maps"), ("batch=0", "0 pictures")):
        with pytest.raises(UserError, match=line):
            painted(run, tmp_path / "x", override)
    other = tmp_path / "other"
    write_pair(other / "kite", "9")
    with pytest.raises(UserError, match="kite: no word was learnt from kite/9"):
        painted(run, tmp_path / "y", "data=prompted", f"data.root={other}", "share=1.0")
    write_pair(other / "kite", "1")
    painted(run, tmp_path / "z", "data=prompted", f"data.root={other}", "share=0.0")       # by text alone
    assert len(list((tmp_path / "z" / "images").iterdir())) == 3
    long = tmp_path / "long"
    write_pair(long / ("v_v_" * 40), "1")
    with pytest.raises(UserError, match="not one pair came of 1 units"):
        painted(run, tmp_path / "nothing", "data=prompted", f"data.root={long}", "share=0.0")
    assert not (tmp_path / "nothing" / "manifest.jsonl").exists()
    with pytest.raises(UserError, match="painted=/nowhere: no such folder"):
        painted(run, tmp_path / "w", "painted=/nowhere")
    with pytest.raises(UserError, match="no pictures painted for v v"):
        painted(run, tmp_path / "w", f"painted={tmp_path / 'z'}", "data=prompted", f"data.root={long}")
    assert not (tmp_path / "w").exists()
    with pytest.raises(UserError, match="k: 0 pictures"):
        hub.load(run[0]).generate("kite", 0)


def test_weights_of_another_base_are_one_line(run, tmp_path):
    with pytest.raises(UserError, match="AlignDiff labels no pictures"):
        given = {"weights": str(run[0]), "image": str(run[0] / "panels" / "final.png"), "out": str(tmp_path)}
        predict.run(given, config("predict"))
    shutil.copytree(run[0], tmp_path / "run")
    with pytest.raises(UserError, match="made for another unet"):
        hub.load(tmp_path / "run", {"base": {"unet": {"layers_per_block": 2}}})


# -- use ---------------------------------------------------------------------------------------------------------------
def episodes(**settings):
    return DemoEpisodes(**{"size": 32, "fixed": True, "episodes": 24, "pictures_per_class": 3} | settings)


def synthetic(folder, rows):
    """A folder of painted pictures: (source, word, number) each; all pixels of a mask's upper half are the object."""
    import cv2

    from datamodules.samples import classes_text, default_palette, manifest_line

    words = sorted({word for _, word, _ in rows})
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    lines = []
    for source, word, number in rows:
        mask = np.zeros((32, 32), np.uint8)
        mask[:16] = 1 + words.index(word)
        cv2.imwrite(str(folder / "masks" / f"{source}_{number}.png"), mask)
        cv2.imwrite(str(folder / "images" / f"{source}_{number}.png"), np.full((32, 32, 3), 50 + number, np.uint8))
        lines.append(manifest_line({"name": f"{source}_{number}", "source": source, "word": word, "seed": 0, "prompt": "",
                                    "weights": "", "filter": {}}))
    (folder / "classes.txt").write_text(classes_text(["background", *words], default_palette(1 + len(words))))
    (folder / "manifest.jsonl").write_text("".join(lines))
    return str(folder)


def test_fixed_supports_are_no_queries_and_the_only_ones_of_their_class():
    plans = episodes().plans("test")
    for class_id in {plan.class_id for plan in plans}:
        own = [plan for plan in plans if plan.class_id == class_id]
        assert len({tuple(plan.supports) for plan in own}) == 1
        assert not {plan.query for plan in own} & set(own[0].supports)


def test_painted_supports_are_those_made_from_an_episodes_own_pictures(tmp_path):
    sets = episodes().example_sets("test")
    foreign = ExampleSet(sets[0].word, sets[0].class_id, ("another",))
    rows = [(sets[0].key, sets[0].word, n) for n in range(3)] + [(sets[1].key, sets[1].word, 0), (foreign.key, sets[0].word, 7)]
    data = episodes(synthetic=synthetic(tmp_path / "s", rows), synthetic_weight=0.5, synthetic_shots=2, val_batch_size=2)
    source = data.source("test")
    seen = {}
    for number in range(len(source)):
        episode = source.read(number)
        seen[episode["word"]] = episode
        assert episode["supports"].shape[0] == len(episode["support_weights"]) == 3
    assert seen[sets[0].word]["support_weights"].tolist() == [1, 0.5, 0.5]
    assert seen[sets[0].word]["supports"][1:, 0, 0, 0].tolist() == [50, 51]
    assert seen[sets[1].word]["support_weights"].tolist() == [1, 0.5, 0]
    assert seen[sets[2].word]["support_weights"].tolist() == [1, 0, 0]
    batch = data.collate([source.read(0), source.read(1)])
    assert batch["support_weights"].shape == (2, 3)
    with pytest.raises(UserError, match="shots 0"):
        episodes(synthetic_shots=0)
    with pytest.raises(UserError, match="no manifest.jsonl"):
        (tmp_path / "s" / "manifest.jsonl").unlink()
        episodes(synthetic=str(tmp_path / "s")).source("test")


def test_a_folder_made_from_other_examples_is_read_by_its_words(tmp_path):
    word = episodes().example_sets("test")[0].word
    data = episodes(synthetic=synthetic(tmp_path / "s", [("elsewhere", word, 0)]))
    source = data.source("test")
    found = [source.read(n)["support_weights"].tolist() for n in range(len(source)) if source.read(n)["word"] == word]
    assert found and all(weights == [1, 1] for weights in found)
    with pytest.raises(UserError, match="nothing is painted of this set's classes, but of carpet"):
        episodes(synthetic=synthetic(tmp_path / "t", [("elsewhere", "carpet", 0)])).source("test")
    with pytest.raises(UserError, match="data.synthetic=/nowhere: no such folder"):
        episodes(synthetic="/nowhere").source("test")


def test_changed_copies_show_the_object_and_are_the_same_for_every_query():
    data = episodes(augmented=4)
    source = data.source("test")
    shown = {}
    for number in range(len(source)):
        episode = source.read(number)
        assert episode["supports"].shape == (5, 3, 32, 32) and (episode["support_masks"].flatten(1).sum(1) > 0).all()
        first = shown.setdefault(episode["word"], episode["supports"])
        assert torch.equal(first, episode["supports"]) and not torch.equal(first[0], first[1])
