"""MaSS13K's layout, in tiny."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.errors import UserError
from datamodules.mass13k import Mass13kScenes
from datamodules.tile import TiledScenes, main


def make(root, images="images", splits=("train", "val", "test")):
    for split in splits:
        for i in range(3):
            labels = np.random.default_rng(i).integers(0, 7, (48, 64)).astype(np.uint8)
            picture = np.stack([labels * 30] * 3, -1)
            for folder, array, kind in ((images, picture, "jpg"), ("annotations", labels, "png")):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / folder / split / f"{split}{i}.{kind}")
    return root


@pytest.mark.parametrize("prefix", ["", "msem", "data/msem"])
@pytest.mark.parametrize("images", ["images", "images_pad"])
def test_both_names_of_the_picture_folder_are_read_at_any_depth_of_the_download(tmp_path, prefix, images):
    make(tmp_path / prefix, images)
    data = Mass13kScenes(root=str(tmp_path), crop=32, batch_size=2, workers=0)
    for split in ("train", "val", "test"):
        assert data.source(split).names == [f"{split}{i}" for i in range(3)]
    scene = data.source("val").read(0)
    assert scene["image"].shape == (3, 48, 64) and int(scene["labels"].max()) == 6 and scene["size"] == (48, 64)


def test_others_is_a_class_like_any_other(tmp_path):
    data = Mass13kScenes(root=str(make(tmp_path)), crop=32)
    assert data.num_classes == len(data.palette) == 7 and data.classes[0] == "others" and data.ignore == 255
    assert (data.source("val").read(0)["labels"] == 0).any()


def test_a_test_split_of_plain_pictures_beside_padded_ones_is_found(tmp_path):
    make(tmp_path, "images_pad", ("train", "val"))
    make(tmp_path, "images", ("test",))
    assert len(Mass13kScenes(root=str(tmp_path)).source("test")) == 3


def test_a_root_without_the_set_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match="no images/train with annotations/train.*xiechenxi99/MaSS13K"):
        Mass13kScenes(root=str(tmp_path)).setup("fit")


# -- tiles
def test_training_reads_tiles_evaluation_the_original_files_and_a_line_says_so(tmp_path, capsys):
    make(tmp_path)
    without = Mass13kScenes(root=str(tmp_path), crop=32)
    samples = [without.training()[visit, visit % 3] for visit in range(6)]
    main([f"data.root={tmp_path}", "quality=lossless", "workers=0"])
    data = Mass13kScenes(root=str(tmp_path), crop=32)
    capsys.readouterr()
    assert isinstance(data.source("train"), TiledScenes) and not isinstance(data.source("val"), TiledScenes)
    assert capsys.readouterr().out.splitlines() == [
        f"mass13k train: tiles of 3 photographs in {tmp_path}/tiles/train", "mass13k val: 3 original files, whole"]
    for visit, sample in enumerate(samples):
        again = data.training()[visit, visit % 3]
        assert torch.equal(sample["image"], again["image"]) and torch.equal(sample["labels"], again["labels"])


def test_tiles_alone_are_enough_for_training_and_evaluation(tmp_path, capsys):
    make(tmp_path / "set")
    main([f"data.root={tmp_path / 'set'}", f"out={tmp_path / 'tiled'}", "splits=train,val", "workers=0"])
    files, data = Mass13kScenes(root=str(tmp_path / "set")), Mass13kScenes(root=str(tmp_path / "tiled"), crop=32, workers=0)
    capsys.readouterr()
    assert [batch["name"] for batch in data.val_dataloader()] == [["val0"], ["val1"], ["val2"]]
    assert capsys.readouterr().out == f"mass13k val: tiles of 3 photographs in {tmp_path}/tiled/tiles/val\n"
    assert torch.equal(data.source("val").read(1)["labels"], files.source("val").read(1)["labels"])
    assert data.training()[0, 0]["image"].shape == (3, 32, 32)
    with pytest.raises(UserError, match="no images/test with annotations/test"):
        data.source("test")


def test_a_part_of_the_tiles_is_never_taken_for_the_set(tmp_path):
    main([f"data.root={make(tmp_path)}", "workers=0"])
    listed = tmp_path / "tiles/train.txt"
    names = listed.read_text()
    listed.unlink()                                                           # as after an interrupted tiling
    assert not isinstance(Mass13kScenes(root=str(tmp_path)).source("train"), TiledScenes)
    listed.write_text(names)
    (tmp_path / "tiles/train/train1.zip").rename(tmp_path / "kept.zip")
    with pytest.raises(UserError, match="train1.zip: 1 of 3 files of tiles are missing; run python -m datamodules.tile again"):
        Mass13kScenes(root=str(tmp_path)).source("train")
    (tmp_path / "kept.zip").rename(tmp_path / "tiles/train/train1.zip")
    for folder, kind in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / folder / f"train/train2.{kind}").rename(tmp_path / folder / f"train/new.{kind}")
    with pytest.raises(UserError, match="tiles of 3 photographs, but 3 in the set, or others"):
        Mass13kScenes(root=str(tmp_path)).source("train")


def test_an_unfinished_tiling_without_the_originals_is_told(tmp_path):
    (tmp_path / "tiles/train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no tiles/train.txt \(its tiling has not ended\)"):
        Mass13kScenes(root=str(tmp_path)).source("train")
