"""The oracle: what it is trained on, how it reads pictures, that its own figures are right, which weights it refuses."""

import json

import numpy as np
import pytest
import torch

from datamodules.demo.world import NOVEL, OBJECT_WORDS, OBJECTS, RARE, class_id, seed_range
from datamodules.errors import UserError
from zoo.tiny import oracle
from zoo.tiny.pictures import LAYOUTS

SMALL = {
    "widths": [8, 8, 8, 8], "pools": {"solo": [3, {"solo": True}], "crowd": [3, {"count": [3, 7]}]},
    "phases": [[1, [["solo", 48, 2, 1.0]]], [1, [["crowd", 64, 2, 0.5], ["crowd", 96, 2, 0.5]]]],
}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A recipe of two steps and a cache of its own."""
    monkeypatch.setattr(oracle, "RECIPE", oracle.RECIPE | SMALL)
    monkeypatch.setattr(oracle, "JUDGED", {title: (layout, side, 3) for title, (layout, side, _) in oracle.JUDGED.items()})
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(oracle, "FILE", tmp_path / "nothing shipped" / "oracle.safetensors")
    return tmp_path


@pytest.fixture(scope="module")
def untrained() -> oracle.Oracle:
    torch.manual_seed(0)
    return oracle.Oracle(oracle.Net([8, 8, 8, 8]), {})


def random_pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


# -- what it sees ------------------------------------------------------------------------------------------------------
def test_it_is_trained_on_all_classes_and_on_no_scene_of_a_base_a_test_or_the_first_nine_tenths_of_the_methods(monkeypatch):
    indices, labels, grounds = [], set(), set()
    real = oracle.objects

    def objects(seed, index, size, **layout):
        scene = real(seed, index, size, **layout)
        indices.append(index)
        labels.update(np.unique(scene.labels).tolist())
        grounds.add(scene.ground)
        return scene

    monkeypatch.setattr(oracle, "objects", objects)
    for pool in oracle.pools(oracle.RECIPE).values():
        for i in [*range(40), len(pool) - 1]:
            pool[i]
    assert len(set(indices)) == len(indices) == 3 * 41
    first, stop = seed_range("method")
    assert all(stop - (stop - first) // 10 <= index < stop for index in indices)
    assert labels == set(range(len(OBJECTS) + 1)) and grounds == set(oracle.GROUNDS)


def test_its_figures_are_of_the_test_range(monkeypatch):
    seen = []
    monkeypatch.setattr(oracle, "objects", lambda seed, index, size, **layout: seen.append((index, size, layout)))
    oracle.unseen("solo", 128, 3)
    first, _ = seed_range("test")
    assert [index for index, *_ in seen] == [first, first + 1, first + 2]
    assert all(size == (128, 128) and layout["solo"] for _, size, layout in seen)
    assert {layout["family"] for *_, layout in seen} == {"meadow", "table"}


def test_labels_are_shrunk_as_the_world_shrinks_them():
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 57, (8, 8)), np.ones((5, 5))).astype(np.uint8)     # 40 pixels a side
    small = oracle.shrunk(labels, 20)
    for y, x in np.ndindex(20, 20):
        values, counts = np.unique(labels[2 * y : 2 * y + 2, 2 * x : 2 * x + 2], return_counts=True)
        assert counts[values == small[y, x]] == counts.max()
    assert small.dtype == np.uint8 and np.array_equal(oracle.shrunk(labels, 40), labels)


def test_a_view_keeps_picture_and_labels_together():
    labels = np.zeros((128, 128), np.uint8)
    labels[30:70, 20:90] = 56
    image = np.repeat(labels[..., None], 3, 2) * 4
    for number in range(30):
        part, part_labels = oracle.view(image, labels, 64, np.random.default_rng(number))
        assert part.shape == (64, 64, 3) and part_labels.shape == (64, 64) and 56 in part_labels
        assert ((part[..., 0] > 112) == (part_labels > 0)).mean() > 0.97


def test_worn_pictures_change_by_their_generator_alone():
    image = oracle.unseen("scene", 64, 1)[0].image
    worn = [oracle.worn(image, np.random.default_rng(number)) for number in range(12)]
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in worn)
    assert np.array_equal(worn[3], oracle.worn(image, np.random.default_rng(3)))
    assert sum(not np.array_equal(one, image) for one in worn) >= 8
    assert all(abs(one.astype(int) - image).mean() < 60 for one in worn)


# -- what it answers ---------------------------------------------------------------------------------------------------
def test_a_thing_is_there_when_all_of_them_together_outweigh_the_background():
    logits = torch.full((1, 57, 1, 3), -20.0)
    logits[0, 0] = 1.0
    logits[0, 7, 0, 1], logits[0, 9, 0, 1] = 0.6, 0.5           # neither alone, but both together
    logits[0, 7, 0, 2], logits[0, 9, 0, 2] = -0.6, -0.5
    assert oracle.decide(logits).tolist() == [[[0, 7, 0]]]


def test_the_loss_is_where_and_which_and_finite_without_things():
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 57, 4, 4), torch.randint(0, 57, (2, 4, 4))
    truth[:, :2] = 0
    log_odds, things = logits.log_softmax(1), truth > 0
    p = log_odds[:, 0].exp()
    where = -torch.where(things, (1 - p).log(), p.log()).mean()
    which = -(log_odds.gather(1, truth[:, None])[:, 0] - (1 - p).log())[things].mean()
    assert torch.allclose(oracle.label_loss(logits, truth), where + which, atol=1e-5)
    assert torch.allclose(oracle.label_loss(logits, truth * 0), -p.log().mean(), atol=1e-5)


def test_pictures_of_any_size_are_labelled_whatever_is_beside_them(untrained):
    pictures = random_pictures(5, 3, 50, 83)
    labels = untrained.segment(pictures)
    assert labels.shape == (5, 50, 83) and labels.dtype == torch.uint8 and labels.max() <= 56
    assert all(torch.equal(untrained.segment(one[None])[0], mask) for one, mask in zip(pictures, labels))
    assert untrained.segment(pictures[:0]).shape == (0, 50, 83) and untrained.words(pictures[:0]) == []


@pytest.mark.parametrize("wrong", [torch.zeros(1, 3, 32, 32), random_pictures(1, 32, 32, 3), random_pictures(3, 32, 32)])
def test_other_pictures_are_refused_in_one_line(untrained, wrong):
    with pytest.raises(UserError, match=r"give it uint8 \[B, 3, H, W\]"):
        untrained.segment(wrong)


def test_words_are_those_of_the_larger_pieces():
    labels = np.zeros((64, 64), np.uint8)
    labels[:20, :20] = class_id("zebra")
    labels[40:44, 40:45] = class_id("rose")                     # 20 pixels are less than a half percent of 4096
    labels[50, ::2] = labels[52, ::2] = class_id("cup")         # 64 pixels, none of them together
    assert oracle.shown(labels) == {"class": {"zebra"}, "form": {"beast"}, "pattern": {"barred"}}
    labels[40:44, 40:46] = class_id("rose")
    assert oracle.shown(labels) == {"class": {"zebra", "rose"}, "form": {"beast", "flower"}, "pattern": {"barred", "ringed"}}
    assert oracle.shown(np.zeros((8, 8), np.uint8)) == {"class": set(), "form": set(), "pattern": set()}


# -- its own figures ---------------------------------------------------------------------------------------------------
class Knowing:
    """Gives the true answers of the scenes it was told of, by their picture; or always the same ones."""

    def __init__(self, scenes):
        self.truth = {scene.image.tobytes(): scene for scene in scenes}

    def of(self, pictures):
        return [self.truth[picture.permute(1, 2, 0).numpy().tobytes()] for picture in pictures]

    def segment(self, pictures):
        return torch.from_numpy(np.stack([scene.labels for scene in self.of(pictures)]))

    def words(self, pictures):
        return [oracle.shown(scene.labels) | {"ground": {scene.ground}} for scene in self.of(pictures)]


def test_the_truth_is_measured_as_perfect_and_each_quality_by_its_own_pictures(small, monkeypatch):
    monkeypatch.setattr(oracle, "JUDGED", {"scene, 64 px": ("scene", 64, 30)})
    scenes = oracle.unseen("scene", 64, 30)
    monkeypatch.setattr(oracle, "blurred", lambda image, number: image)
    found = oracle.measure(Knowing(scenes))
    assert set(found) == {"clean", "blurred"}
    assert all(value == 1 for kinds in found.values() for value in kinds["scene, 64 px"].values())


def test_figures_agree_with_counting_by_hand():
    zebra, rose, castle = (class_id(word) for word in ("zebra", "rose", "castle"))
    truth, labels = np.zeros((2, 10, 10), np.uint8), np.zeros((2, 10, 10), np.uint8)
    truth[0, :4, :5], labels[0, :4, :5] = zebra, castle         # of 20 zebra pixels 5 are found
    labels[0, 0] = zebra                                        # ... and 5 are said too many
    truth[1, 5:, :2] = labels[1, 5:, :2] = rose
    say = lambda *things: {"class": set(things), "form": set(), "pattern": set(), "ground": {"sand"}}
    words, said = [say("zebra"), say("rose")], [say("zebra", "castle"), say("rose")]
    got = oracle.figures(truth, words, labels, said)
    assert got["mIoU RARE"] == pytest.approx(5 / 25) and got["mIoU NOVEL"] == 0 and got["mIoU seen"] == 1
    assert got["IoU background"] == pytest.approx(165 / 170)
    assert got["mIoU"] == pytest.approx(np.mean([165 / 170, 5 / 25, 0, 1]))
    assert (got["class"], got["form"], got["ground"]) == (0.5, 1, 1)
    assert (got["found RARE"], got["rightly said RARE"], got["rightly said NOVEL"], got["found seen"]) == (1, 1, 0, 1)


def test_every_class_is_in_one_group():
    assert sorted(word for group in oracle.GROUPS.values() for word in group) == sorted(OBJECT_WORDS)
    assert oracle.GROUPS["RARE"] == RARE and oracle.GROUPS["NOVEL"] == NOVEL


# -- its weights -------------------------------------------------------------------------------------------------------
def test_without_weights_it_trains_once_and_keeps_them(small, monkeypatch, capsys):
    first = oracle.Oracle.load()
    assert "trained once" in capsys.readouterr().out
    monkeypatch.setattr(oracle, "train", lambda *_: pytest.fail("trained twice"))
    again = oracle.Oracle.load()
    pictures = random_pictures(2, 3, 64, 64)
    assert torch.equal(first.segment(pictures), again.segment(pictures)) and first.words(pictures) == again.words(pictures)
    measured = json.dumps(oracle.measure(again))                 # as text: a group of which nothing was there is NaN
    assert json.dumps(again.accuracy) == json.dumps(first.accuracy) == measured
    assert "clean: mIoU" in str(again) and "blurred: mIoU" in str(again) and "RARE" in str(again)


def test_weights_of_another_recipe_are_refused(small, monkeypatch):
    file = oracle.make(small / "here")
    monkeypatch.setattr(oracle, "RECIPE", oracle.RECIPE | {"lr": 7e-3})
    with pytest.raises(UserError, match="another recipe.*oracle train"):
        oracle.Oracle.load(file)
    monkeypatch.setattr(oracle, "FILE", file)
    with pytest.raises(UserError, match="another recipe"):
        oracle.Oracle.load()


def test_a_file_that_is_none_is_refused_in_one_line(small):
    (small / "broken.safetensors").write_bytes(b"nothing")
    for file in ("broken.safetensors", "missing.safetensors"):
        with pytest.raises(UserError, match="no weights of the oracle"):
            oracle.Oracle.load(small / file)


def test_the_command_trains_checks_and_refuses_what_it_does_not_know(small, capsys):
    out = small / "out"
    oracle.main(["train", f"out={out}"])
    oracle.main(["check", f"weights={out / 'oracle.safetensors'}", f"out={out}"])
    assert {"oracle.json", "oracle.png", "oracle.safetensors"} <= {file.name for file in out.iterdir()}
    assert "clean, solo, 128 px: mIoU" in capsys.readouterr().out
    for wrong in ([], ["test"], ["train", "weights=a"], ["check", "quick"]):
        with pytest.raises(UserError, match="what to do"):
            oracle.main(wrong)


def test_the_shipped_oracle_names_and_outlines_things_it_has_never_seen():
    judge = oracle.Oracle.load()
    first, _ = seed_range("val")
    for layout, bar in (("scene", 0.6), ("solo", 0.7)):
        scenes = [oracle.scene(first + i, 64, LAYOUTS[layout]) for i in range(56)]
        pictures = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
        truth, labels = np.stack([scene.labels for scene in scenes]), judge.segment(pictures).numpy()
        assert (truth == labels)[truth > 0].mean() > bar


def test_neighbours_of_a_thing_say_together_what_it_is_and_the_background_says_nothing():
    logits = torch.full((1, 57, 25, 25), -9.0)
    logits[0, 0] = 9.0
    logits[0, 0, 5:20, 5:20] = -9.0
    logits[0, 7, 5:20, 5:20] = 3.0
    logits[0, 9, 12, 12] = 4.0                                  # one pixel thinks otherwise, by little
    assert oracle.decide(logits)[0, 12, 12] == 9
    labels = oracle.voted(logits)
    assert (labels[0, 5:20, 5:20] == 7).all() and labels.sum() == 7 * 15 * 15


def test_a_connected_piece_is_one_thing_and_two_pieces_may_be_two():
    logits = torch.full((1, 57, 8, 8), -9.0)
    logits[0, 0] = 9.0
    logits[0, 0, :3, :3] = logits[0, 0, 5:, 5:] = -9.0
    logits[0, 7, :3, :3], logits[0, 11, 5:, 5:] = 1.0, 1.0
    logits[0, 9, 0, 0] = 2.0
    labels = oracle.piecewise(logits)[0]
    assert (labels[:3, :3] == 7).all() and (labels[5:, 5:] == 11).all() and (labels > 0).sum() == 18
