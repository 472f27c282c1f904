"""python -m zoo.tools.browse"""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.errors import UserError
from tests.conftest import ROOT
from zoo.tools import browse

DEMO = ["data=demo", "data.size=64", "data.crop=48", "data.n_train=4", "data.n_val=3"]


def draw(tmp_path, *arguments):
    """The picture the command writes, H W 3."""
    out = tmp_path / "folder" / "browse.png"
    browse.main([*arguments, f"out={out}"])
    with Image.open(out) as picture:
        return np.asarray(picture.convert("RGB"))


def has(picture, colour):
    return bool((picture == colour).all(-1).any())


@pytest.mark.parametrize("arguments", [
    [*DEMO, "n=7"], [*DEMO, "n=2", "split=val"], [*DEMO, "n=5", "data.family=objects", "data.segments=true"],
    ["data=demo_episodes", "data.size=32", "data.pictures_per_class=8", "data.train_shots=[1,5]", "n=3"],
    ["data=demo_episodes", "data.size=32", "data.pictures_per_class=8", "data.shots=2", "split=test", "n=2"],
])  # fmt: skip
def test_any_kind_of_sample_becomes_a_picture_less_than_2000_pixels_wide(tmp_path, arguments, capsys):
    picture = draw(tmp_path, *arguments)
    assert picture.shape[1] < 2000 and picture.shape[0] > 300 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 200
    assert capsys.readouterr().out.endswith(f"picture: {tmp_path / 'folder' / 'browse.png'}\n")


def test_the_seed_chooses_samples_and_augmentation_and_the_same_seed_draws_the_same(tmp_path):
    one, again, other = (draw(tmp_path, *DEMO, "n=3", f"seed={seed}") for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert one.shape != other.shape or (one != other).mean() > 0.1


def test_training_samples_are_those_of_training_and_others_are_whole():
    from datamodules.base import Stream
    from datamodules.settings import make, read_settings

    data = make(read_settings("browse", DEMO, "")["data"])
    dataset, keys = browse.chosen(data, "train", 6, seed=0)
    assert keys == list(Stream(4, 0, 6)) and dataset[keys[5]]["image"].shape == (3, 48, 48)
    dataset, keys = browse.chosen(data, "val", 6, seed=0)
    assert keys == [0, 1, 2] and dataset[0]["image"].shape == (3, 64, 64)


def test_the_legend_names_the_classes_that_occur_and_no_other(tmp_path):
    for name in "ab":
        for folder, array in (("images", np.full((20, 30, 3), 128)), ("masks", np.eye(20, 30))):
            (tmp_path / folder / "val").mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / folder / "val" / f"{name}.png")
    (tmp_path / "classes.txt").write_text("sky 10 20 30\nroad 250 10 90\ncar 1 2 200\n")
    picture = draw(tmp_path, "data=folder", f"data.root={tmp_path}", "split=val")
    assert has(picture, (10, 20, 30)) and has(picture, (250, 10, 90)) and not has(picture, (1, 2, 200))


def test_labels_are_scaled_to_the_nearest_and_lie_where_the_picture_does():
    labels = np.zeros((6, 4), np.int64)
    labels[2:4, 1:3] = 7
    larger = browse.fit_labels(labels, 60)
    assert larger.shape == (60, 40) and set(np.unique(larger)) == {0, 7} and (larger[20:40, 10:30] == 7).all()
    assert (larger == 7).sum() == 400 and browse.fit(np.zeros((6, 4, 3), np.uint8), 60).shape == (60, 40, 3)
    assert np.array_equal(browse.fit_labels(larger, 6), labels)


def test_of_overlapping_masks_the_smaller_lies_on_top():
    masks = torch.zeros(2, 5, 5, dtype=torch.bool)
    masks[1, 1:4, 1:4] = masks[0, 2, 2] = True
    owner = browse.owners(masks)
    assert owner[2, 2] == 0 and owner[1, 1] == 1 and owner[0, 0] == -1
    assert (browse.owners(masks[:0]) == -1).all()


def test_a_word_that_would_hide_an_earlier_one_is_left_out():
    ground = np.zeros((60, 200, 3), np.uint8)
    one = browse.named(ground, [((100, 20), "horse")])
    assert one.any() and np.array_equal(browse.named(ground, [((100, 20), "horse"), ((104, 23), "cow")]), one)
    assert not np.array_equal(browse.named(ground, [((100, 20), "horse"), ((100, 45), "cow")]), one)


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "data=<set> is missing"),
    (["data=folder"], "data.root= is missing; python -m zoo.tools.browse"),
    (["data=folder", "data.root=nowhere"], "nowhere: no such folder or .zip"),
    ([*DEMO, "n=0"], "n: 0 samples; give 1 to 200"),
    ([*DEMO, "n=many"], "n: many samples"),
    ([*DEMO, "split=rest"], "no split rest; give train, val or test"),
    ([*DEMO, "out=x.jpg"], "end the name in .png"),
    ([*DEMO, "out=setup.cfg/x.png"], "no folder can be made here"),
    ([*DEMO, "data.crop=large"], "data.crop: 'large' is not a whole number"),
    ([*DEMO, "data.sise=3"], "Could not override 'data.sise'; --help data=demo"),
    ([*DEMO, "seed=-1"], "seed: -1 is negative"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(arguments, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        browse.main(arguments)
    assert said in str(caught.value)


def test_help_names_the_sets(capsys):
    browse.main(["--help"])
    assert "n=16" in capsys.readouterr().out
