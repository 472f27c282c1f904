"""A folder or a .zip of one's own pictures."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.errors import UserError
from datamodules.folder import FolderScenes

CLASSES = "sky\ntraffic light\nroad\n"


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make(root, names=("a", "b", "c", "d", "e"), split="", classes=CLASSES, mask=None):
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        labels = rng.integers(0, 3, (12, 16)).astype(np.uint8)
        put(root / "images" / split / f"{name}.png", np.stack([labels * 50] * 3, -1))
        put(root / "masks" / split / f"{name}.png", labels if mask is None else mask(labels))
    (root / "classes.txt").write_text(classes)
    return root


def data(root, workers=0, **settings):
    return FolderScenes(root=str(root), crop=8, workers=workers, batch_size=2, **settings)


def test_pictures_without_splits_are_drawn_into_train_and_val_alike_for_every_seed(tmp_path, capsys):
    make(tmp_path)
    first, other = data(tmp_path), data(tmp_path, seed=5)
    train, val = first.source("train").names, first.source("val").names
    assert sorted(train + val) == list("abcde") and len(val) == 1 and other.source("val").names == val
    assert "1 of 5 pictures are drawn for validation" in capsys.readouterr().out
    assert first.classes == ["sky", "traffic light", "road"] and first.ignore == 255


def test_split_folders_are_kept_and_a_missing_val_is_drawn_from_train(tmp_path):
    make(tmp_path, "abcde", "train")
    make(tmp_path, "xy", "test")
    assert len(data(tmp_path).source("train")) == 4 and len(data(tmp_path).source("val")) == 1
    make(tmp_path, "vw", "val")
    assert [data(tmp_path).source(s).names for s in ("train", "val", "test")] == [list("abcde"), list("vw"), list("xy")]


def test_a_zip_with_a_folder_around_reads_as_the_folder_does(tmp_path):
    make(tmp_path / "set" / "mine")
    shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "set")
    here, packed = data(tmp_path / "set"), data(tmp_path / "mine.zip")
    assert here.source("train").names == packed.source("train").names
    for index in range(4):
        one, other = here.source("train").read(index), packed.source("train").read(index)
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["labels"], other["labels"])
    assert packed.name == "mine"


def test_a_zip_is_read_by_workers_too(tmp_path):
    make(tmp_path / "set")
    shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "set")
    packed = data(tmp_path / "mine.zip", workers=2, val_share=0.6)
    alone = data(tmp_path / "mine.zip", val_share=0.6)
    packed.source("val").read(0)
    for one, other in zip(packed.val_dataloader(), alone.val_dataloader(), strict=True):
        assert one["name"] == other["name"] and torch.equal(one["image"], other["image"])


def test_masks_in_the_colours_of_classes_txt_become_class_numbers(tmp_path):
    palette = np.array([(1, 2, 3), (200, 0, 0), (9, 9, 9)], np.uint8)
    make(tmp_path / "numbers")
    make(tmp_path / "colours", classes="sky 1 2 3\ntraffic light 200 0 0\nroad 9 9 9\n", mask=lambda m: palette[m])
    one, other = data(tmp_path / "numbers").source("train"), data(tmp_path / "colours").source("train")
    assert torch.equal(one.read(0)["labels"], other.read(0)["labels"])
    assert data(tmp_path / "colours").palette[1] == (200, 0, 0)


def test_black_and_white_masks_ask_what_white_means(tmp_path):
    make(tmp_path, mask=lambda m: (m > 0).astype(np.uint8) * 255)
    with pytest.raises(UserError, match="only 0 and 255.*data.white=1"):
        data(tmp_path).setup("fit")
    assert data(tmp_path, white=1).source("val").read(0)["labels"].unique().tolist() == [0, 1]
    assert data(tmp_path, white=255).source("val").read(0)["labels"].unique().tolist() == [0, 255]
    with pytest.raises(UserError, match="data.white"):
        data(tmp_path, white=7)


def test_masks_that_count_from_one_name_the_key_and_the_key_mends_it(tmp_path):
    make(tmp_path, mask=lambda m: m + 1)
    with pytest.raises(UserError, match=r"masks/.\.png: labels up to 3 .*data.label_shift=-1"):
        data(tmp_path).source("train").read(0)
    assert data(tmp_path, label_shift=-1).source("train").read(0)["labels"].unique().tolist() == [0, 1, 2]


def test_what_is_missing_or_does_not_fit_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        data(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="no classes.txt"):
        data(tmp_path)
    (tmp_path / "classes.txt").write_text(CLASSES)
    with pytest.raises(UserError, match="no pictures"):
        data(tmp_path).setup("fit")
    make(tmp_path, "a")
    with pytest.raises(UserError, match="none is left for training"):
        data(tmp_path).setup("fit")
    make(tmp_path)
    with pytest.raises(UserError, match="no images/test"):
        data(tmp_path).setup("test")
    put(tmp_path / "masks" / "b.png", np.zeros((5, 4), np.uint8))
    source = data(tmp_path, val_share=0.01).source("train")
    with pytest.raises(UserError, match="masks/b.png: labels of 4x5 for a picture of 16x12"):
        for index in range(len(source)):
            source.read(index)
    (tmp_path / "masks" / "c.png").unlink()
    with pytest.raises(UserError, match="images/c.png: 1 of 5 pictures have no labels; add .*masks/c.png"):
        data(tmp_path).setup("fit")


def test_camvid_has_its_pictures_classes_and_share_of_void(shared):
    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    camvid = data(root)
    camvid.setup("fit")
    assert (len(camvid.source("train")), len(camvid.source("val")), camvid.num_classes) == (367, 101, 11)
    assert camvid.classes[0] == "sky" and camvid.palette[0] == (128, 128, 128)
    counts = torch.zeros(256)
    for index in range(0, 101, 5):
        scene = camvid.source("val").read(index)
        assert scene["image"].shape == (3, 360, 480) and scene["size"] == (360, 480)
        counts += torch.bincount(scene["labels"].flatten().long(), minlength=256)
    assert counts[11:255].sum() == 0 and 0.005 < counts[255] / counts.sum() < 0.05
    assert 0.2 < counts[3] / counts.sum() < 0.4                               # road
