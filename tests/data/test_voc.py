"""PASCAL VOC 2012: lists, roots, the augmented masks, the download."""

import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules import unpack, voc
from datamodules.errors import UserError
from datamodules.samples import ignore_of
from datamodules.voc import VOCScenes
from tests.data.trees_scenes import blocks, make_voc, picture, put, write_list


def data(root, **settings):
    return VOCScenes(root=str(root), crop=16, workers=0, **settings)


@pytest.fixture
def tree(tmp_path):
    return make_voc(tmp_path / "VOCdevkit" / "VOC2012")


# -- what is read
def test_splits_are_the_published_lists_and_labels_the_palette_pngs_indices(tree):
    module = data(tree)
    module.setup("fit")
    assert module.source("train").names == [f"2008_{i:06}" for i in range(5)]
    assert module.source("val").names == [f"2008_{100 + i:06}" for i in range(4)]
    assert module.source("val").read(0)["labels"].unique().tolist() == [0, 20, 255]
    assert (module.name, module.num_classes, module.ignore) == ("voc", 21, ignore_of(21)) and module.classes[15] == "person"
    assert module.palette[:2] == [(0, 0, 0), (128, 0, 0)] and module.palette[20] == (0, 64, 128)
    assert module.synonyms[5] == ["bottle"]


@pytest.mark.parametrize("above", ["VOCdevkit/VOC2012", "VOCdevkit", "."])
def test_the_root_may_be_the_set_or_what_holds_it(tmp_path, tree, above):
    assert len(data(tmp_path / above).source("train")) == 5


def test_other_years_beside_it_are_passed_over_and_alone_are_refused(tmp_path, tree):
    make_voc(tmp_path / "VOCdevkit" / "VOC2007", 2, 2, years="2007")
    for root in (tmp_path, tmp_path / "VOCdevkit", tree):
        assert data(root).source("train").names[0] == "2008_000000"
    shutil.rmtree(tree)
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2007"):
        with pytest.raises(UserError, match="this is VOC2007, the set is VOC2012"):
            data(root)


def test_a_zip_reads_as_the_folder_does(tmp_path, tree):
    shutil.make_archive(str(tmp_path / "voc"), "zip", tmp_path, "VOCdevkit")
    here, packed = data(tree).source("val"), data(tmp_path / "voc.zip").source("val")
    assert here.names == packed.names and torch.equal(here.read(1)["labels"], packed.read(1)["labels"])


def test_masks_drawn_in_the_palettes_colours_are_understood(tree):
    before = data(tree).source("val").read(0)["labels"]
    for path in (tree / "SegmentationClass").glob("*.png"):
        Image.open(path).convert("RGB").save(path)
    assert torch.equal(data(tree).source("val").read(0)["labels"], before)


def test_list_lines_may_be_pairs_of_paths(tree):
    write_list(tree, "train", ["JPEGImages/2008_000003.jpg SegmentationClass/2008_000003.png", "", "2008_000001"])
    assert data(tree).source("train").names == ["2008_000003", "2008_000001"]


# -- augmented
def test_augmented_trains_on_every_mask_but_vals_and_says_how_many(tmp_path, capsys):
    tree = make_voc(tmp_path, augmented=3)
    module = data(tree, augmented=True)
    assert len(module.source("train")) == 5 + 3 and len(data(tree).source("train")) == 5
    assert "8 pictures for training (all of SegmentationClassAug but val.txt)" in capsys.readouterr().out
    assert not set(module.source("train").names) & set(module.source("val").names)
    assert module.source("val").read(0)["labels"].unique().tolist() == [0, 20, 255]


def test_a_trainaug_list_is_followed(tmp_path, capsys):
    tree = make_voc(tmp_path, augmented=3)
    write_list(tree, "trainaug", ["2008_000201", "2008_000002"])
    assert data(tree, augmented=True).source("train").names == ["2008_000201", "2008_000002"]
    assert "2 pictures for training (trainaug.txt)" in capsys.readouterr().out


def test_a_training_list_that_shares_pictures_with_val_is_refused(tmp_path):
    tree = make_voc(tmp_path, augmented=3)
    write_list(tree, "trainaug", ["2008_000201", "2008_000101"])
    with pytest.raises(UserError, match=r"trainaug.txt: 1 of its pictures are in val.txt too \(2008_000101\)"):
        data(tree, augmented=True).source("train")
    write_list(tree, "train", ["2008_000001", "2008_000100"])
    with pytest.raises(UserError, match=r"/train.txt: 1 of its pictures are in val.txt too"):
        data(tree).setup("fit")


def test_augmented_without_its_masks_names_the_folder(tree):
    with pytest.raises(UserError, match="no SegmentationClassAug; unpack SegmentationClassAug.zip"):
        data(tree, augmented=True).setup("fit")


def test_a_copy_with_augmented_masks_only_is_read(tmp_path):
    tree = make_voc(tmp_path, augmented=3)
    shutil.rmtree(tree / "SegmentationClass")
    assert len(data(tree).source("val")) == 4


# -- what is wrong
def test_listed_files_that_are_missing_are_counted_and_the_first_is_named(tree):
    (tree / "JPEGImages" / "2008_000102.jpg").unlink()
    (tree / "JPEGImages" / "2008_000103.jpg").unlink()
    with pytest.raises(UserError, match=r"JPEGImages: 2 of the 4 listed files are missing \(2008_000102\); unpack the archive"):
        data(tree).setup("fit")
    for path in (tree / "SegmentationClass").glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"SegmentationClass: 5 of the 5 listed files are missing \(2008_000000\)"):
        data(tree).source("train")


def test_a_root_without_the_set_says_where_it_comes_from(tmp_path, tree):
    for root in (tmp_path / "nowhere", make_voc(tmp_path / "x") / "ImageSets"):
        with pytest.raises(UserError, match="VOCtrainval_11-May-2012.tar .*JPEGImages, SegmentationClass.*data.download=true"):
            data(root)
    (tree / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(UserError, match="no ImageSets/Segmentation/val.txt; unpack VOCtrainval"):
        data(tree).setup("validate")
    write_list(tree, "val", [""])
    with pytest.raises(UserError, match="val.txt: the list is empty"):
        data(tree).setup("validate")
    with pytest.raises(UserError, match="no test split with public masks; evaluate with split=val"):
        data(tree).setup("test")


def test_masks_that_are_no_vocs_are_refused_at_setup(tree):
    put(tree / "SegmentationClass" / "2008_000100.png", blocks([0, 21]))
    with pytest.raises(UserError, match="2008_000100.png: labels up to 21"):
        data(tree).setup("validate")


def test_vocs_background_raises_no_suspicion_even_without_outlines(tree, capsys):
    for path in (tree / "SegmentationClass").glob("*.png"):
        put(path, blocks([0, 0, 7]))
    data(tree).setup("fit")
    assert "suspicious" not in capsys.readouterr().out


# -- download
def offer(folder: Path, monkeypatch, content: Path) -> None:
    """VOC's archive becomes one of `content`, at a file: address."""
    path = folder / "served" / "VOCtrainval_11-May-2012.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        archive.add(content, "VOCdevkit/VOC2012")
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(voc, "ARCHIVE", unpack.Archive(path.as_uri(), path.stat().st_size, sha, "VOCdevkit/VOC2012"))
    for key in ("HF_HUB_OFFLINE", "ZOO_OFFLINE"):
        monkeypatch.delenv(key, raising=False)


def test_download_fetches_the_set_once_and_leaves_one_that_is_there_alone(tmp_path, monkeypatch, capsys):
    offer(tmp_path, monkeypatch, make_voc(tmp_path / "made"))
    assert len(data(tmp_path / "new", download=True).source("val")) == 4
    assert "downloading" in capsys.readouterr().out
    assert len(data(tmp_path / "new", download=True).source("val")) == 4
    assert len(data(tmp_path / "made", download=True).source("val")) == 4
    assert capsys.readouterr().out == ""


def test_download_beside_a_foreign_folder_of_the_same_name_says_what_to_do(tmp_path, monkeypatch):
    offer(tmp_path, monkeypatch, make_voc(tmp_path / "made"))
    (tmp_path / "new" / "VOCdevkit" / "VOC2012" / "Annotations").mkdir(parents=True)
    with pytest.raises(UserError, match="VOC2012: it has no JPEGImages; remove it"):
        data(tmp_path / "new", download=True)


def test_without_download_nothing_is_fetched(tmp_path, monkeypatch):
    offer(tmp_path, monkeypatch, make_voc(tmp_path / "made"))
    (tmp_path / "new").mkdir()
    with pytest.raises(UserError, match="no folders JPEGImages"):
        data(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


# -- the real one
def test_real_pictures_have_the_official_colours_and_every_mask_its_outlines(shared):
    root = shared / "data" / "VOC2012"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    module = data(root)
    module.setup("fit")
    assert (len(module.source("train")), len(module.source("val"))) == (36, 30)
    seen = set()
    for index in range(0, 30, 3):
        scene = module.source("val").read(index)
        assert scene["image"].shape[1:] == scene["labels"].shape and (scene["labels"] == 255).any()
        seen |= set(scene["labels"].unique().tolist())
    assert seen <= {*range(21), 255} and len(seen) > 5
    mask = Image.open(next((root / "SegmentationClass").glob("*.png")))
    assert mask.getpalette()[:63] == [value for colour in module.palette for value in colour]


def test_a_picture_of_another_size_than_its_mask_is_told(tree):
    put(tree / "JPEGImages" / "2008_000100.jpg", picture(0)[:8])
    with pytest.raises(UserError, match="labels of 24x16 for a picture of 24x8"):
        data(tree).source("val").read(0)
