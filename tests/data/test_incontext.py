"""Episodes mixed from COCO, ADE20K and VOC: what is drawn, from where, how often, and what is too small."""

from collections import Counter

import numpy as np
import pytest
import torch

from datamodules.errors import UserError
from datamodules.incontext import FIRST, InContext
from tests.data.test_episodes import coco_lists, photo, put, square, voc_lists
from tests.data.trees_scenes import make_ade

SETS = list(FIRST)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The three sets; COCO and VOC are as many pictures as their lists name, ADE20K six with wall and sky or so."""
    folder = tmp_path_factory.mktemp("sets")
    voc_lists(folder / "lists", per_class=3), coco_lists(folder / "lists", per_class=3)
    for class_id in range(80):
        for k in range(3 + class_id % 3):
            for year in ("train2014", "val2014"):
                stem = f"COCO_{year}_{class_id * 100 + k:012d}"
                put(folder / "coco" / year / f"{stem}.jpg", photo(class_id + k))
                put(folder / "coco" / "annotations" / year / f"{stem}.png", square(class_id + 1))
    for c in range(1, 21):
        for k in range(3):
            for side in ("trn", "val"):
                put(folder / "voc" / "JPEGImages" / f"{side}{c}_{k}.jpg", photo(c + k))
                put(folder / "voc" / "SegmentationClassAug" / f"{side}{c}_{k}.png", square(c))
    make_ade(folder / "ade")
    places = {"root": "coco", "voc": "voc", "ade20k": "ade", "lists": "lists"}
    return {key: str(folder / place) for key, place in places.items()}


def data(roots, **settings):
    return InContext(**roots, size=16, workers=0, **settings)


def test_each_set_is_drawn_by_the_square_root_of_its_pictures(roots):
    drawn = data(roots).training()
    found = [drawn[visit, 0] for visit in range(300)]
    kinds = Counter(one["name"].partition(":")[0] for one in found)
    roots_of = np.sqrt([sum(3 + c % 3 for c in range(80)), 60, 6])
    assert np.allclose([kinds[kind] / 300 for kind in SETS], roots_of / roots_of.sum(), atol=0.08)
    assert all(name.partition(":")[0] == one["name"].partition(":")[0] for one in found for name in one["support_names"])
    assert torch.equal(drawn[7, 0]["supports"], data(roots).training()[7, 3]["supports"])


def test_masks_and_words_are_those_of_the_episodes_own_set(roots):
    module = data(roots)
    drawn = module.training()
    for visit in range(60):
        one = drawn[visit, 0]
        kind, inner = one["name"].split(":")
        own = one["class_id"] - FIRST[kind]
        if kind == "ade20k":
            assert own in (0, *range(1, 7), *range(39, 45)) and one["word"] == module.classes[one["class_id"]]
        else:
            named = int(inner[-10:-4]) // 100 if kind == "coco" else int(inner[3:].split("_")[0]) - 1
            assert own == named and torch.equal(one["query_truth"], torch.from_numpy(square(1)))
    assert module.classes[FIRST["voc"]] == "aeroplane" and module.classes[FIRST["ade20k"]] == "wall"


def test_small_objects_are_passed_over_in_training_and_kept_in_evaluation(roots):
    module = data(roots, least=0.3)                          # squares take 56 of 192 pixels
    with pytest.raises(UserError, match="only 0 of"):
        next(one for one in (module.training()[visit, 0] for visit in range(50)) if one["name"].startswith("coco"))
    assert set(module.names_by_class("train")) & set(range(FIRST["ade20k"], 250)) == set()          # stripes take a quarter
    assert (module.source("val").read(0)["query_truth"] == 1).any()


def test_what_is_judged_are_coco_20is_episodes(roots):
    module = data(roots, fold=2, shots=2)
    assert module.class_ids("val") == list(range(2, 80, 4))
    plan, published = module.plans("test")[5], module.coco.plans("test")[5]
    assert (plan.class_id, plan.query) == (published.class_id, f"coco:{published.query}")
    assert module.source("test").read(5)["word"] == module.classes[plan.class_id]


def test_every_view_can_be_gone_through_for_latents(roots):
    pool = data(roots).source("train")
    assert pool.view_count() == sum(1 for _ in pool.views()) == len(pool)


def test_a_missing_set_is_named(roots, tmp_path):
    with pytest.raises(UserError, match="ADEChallengeData2016"):
        data(roots | {"ade20k": str(tmp_path)}).source("train")
