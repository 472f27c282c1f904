"""Drawn scenes with few kinds of things."""

import numpy as np
import pytest

from datamodules.demo.kinds import DemoKinds
from datamodules.demo.objects import objects
from datamodules.demo.world import FAMILIES, NOVEL, OBJECT_WORDS, RARE, WORLD_SEED, seed_range
from datamodules.errors import UserError


def test_only_the_named_kinds_occur_in_their_order():
    data = DemoKinds(things=["cow", "ball"], size=32, n_train=30)
    assert data.classes == ["background", "cow", "ball"]
    scenes = [data.source("train").read(i) for i in range(30)]
    assert set(np.unique([scene["labels"] for scene in scenes])) == {0, 1, 2}
    drawn = objects(WORLD_SEED, seed_range("method")[0], (32, 32), ["cow", "ball"], list(FAMILIES)[seed_range("method")[0] % 2])
    for place, word in enumerate(["cow", "ball"], 1):
        assert np.array_equal(scenes[0]["labels"] == place, drawn.labels == OBJECT_WORDS.index(word) + 1)


def test_the_usual_kinds_are_known_to_the_tiny_base_and_are_not_those_kept_for_tests():
    assert not set(DemoKinds().classes) & {*RARE, *NOVEL}


def test_grounds_of_both_families_take_turns_or_one_stays():
    meadow, table, both = (DemoKinds(size=32, grounds=name, n_train=4).source("train") for name in ("meadow", "table", "both"))
    assert all((meadow.read(i)["image"] != table.read(i)["image"]).any() for i in range(4))
    first = seed_range("method")[0] % 2
    for i in range(4):
        assert (both.read(i)["image"] == (meadow, table)[(first + i) % 2].read(i)["image"]).all()


WRONG = [
    ({"things": ["unicorn"]}, "no thing is called unicorn"), ({"things": []}, "things are none"),
    ({"n_train": 0}, "data.n_train"), ({"things": ["cow", "cow"]}, "each once"), ({"grounds": "moon"}, "no grounds are called"),
]  # fmt: skip


@pytest.mark.parametrize("wrong, said", WRONG)
def test_what_cannot_be_drawn_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        DemoKinds(**wrong).source("train")
