"""PASCAL-Context with 59 and 459 classes, PAS-20 and PAS-21."""

import numpy as np
import pytest
import torch

from datamodules.errors import UserError
from datamodules.pascal_context import CONTEXT, PAS20Scenes, PC59Scenes, PC459Scenes
from datamodules.vocabulary import published
from tests.data.trees_scenes import blocks, make_context, make_pairs, make_pascal_voc, make_voc


def data(kind, root, **settings):
    return kind(root=str(root), crop=16, workers=0, **settings)


def labels(module, split="val"):
    source = module.source(split)
    return set(torch.cat([source.read(i)["labels"].flatten() for i in range(len(source))]).unique().tolist())


# -- what is read
def test_59_classes_from_8_bit_and_459_from_16_bit_masks_of_the_same_pictures(tmp_path, capsys):
    make_context(tmp_path / "pascal_ctx_d2")
    few, many = data(PC59Scenes, tmp_path), data(PC459Scenes, tmp_path)
    few.setup("fit")
    many.setup("fit")
    assert labels(few) == {1, 2, 3, 4, 58, 255} and labels(many) == {-1, 1, 2, 3, 4, 255, 458}
    assert few.source("train").names == many.source("train").names
    assert (few.num_classes, few.ignore, few.name) == (59, 255, "pc59")
    assert (many.num_classes, many.ignore, many.name) == (459, -1, "pc459")
    assert few.classes[58] == "wood" and many.classes[3] == "class 3" and "suspicious" not in capsys.readouterr().out
    assert all(len(set(module.palette)) == module.num_classes for module in (few, many))


def test_pas_20_has_vocs_classes_and_colours_without_background(tmp_path, capsys):
    module = data(PAS20Scenes, make_pascal_voc(tmp_path / "pascal_voc_d2"))
    module.setup("fit")
    assert labels(module) == {0, 1, 2, 3, 255} and module.label_shift == 0 and "suspicious" not in capsys.readouterr().out
    assert (module.name, module.classes[0], module.palette[0]) == ("pas20", "aeroplane", (128, 0, 0))


def test_pas_20_of_voc_as_published_ignores_its_background(tmp_path, capsys):
    make_voc(tmp_path / "VOCdevkit" / "VOC2012")
    module = data(PAS20Scenes, tmp_path)
    module.setup("fit")
    assert module.label_shift == -1 and labels(module) == {16, 17, 18, 19, 255}
    assert len(module.source("train")) == 5 and "suspicious" not in capsys.readouterr().out


def test_both_trees_of_pas_20_give_the_same_labels(tmp_path):
    voc = make_voc(tmp_path / "VOC2012", train=4, val=4)
    masks = [data(PAS20Scenes, voc).source("val").read(i)["labels"].numpy() for i in range(4)]
    converted = data(PAS20Scenes, make_pairs(tmp_path / "d2", "images", "annotations_pascal20", masks))
    assert labels(converted) == labels(data(PAS20Scenes, voc))


def test_pas_21_counts_background(tmp_path):
    for root in (make_pascal_voc(tmp_path / "d2"), make_voc(tmp_path / "VOC2012")):
        module = data(PAS20Scenes, root, background=True)
        module.setup("fit")
        assert module.name == "pas21" and module.classes[0] == "background" and 0 in labels(module) and module.num_classes == 21


def test_synonyms_of_pas_20_leave_out_backgrounds(shared, tmp_path):
    lists = shared / "data" / "lists"
    if not lists.is_dir():
        pytest.skip(f"no {lists}")
    root = make_pascal_voc(tmp_path)
    module = data(PAS20Scenes, root, vocabulary="published", lists=str(lists))
    assert module.synonyms[0] == ["aeroplane", "airplane", "aeroplanes", "airplanes"] and len(module.synonyms) == 20
    assert len(data(PAS20Scenes, root, vocabulary="published", lists=str(lists), background=True).synonyms[0]) == 74


def test_the_59_plain_names_stand_in_the_order_of_the_published_ones(shared):
    lists = shared / "data" / "lists"
    if not lists.is_dir():
        pytest.skip(f"no {lists}")
    synonyms = published("pascal_ctx_59", str(lists))
    differing = [(plain, names[0]) for plain, names in zip(CONTEXT, synonyms, strict=True) if plain not in names]
    assert differing == [("computer", "computer case"), ("light", "lamp"), ("road", "street"), ("wood", "wood piece")]


# -- masks that are not what they seem
def test_masks_with_0_for_unlabelled_are_doubted_or_refused(tmp_path, capsys):
    make_pairs(tmp_path / "59", "images", "annotations_ctx59", [blocks([0, 7, 20 + i]) for i in range(4)])
    data(PC59Scenes, tmp_path / "59").setup("validate")
    assert "0 is in 4 and 255 in 0 of 4 masks" in capsys.readouterr().out
    data(PC59Scenes, tmp_path / "59", label_shift=-1).setup("validate")
    assert "suspicious" not in capsys.readouterr().out
    make_pairs(tmp_path / "459", "images", "annotations_ctx459", [blocks([0, 459], np.uint16)] * 4, "tif")
    with pytest.raises(UserError, match="labels up to 459 .*data.label_shift=-1"):
        data(PC459Scenes, tmp_path / "459").setup("validate")


def test_masks_with_background_read_as_pas_20_are_doubted_and_so_is_the_reverse(tmp_path, capsys):
    make_pairs(tmp_path / "a", "images", "annotations_pascal20", [blocks([0, 255, 3])] * 4)
    data(PAS20Scenes, tmp_path / "a").setup("validate")
    assert "0 is in 4 and 255 in 4 of 4 masks" in capsys.readouterr().out
    data(PAS20Scenes, make_pascal_voc(tmp_path / "b"), label_shift=-1).setup("validate")
    assert "0 is in 1 of 4 masks only" in capsys.readouterr().out


@pytest.mark.parametrize("kind, folder", [(PC59Scenes, "annotations_ctx59"), (PAS20Scenes, "annotations_pascal20")])
def test_masks_shifted_twice_are_refused(tmp_path, kind, folder):
    make_pairs(tmp_path, "images", folder, [blocks([254, 255, 3])] * 2)
    with pytest.raises(UserError, match="it holds 254: 1 seems to have been subtracted from it twice"):
        data(kind, tmp_path).setup("validate")


# -- what is missing
@pytest.mark.parametrize("kind, said", [
    (PC59Scenes, "no folders images with annotations_ctx59; .*prepare_pascal_ctx_sem_seg.py to pascal_ctx_d2/{images,"),
    (PC459Scenes, "no folders images with annotations_ctx459; .*prepare_pascal_ctx_full_sem_seg.py"),
    (PAS20Scenes, "no folders images with annotations_pascal20 or JPEGImages with SegmentationClass; .*pascal_voc_d2"),
])
def test_a_root_without_the_set_says_what_it_should_hold(tmp_path, kind, said):
    with pytest.raises(UserError, match=said):
        data(kind, tmp_path)
    with pytest.raises(UserError, match="no such folder or .zip"):
        data(kind, tmp_path / "nowhere")
