"""LVIS v1's JSON over COCO's pictures."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from datamodules.errors import UserError
from datamodules.files import Tree, read_image
from datamodules.lvis import Lvis
from tests.data import trees_coco as trees


def test_categories_and_their_pictures_ascend(tmp_path):
    lvis = Lvis(Tree(trees.lvis(tmp_path)), "val")
    assert list(lvis.categories.items()) == [(1, "apple"), (3, "aglet"), (7, "zebra")]
    assert lvis.images == {1: [5], 3: [3, 5, 9], 7: []}


def test_a_mask_is_all_things_of_the_category(tmp_path):
    lvis = Lvis(Tree(trees.lvis(tmp_path)), "val")
    document = json.loads((tmp_path / "lvis_v1_val.json").read_text())
    coco = COCO()
    coco.imgs = {row["id"]: row for row in document["images"]}
    for image in (3, 5, 9):
        for category in (1, 3, 7):
            masks = [coco.annToMask(row) for row in document["annotations"]
                     if (row["image_id"], row["category_id"]) == (image, category)]
            mask = lvis.mask(image, category)
            assert np.array_equal(mask, np.any([np.zeros((trees.HEIGHT, trees.WIDTH)), *masks], 0)) and mask.numpy().dtype == bool


def test_a_picture_lies_in_the_folder_of_its_url_whatever_the_split(tmp_path):
    lvis = Lvis(Tree(trees.lvis(tmp_path)), "val")
    assert lvis.name(5) == "train2017/000000000005.jpg"
    assert (lvis.picture(5) == read_image(tmp_path / "train2017/000000000005.jpg")).all()


def test_a_json_that_is_missing_is_asked_for_and_one_in_annotations_is_found(tmp_path):
    trees.lvis(tmp_path)
    with pytest.raises(UserError, match="no lvis_v1_train.json; download it"):
        Lvis(Tree(tmp_path), "train")
    trees.write(tmp_path / "annotations/lvis_v1_train.json", json.loads((tmp_path / "lvis_v1_val.json").read_text()))
    assert len(Lvis(Tree(tmp_path), "train").images[3]) == 3


def test_a_picture_without_its_url_is_one_line(tmp_path):
    document = json.loads((trees.lvis(tmp_path) / "lvis_v1_val.json").read_text())
    del document["images"][0]["coco_url"]
    trees.write(tmp_path / "lvis_v1_val.json", document)
    with pytest.raises(UserError, match="lvis_v1_val.json: one of its images is without coco_url"):
        Lvis(Tree(tmp_path), "val")
