"""MaSS13K's layout, in tiny."""

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import UserError
from datamodules.mass13k import Mass13kScenes


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
    data = Mass13kScenes(str(tmp_path), crop=32, batch_size=2, workers=0)
    for split in ("train", "val", "test"):
        assert data.source(split).names == [f"{split}{i}" for i in range(3)]
    scene = data.source("val").read(0)
    assert scene["image"].shape == (3, 48, 64) and int(scene["labels"].max()) == 6 and scene["size"] == (48, 64)


def test_others_is_a_class_like_any_other(tmp_path):
    data = Mass13kScenes(str(make(tmp_path)), crop=32)
    assert data.num_classes == len(data.palette) == 7 and data.classes[0] == "others" and data.ignore == 255
    assert (data.source("val").read(0)["labels"] == 0).any()


def test_a_test_split_of_plain_pictures_beside_padded_ones_is_found(tmp_path):
    make(tmp_path, "images_pad", ("train", "val"))
    make(tmp_path, "images", ("test",))
    assert len(Mass13kScenes(str(tmp_path)).source("test")) == 3


def test_a_root_without_the_set_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match="no images/train with annotations/train.*xiechenxi99/MaSS13K"):
        Mass13kScenes(str(tmp_path)).setup("fit")
