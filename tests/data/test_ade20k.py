"""ADE20K with 150 and 847 classes: layouts, and masks that do not count as they are read."""

import shutil

import numpy as np
import pytest
import torch

from datamodules.ade20k import CLASSES, PALETTE, ADE20KFullScenes, ADE20KScenes
from datamodules.errors import UserError
from datamodules.samples import classes_text, read_classes
from datamodules.vocabulary import LISTS
from tests.data.trees_scenes import blocks, make_ade, make_ade_full, make_pairs, put


def data(root, kind=ADE20KScenes, **settings):
    return kind(root=str(root), crop=16, workers=0, **settings)


def labels(module, split="val"):
    source = module.source(split)
    return set(torch.cat([source.read(i)["labels"].flatten() for i in range(len(source))]).unique().tolist())


# -- 150 classes
def test_official_files_count_from_1_and_what_is_unlabelled_is_ignored(tmp_path, capsys):
    module = data(make_ade(tmp_path))
    module.setup("fit")
    assert labels(module) == {0, 255, *range(1, 7), *range(39, 45)} and module.label_shift == -1
    assert (len(module.source("train")), len(module.source("val"))) == (6, 6)
    assert module.source("train").names[0] == "train_00000000" and "suspicious" not in capsys.readouterr().out
    assert (module.name, module.num_classes, module.ignore) == ("ade20k", 150, 255)
    assert (module.classes[0], module.classes[149], module.synonyms[12]) == ("wall", "flag", ["person"])


def test_the_root_may_hold_the_set_or_be_its_zip(tmp_path):
    make_ade(tmp_path / "in" / "ADEChallengeData2016")
    shutil.make_archive(str(tmp_path / "ade"), "zip", tmp_path / "in")
    here, packed = data(tmp_path / "in").source("val"), data(tmp_path / "ade.zip").source("val")
    assert here.names == packed.names and torch.equal(here.read(3)["labels"], packed.read(3)["labels"])


def test_a_tree_with_only_converted_masks_needs_no_shift_and_official_ones_come_first(tmp_path):
    converted = data(make_ade(tmp_path, subtracted=1, labels="annotations_detectron2"))
    assert converted.label_shift == 0 and labels(converted) == {0, 255, *range(1, 7), *range(39, 45)}
    make_ade(tmp_path)
    assert data(tmp_path).label_shift == -1


def test_classes_and_colours_survive_a_classes_txt():
    assert len(CLASSES) == len(set(CLASSES)) == len(set(PALETTE)) == 150
    assert read_classes(classes_text(CLASSES, PALETTE)) == (CLASSES, PALETTE)
    assert PALETTE[0] == (120, 120, 120) and PALETTE[2] == (6, 230, 230) and PALETTE[149] == (92, 0, 255)


# -- masks that are not what they seem
def test_masks_shifted_already_are_refused_with_the_remedy_and_it_mends(tmp_path):
    make_ade(tmp_path, subtracted=1)
    with pytest.raises(UserError, match="val.*png: it holds 255.*counts from 0; set data.label_shift=0"):
        data(tmp_path).setup("validate")
    module = data(tmp_path, label_shift=0)
    assert labels(module) == {0, 255, *range(1, 7), *range(39, 45)}


def test_255_beside_the_highest_number_is_someones_own_void(tmp_path):
    make_pairs(tmp_path, "images", "annotations", [blocks([0, 1, 150, 255])] * 3)
    module = data(tmp_path)
    assert labels(module) == {0, 149, 255}


def test_official_masks_read_without_their_shift_are_refused_or_doubted(tmp_path, capsys):
    make_ade(tmp_path)
    data(tmp_path, label_shift=0).setup("validate")
    said = capsys.readouterr().out
    assert said.count("suspicious") == 1 and "0 is in 6 and 255 in 0 of 6 masks" in said and "data.label_shift=-1" in said
    put(tmp_path / "annotations" / "validation" / "valid_00000005.png", blocks([0, 1, 150]))
    with pytest.raises(UserError, match="valid_00000005.png: labels up to 150 .*data.label_shift=-1"):
        data(tmp_path, label_shift=0).setup("validate")


@pytest.mark.parametrize("shift", [None, 0, -1])
def test_masks_shifted_twice_are_refused_however_they_are_read(tmp_path, shift):
    make_ade(tmp_path, subtracted=2)
    with pytest.raises(UserError, match="it holds 254: 1 seems to have been subtracted from it twice"):
        data(tmp_path, label_shift=shift).setup("validate")


def test_a_rightly_shifted_tree_raises_no_doubt_where_any_mask_has_void(tmp_path, capsys):
    make_pairs(tmp_path, "images", "annotations_detectron2", [blocks([0, 5])] * 5 + [blocks([0, 255])])
    data(tmp_path).setup("fit")
    assert "suspicious" not in capsys.readouterr().out


def test_the_first_and_the_last_mask_of_a_split_are_among_those_looked_at(tmp_path):
    make_ade(tmp_path, count=40)
    put(tmp_path / "annotations" / "training" / "train_00000039.png", blocks([0, 199]))
    with pytest.raises(UserError, match="train_00000039.png: labels up to 199"):
        data(tmp_path).setup("fit")


# -- what is missing
def test_a_half_unpacked_archive_is_told(tmp_path):
    make_ade(tmp_path)
    (tmp_path / "images" / "training" / "train_00000004.jpg").unlink()
    with pytest.raises(UserError, match=r"annotations/training: 1 of 6 masks have no picture in images.*\(train_00000004\)"):
        data(tmp_path).setup("fit")
    (tmp_path / "annotations" / "training" / "train_00000003.png").unlink()
    with pytest.raises(UserError, match="train_00000003.jpg: 1 of 5 pictures have no labels"):
        data(tmp_path).setup("fit")
    shutil.rmtree(tmp_path / "images" / "training")
    with pytest.raises(UserError, match="no images/training; unpack ADEChallengeData2016.zip"):
        data(tmp_path).setup("fit")
    data(tmp_path).setup("validate")
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(UserError, match="no folders images with annotations or .*ADEChallengeData2016.zip .*training,validation"):
        data(tmp_path)


def test_a_missing_root_says_where_the_set_comes_from(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder or .zip; set data.root; unpack ADEChallengeData2016.zip"):
        data(tmp_path / "nowhere")
    with pytest.raises(UserError, match="prepare_ade20k_full_sem_seg.py"):
        data(tmp_path / "nowhere", ADE20KFullScenes)


def test_there_is_no_test_split(tmp_path):
    with pytest.raises(UserError, match="no test split with public masks; evaluate with split=val"):
        data(make_ade(tmp_path)).setup("test")


# -- 847 classes
@pytest.mark.parametrize("folders", [("images_detectron2", "annotations_detectron2"), ("images", "annotations_847")])
def test_847_classes_keep_class_255_and_ignore_65535(tmp_path, folders, capsys):
    module = data(make_ade_full(tmp_path / "ADE20K_2021_17_01", *folders), ADE20KFullScenes)
    module.setup("fit")
    scene = module.source("val").read(1)
    assert scene["labels"].dtype == torch.int32 and scene["labels"].unique().tolist() == [-1, 0, 255, 257, 846]
    assert (module.name, module.num_classes, module.ignore) == ("ade20k_847", 847, -1)
    assert module.classes[17] == "class 17" and "called by their numbers" in capsys.readouterr().out
    assert len(set(module.palette)) == 847 and (0, 0, 0) not in module.palette


def test_masks_squeezed_into_8_bit_are_refused(tmp_path):
    make_pairs(tmp_path, "images", "annotations_847", [blocks([0, 255])] * 3)
    with pytest.raises(UserError, match="8 bit masks for 847 classes: the values above 255 are lost"):
        data(tmp_path, ADE20KFullScenes).setup("validate")


@pytest.mark.parametrize("values, shift, said", [
    ([0, 847, 3], None, "labels up to 847 .*data.label_shift=-1"), ([65534, 65535, 0], None, "it holds 65534: 1 seems"),
    ([0, 846, 65535], -1, "it holds 65535.*data.label_shift=0"),
])
def test_16_bit_masks_that_do_not_count_as_read_are_refused(tmp_path, values, shift, said):
    make_pairs(tmp_path, "images", "annotations_847", [blocks(values, np.uint16)] * 3, "tif")
    with pytest.raises(UserError, match=said):
        data(tmp_path, ADE20KFullScenes, label_shift=shift).setup("validate")


# -- own classes and names
def test_names_of_ones_own_come_with_synonyms(tmp_path):
    make_ade(tmp_path / "ade")
    (tmp_path / "mine.txt").write_text("".join(f"thing,number {i}\n" for i in range(150)))
    module = data(tmp_path / "ade", vocabulary=str(tmp_path / "mine.txt"))
    assert module.classes == ["thing"] * 150 and module.synonyms[149] == ["thing", "number 149"]


def test_a_class_map_has_its_own_names_for_synonyms(tmp_path):
    make_ade(tmp_path / "ade")
    (tmp_path / "map.yaml").write_text("built: [wall, building]\nrest: rest\n")
    module = data(tmp_path / "ade", class_map=str(tmp_path / "map.yaml"))
    assert module.synonyms == [["built"], ["rest"]] and labels(module) == {0, 1, 255}


# -- the real ones
def real(shared, name):
    root = shared / "data" / "ade20k" / name
    if not root.is_dir():
        pytest.skip(f"no {root}")
    return root


def test_real_masks_of_150_classes_lie_in_range_and_most_is_labelled(shared):
    root = real(shared, "ADEChallengeData2016")
    module = data(root)
    module.setup("fit")
    assert (len(module.source("train")), len(module.source("val"))) == (3, 2)
    for index in range(2):
        values = module.source("val").read(index)["labels"]
        assert ((values < 150) | (values == 255)).all() and (values == 255).float().mean() < 0.3
    official = [line.split("\t")[4].split(",")[0].strip() for line in (root / "objectInfo150.txt").read_text().splitlines()[1:]]
    assert official == CLASSES


def test_real_masks_of_847_classes_agree_with_those_of_150(shared):
    few, many = data(real(shared, "ADEChallengeData2016")), data(real(shared, "ADE20K_2021_17_01"), ADE20KFullScenes)
    largest = 0
    for index in range(3):
        one, other = few.source("train").read(index), many.source("train").read(index)
        assert one["name"] == other["name"] and one["size"] == other["size"] and other["labels"].dtype == torch.int32
        for name, number in (("building", 1), ("sky", 2), ("tree", 3)):      # as the 847 count them
            assert torch.equal(one["labels"] == few.classes.index(name), other["labels"] == number)
        largest = max(largest, int(other["labels"].max()))
    assert 255 < largest < 847


def test_the_benchmarks_names_begin_with_the_published_ones(shared):
    lists = shared / "data" / "lists"
    module = data(real(shared, "ADE20K_2021_17_01"), ADE20KFullScenes, vocabulary="published", lists=str(lists))
    assert len(module.synonyms) == 847 and module.synonyms[0] == ["wall", "walls", "interior wall", "brick wall", "stone wall"]
    assert len(set(module.classes)) < 847 and "ade20k_847" in LISTS
