"""Base and novel classes in one set: what each phase may see, the few pictures, what is pasted."""

import numpy as np
import pytest
import torch

from datamodules.demo.kinds import DemoKinds
from datamodules.errors import UserError
from datamodules.generalised import Generalised, Thing, pasted
from datamodules.samples import classes_text, default_palette
from zoo.report import grouped

THINGS = ["ball", "leaf", "zebra", "heart"]


def data(**settings):
    scenes = DemoKinds(things=THINGS, size=32, n_train=40, n_val=3)
    return Generalised(**{"scenes": scenes, "novel": ["zebra"], "crop": 32, "scale": (1.0, 1.0), "batch_size": 2, "workers": 0,
                          "cat_max_ratio": 1.0, "colour": 0.0} | settings)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def test_the_base_phase_shows_nothing_novel():
    base, label = data(phase="base"), 1 + THINGS.index("zebra")
    source = base.source("train")
    assert 0 < len(source) < 40
    assert all(not (source.read(n)["labels"] == label).any() for n in range(len(source)))
    drawn = base.training()
    assert all(not (drawn[visit, visit % len(drawn)]["labels"] == label).any() for visit in range(10))


def test_the_novel_phase_shows_the_few_and_pastes_their_objects_into_what_is_replayed():
    novel, label = data(shots=2, novel_share=0.3, paste=0.5, paste_scale=(0.5, 1.0)), 1 + THINGS.index("zebra")
    (few,) = novel.few().values()
    (examples,) = novel.example_sets("test")
    assert len(few) == 2 and (examples.word, examples.class_id) == ("zebra", label)
    image, mask = novel.example("test", examples.names[0], label)
    assert image.shape == (3, 32, 32) and 0 < mask.mean() < 1 and set(mask.unique().tolist()) == {0, 1}
    drawn = novel.training()
    shown = [drawn[visit, visit % len(drawn)] for visit in range(40)]
    share = np.mean([bool((one["labels"] == label).any()) for one in shown])
    assert 0.4 < share < 0.9                                 # 0.3 are the few, half of the others have something pasted in
    again = data(shots=2, novel_share=0.3, paste=0.5, paste_scale=(0.5, 1.0)).training()
    assert all(torch.equal(again[visit, visit % len(drawn)]["labels"], shown[visit]["labels"]) for visit in range(5))


def test_a_pasted_thing_is_the_things_pixels_with_its_label():
    scene = {"image": torch.zeros(3, 20, 30, dtype=torch.uint8), "labels": torch.zeros(20, 30, dtype=torch.uint8)}
    thing = Thing(torch.full((3, 8, 6), 200, dtype=torch.uint8), torch.ones(8, 6, dtype=torch.bool), 3)
    for seed in range(5):
        found = pasted(scene, thing, (0.1, 9.0), np.random.default_rng(seed))
        marked = found["labels"] == 3
        assert marked.any() and (found["image"][:, marked] == 200).all() and (found["image"][:, ~marked] == 0).all()
    assert not scene["labels"].any()


def test_painted_pictures_of_the_same_classes_join_the_few(tmp_path):
    import cv2

    for part in ("images", "masks"):
        (tmp_path / "s" / part).mkdir(parents=True)
        value = np.full((32, 32), 3, np.uint8)
        value[:4] = 0
        cv2.imwrite(str(tmp_path / "s" / part / "a.png"), value)
    classes = ["background", *THINGS]
    (tmp_path / "s" / "classes.txt").write_text(classes_text(classes, default_palette(len(classes))))
    (tmp_path / "s" / "manifest.jsonl").write_text("")
    drawn = data(synthetic=str(tmp_path / "s"), novel_share=0.9, paste=1.0).training()
    assert any((drawn[visit, 0]["image"] == 3).float().mean() > 0.5 for visit in range(10))
    with pytest.raises(UserError, match="made for other classes"):
        data(novel=["heart"], scenes=DemoKinds(things=THINGS[:3] + ["heart", "fish"], n_train=9, size=32),
             synthetic=str(tmp_path / "s")).training()


def test_folds_are_runs_or_turns_and_figures_tell_base_novel_and_their_harmonic_mean():
    assert data(novel=None, folds=2, fold=1).novel == ["zebra", "heart"]
    one = data(novel=None, folds=2, fold=1, by_turns=True)
    assert one.novel == ["leaf", "heart"] and one.groups["base"] == ["background", "ball", "zebra"]
    figures = {"mIoU": 0.3, "IoU/background": 0.9, "IoU/ball": 0.3, "IoU/zebra": float("nan"), "IoU/leaf": 0.2, "IoU/heart": 0.2}
    found = grouped(figures, one)
    assert found["mIoU_base"] == pytest.approx(0.6) and found["harmonic_mean"] == pytest.approx(0.3)


def test_what_cannot_be_is_one_line():
    for settings, line in (({"phase": "last"}, "phase='last'"), ({"novel": ["cat"]}, "'cat' is no class"),
                           ({"shots": 0}, "0 shots"), ({"novel": None, "fold": 9}, "no fold 9"),
                           ({"scenes": None}, "data.scenes: no set"), ({"synthetic_share": 0.2}, "set data.novel_share"),
                           ({"phase": "base", "synthetic": "s"}, "leave it out of data.phase=base"),
                           ({"class_map": "own.yaml"}, "give data.scenes.class_map"),
                           ({"scenes": DemoKinds(things=THINGS, synthetic="s")}, "give data.synthetic")):
        with pytest.raises(UserError, match=line):
            data(**settings)
    with pytest.raises(UserError, match="99 are wanted"):
        data(shots=99).few()
