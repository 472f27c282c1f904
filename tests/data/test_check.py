"""python -m datamodules.check: every defect is found, named and told from what is only unusual."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import check
from datamodules.errors import UserError
from datamodules.numbering import Values
from datamodules.sources import SceneSource
from tests.conftest import ROOT
from tests.data.trees_coco import panoptic
from tests.data.trees_scenes import make_ade, make_voc

CLASSES = "sky\nroad\ncar\n"


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def put_scene(root, split, name, seed, mask=None):
    rng = np.random.default_rng(seed)
    put(root / "images" / split / f"{name}.png", rng.integers(0, 255, (12, 16, 3)))
    put(root / "masks" / split / f"{name}.png", rng.integers(0, 3, (12, 16)) if mask is None else mask)


@pytest.fixture
def tree(tmp_path):
    """A clean set: a..p for training, v and w for validation."""
    root = tmp_path / "set"
    for seed, name in enumerate("abcdefghijklmnopvw"):
        put_scene(root, "val" if name in "vw" else "train", name, seed)
    (root / "classes.txt").write_text(CLASSES)
    return root


def run(root, *more, data="folder"):
    """Exit status and what was written."""
    out = root.parent / "found.json"
    status = check.main([f"data={data}", f"data.root={root}", f"out={out}", "workers=2", *more])
    return status, json.loads(out.read_text())


def kinds(found, which="wrong"):
    """{kind: names of its samples}"""
    rows = [(problem["kind"], problem["name"]) for problem in found[which]]
    return {kind: sorted(name for k, name in rows if k == kind) for kind, _ in rows}


def test_a_clean_set_gives_status_0_and_no_line(tree, capsys):
    status, found = run(tree)
    said = capsys.readouterr().out
    assert status == 0 and found["wrong"] == [] and found["suspect"] == []
    assert "nothing wrong was found" in said and "WRONG" not in said and "worth a look" not in said
    labels = np.concatenate([np.asarray(Image.open(path)).ravel() for path in (tree / "masks" / "train").iterdir()])
    train = found["splits"]["train"]
    assert train["pixels"] == np.bincount(labels).tolist() and train["pictures"] == [16, 16, 16] and train["samples"] == 16
    assert found["classes"] == ["sky", "road", "car"]


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


def damage(root, name, kind):
    image, mask = root / "images" / "train" / f"{name}.png", root / "masks" / "train" / f"{name}.png"
    {
        "picture": lambda: cut(image),
        "mask": lambda: cut(mask),
        "no mask at all": lambda: mask.write_text("no picture"),
        "coloured": lambda: put(mask, np.random.default_rng(0).integers(0, 255, (12, 16, 3))),
        "size": lambda: put(mask, np.eye(12, 15)),
        "range": lambda: put(mask, np.full((12, 16), 77)),
        "empty": lambda: put(mask, np.full((12, 16), 255)),
        "white": lambda: put(mask, np.eye(12, 16) * 255),
        "single": lambda: put(mask, np.ones((12, 16))),
        "both": lambda: image.write_bytes((root / "images" / "val" / "v.png").read_bytes()),
        "twice": lambda: image.write_bytes((root / "images" / "train" / "a.png").read_bytes()),
    }[kind]()


@pytest.mark.parametrize(("damaged", "kind", "which"), [
    ("picture", "picture", "wrong"), ("mask", "mask", "wrong"), ("no mask at all", "mask", "wrong"),
    ("coloured", "mask", "wrong"), ("size", "size", "wrong"), ("range", "range", "wrong"), ("both", "both", "wrong"),
    ("empty", "empty", "suspect"), ("white", "white", "suspect"), ("single", "single", "suspect"),
])  # fmt: skip
def test_each_defect_of_a_file_is_found_by_its_kind_and_named(tree, damaged, kind, which, capsys):
    damage(tree, "c", damaged)
    status, found = run(tree)
    assert kinds(found, which)[kind] == ["c"] and found["splits"]["train"]["samples"] == 16
    assert status == (damaged != "single")                              # 1 of 16 masks without a label is more than a few
    assert f"{os.sep}train{os.sep}c.png" in capsys.readouterr().out


def test_all_defects_at_once_are_found_and_the_walk_goes_on_to_the_end(tree):
    defects = ["picture", "mask", "size", "range", "empty", "white", "single", "both"]
    for name, kind in zip("abcdefgh", defects):
        damage(tree, name, kind)
    (tree / "masks" / "train" / "p.png").unlink()
    status, found = run(tree)
    assert status == 1 and found["splits"]["train"]["samples"] == 16 and found["splits"]["train"]["labels_read"] == 13
    assert kinds(found) == {"refused": [""], "missing": ["p"], "picture": ["a"], "mask": ["b"], "size": ["c"],
                            "range": ["d"], "unlabelled": [""] * 2, "both": ["h"]}
    assert kinds(found, "suspect") == {"empty": ["e"], "white": ["f"], "single": ["g"]}
    assert {p["what"].partition(":")[0] for p in found["wrong"] if p["kind"] == "range"} == {str(tree / "masks/train/d.png")}


def test_few_masks_without_a_label_are_only_worth_a_look(tree):
    problems = [check.Problem("empty", "train", f"{i}", "") for i in range(10)]
    tally = check.Tally(np.zeros(3), np.zeros(3), masks=1000)
    assert check.many_unlabelled({"train": tally}, problems) == []
    tally.masks = 999
    assert "10 of its 999 masks" in check.many_unlabelled({"train": tally}, problems)[0].what


def test_pictures_in_two_splits_are_wrong_and_named_in_both_twice_in_one_is_not(tree):
    damage(tree, "c", "both")
    damage(tree, "d", "twice")
    status, found = run(tree)
    image = tree / "images"
    assert status == 1 and [p["what"] for p in found["wrong"]] == [f"{image}/train/c.png (train) = {image}/val/v.png (val)"]
    assert [p["what"] for p in found["suspect"]] == [f"{image}/train/a.png (train) = {image}/train/d.png (train)"]


def test_masks_without_a_picture_and_classes_that_never_occur_do_not_change_the_status(tree):
    put(tree / "masks" / "train" / "lost.png", np.zeros((12, 16)))
    (tree / "classes.txt").write_text(CLASSES + "tree\n")
    for name in "vw":
        put(tree / "masks" / "val" / f"{name}.png", np.arange(192).reshape(12, 16) % 4)
    status, found = run(tree)
    assert status == 0 and kinds(found, "suspect") == {"orphan": ["lost"], "absent": ["", ""]}
    assert [p["what"] for p in found["suspect"]][1:] == ["1 of 4 never in train: tree", "in val and never in train: tree"]


def test_a_split_that_cannot_be_made_is_wrong_and_the_other_is_looked_at(tree):
    damage(tree, "a", "size")
    status, found = run(tree, "splits=[train,test]")
    assert status == 1 and kinds(found) == {"refused": [""], "size": ["a"]}
    with pytest.raises(UserError, match="no images/test"):
        run(tree, "splits=test")


def test_a_zip_is_looked_at_as_its_folder_is(tree):
    damage(tree, "c", "size")
    shutil.make_archive(str(tree), "zip", tree.parent, "set")
    folder, packed = run(tree), run(tree.parent / "set.zip")
    assert packed[0] == folder[0] == 1 and packed[1]["splits"] == folder[1]["splits"]
    assert [p["kind"] for p in packed[1]["wrong"]] == ["size"] and "set.zip" in packed[1]["wrong"][0]["what"]


def test_missing_files_of_a_published_set_are_named_one_by_one_and_the_others_read(tmp_path):
    root = make_voc(tmp_path / "VOC2012")
    first, second, third = sorted(path.stem for path in (root / "JPEGImages").iterdir())[:3]
    (root / "JPEGImages" / f"{first}.jpg").unlink()
    (root / "SegmentationClass" / f"{second}.png").unlink()
    cut(root / "SegmentationClass" / f"{third}.png")
    status, found = run(root, data="voc")
    assert status == 1 and found["splits"]["train"]["labels_read"] == 3 and found["splits"]["val"]["labels_read"] == 4
    assert kinds(found)["missing"] == [first, second] and kinds(found)["mask"] == [third] and len(kinds(found)["refused"]) == 3


def test_a_missing_panoptic_map_is_named_and_the_others_are_read(tmp_path):
    root = panoptic(tmp_path / "coco", count=3)
    lost = sorted((root / "annotations" / "panoptic_train2017").iterdir())[1]
    lost.unlink()
    status, found = run(root, data="coco_panoptic")
    assert status == 1 and kinds(found)["missing"] == [lost.stem] and found["splits"]["train"]["labels_read"] == 2


# -- numbering ---------------------------------------------------------------------------------------------------------
TEN = [f"class {i}" for i in range(10)]


def verdict(values, shift=0, classes=TEN, files=8, **known):
    return Values(Counter(dict.fromkeys(values, files)), files, classes, shift, **known).verdict()


@pytest.mark.parametrize(("values", "shift", "said"), [
    (range(10), 0, ""),                                                 # as it should be
    ([*range(10), 255], 0, ""),
    ([0, 3, 7], 0, ""),                                                 # a small sample: nothing can be said
    ([3, 7], 0, ""),
    (range(1, 11), 0, "the set counts from 1; set data.label_shift=-1"),
    ([2, 10], 0, "the set counts from 1; set data.label_shift=-1"),
    (range(11), 0, "either 0 means unlabelled .*label_shift=-1.* or 10 is one more class or void"),
    (range(1, 10), 0, "looks as if the set counted from 1 .*label_shift=-1"),
    ([*range(9), 254, 255], 0, "after 1 was taken from them twice"),
    ([0, 40], 0, ""),                                                   # out of range without a pattern: told file by file
    (range(11), -1, ""),                                                # ADE20K as it is published
    (range(1, 11), -1, ""),
    ([0, 3, 7], -1, ""),
    ([0, 3, 10, 255], -1, ""),
    (range(10), -1, "1 had been taken from the masks already.*data.label_shift=0"),
    ([0, 3, 7, 255], -1, "255 occurs.*taken from the masks already"),
    ([*range(9), 254, 255], -1, "after 1 was taken from them twice"),
])
def test_what_the_values_say_about_the_numbering(values, shift, said):
    found = verdict(values, shift)
    assert re.search(said, found) if said else found == ""


def test_sixteen_bit_masks_ignore_65535_and_keep_255():
    many = [f"class {i}" for i in range(300)]
    assert verdict([*range(300), 65535], classes=many) == ""
    assert "the set counts from 1" in verdict([*range(1, 301), 65535], classes=many)
    assert "twice" in verdict([*range(299), 65534, 65535], classes=many)


def test_of_published_sets_more_is_known():
    assert "0 meant unlabelled" in verdict([0, 3, 7], void=False, rare=False)             # ADE20K read with label_shift=0
    assert verdict([0, 3, 7, 255], void=False, rare=False) == ""                          # its converted masks
    assert "0 meant unlabelled" in verdict([0, 3, 7, 255], void=False, rare=True)         # class 0 of PASCAL-Context is rare
    assert verdict([0, 3, 7], void=True, rare=False) == ""                                # VOC: 0 is its background
    assert verdict([0, 3, 7, 255], -1, void=True, rare=True) == ""                        # VOC without its background
    assert "taken from the masks already" in verdict([3, 7, 255], -1, void=True, rare=True)


def test_a_folder_that_counts_from_one_is_told_the_key_and_clean_with_it(tree):
    for path in tree.glob("masks/*/*.png"):
        put(path, np.asarray(Image.open(path)) + 1)
    status, found = run(tree)
    assert status == 1 and len(kinds(found)["range"]) == 18
    assert "the set counts from 1; set data.label_shift=-1" in next(p["what"] for p in found["wrong"] if p["kind"] == "numbering")
    status, found = run(tree, "data.label_shift=-1")
    assert status == 0 and found["wrong"] == found["suspect"] == []


def test_a_published_set_is_looked_at_with_what_is_known_of_it(tmp_path):
    root = make_ade(tmp_path / "ade")
    assert kinds(run(root, data="ade20k")[1]).keys() == {"both"}        # the tree's pictures are the same in its splits
    status, found = run(root, "data.label_shift=0", data="ade20k")
    assert status == 1 and kinds(found).keys() == {"both", "numbering"}
    assert "0 (wall) is in 12 of 12 masks and no ignored value occurs" in found["wrong"][0]["what"]
    status, found = run(make_ade(tmp_path / "once", subtracted=1), data="ade20k")
    assert status == 1 and {"refused", "numbering"} < kinds(found).keys()
    assert "1 had been taken from the masks already; if so, set data.label_shift=0" in next(
        problem["what"] for problem in found["wrong"] if problem["kind"] == "numbering")
    status, found = run(make_ade(tmp_path / "twice", subtracted=2), data="ade20k")
    assert status == 1 and len(kinds(found)["range"]) == 12
    assert any("1 was taken from them twice" in problem["what"] for problem in found["wrong"])


def test_masks_of_more_than_255_classes_must_be_16_bit(tree):
    (tree / "classes.txt").write_text("".join(f"class {i}\n" for i in range(300)))
    assert "8 bit masks for 300 classes" in run(tree)[1]["wrong"][0]["what"]
    Image.fromarray(np.full((12, 16), 299, np.uint16)).save(tree / "masks" / "train" / "a.png")
    assert run(tree)[0] == 0


# -- other kinds of data -----------------------------------------------------------------------------------------------
def test_drawn_scenes_and_episodes_are_looked_at_too(tmp_path):
    for name, settings in (("demo", ["data.n_train=3", "data.n_val=2"]), ("demo_episodes", ["data.pictures_per_class=2"])):
        assert check.main([f"data={name}", "data.size=64", f"out={tmp_path / 'found.json'}", "workers=1", *settings]) == 0


def test_the_masks_of_episodes_must_show_their_object(tmp_path):
    root, rng = tmp_path / "set", np.random.default_rng(0)
    for word in ("cat", "dog"):
        for number in range(4):
            put(root / word / f"{number}.png", np.eye(16) * 255)
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(root / word / f"{number}.jpg")
    assert run(root, "splits=val", data="episodes_folder")[0] == 0
    put(root / "cat" / "1.png", np.zeros((16, 16)))
    put(root / "cat" / "2.png", np.eye(16, 15) * 255)
    (root / "dog" / "3.jpg").write_bytes((root / "dog" / "2.jpg").read_bytes())
    cut(root / "dog" / "1.jpg")
    status, found = run(root, "splits=val", data="episodes_folder")
    assert status == 1 and found["classes"] == ["cat", "dog"]
    assert kinds(found) == {"picture": ["dog/1.jpg (dog)"], "mask": ["cat/1.jpg (cat)"], "size": ["cat/2.jpg (cat)"]}
    assert kinds(found, "suspect") == {"twice": ["dog/2.jpg (dog)"]}


# -- the walk ----------------------------------------------------------------------------------------------------------
class Deadly(SceneSource):
    """Scenes of which some end the process that reads them."""

    def __init__(self, count, deadly):
        self.names, self.deadly = [f"s{i}" for i in range(count)], deadly

    def read(self, index):
        if index in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 1:
            raise ZeroDivisionError("a bug")
        image = torch.full((3, 4, 4), index, dtype=torch.uint8)
        return {"image": image, "labels": image[0] % 2, "name": self.names[index], "size": (4, 4)}


def test_a_file_that_kills_its_reader_is_named_and_the_others_are_read():
    looks = {index: look for (_, index), look in check.walk({"train": Deadly(12, {3, 7})}, workers=2)}
    assert sorted(looks) == list(range(12))
    assert [index for index, look in looks.items() if look.problems and look.problems[0][0] == "crash"] in ([3, 7], [7, 3])
    assert looks[3].problems[0][1].startswith("s3: reading it ends the process")
    assert looks[1].problems == [("failure", "s1: ZeroDivisionError: a bug")]
    assert looks[11].labels == {1: 16}


@pytest.mark.skipif(shutil.which("ps") is None, reason="processes are listed with ps")
def test_ctrl_c_ends_the_walk_with_one_line_and_leaves_no_process(tmp_path):
    command = [sys.executable, "-m", "datamodules.check", "data=demo", "data.size=512", "workers=2", f"out={tmp_path / 'x.json'}"]
    walking = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(group(walking.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(walking.pid, signal.SIGINT)
    assert walking.communicate(timeout=60)[1].splitlines() == ["interrupted"] and walking.returncode == 130
    assert group(walking.pid) == [] and not (tmp_path / "x.json").exists()


def group(leader):
    """The processes of a process group."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [pid for pid, pgid, state in rows if pgid == str(leader) and not state.startswith("Z")]


# -- settings ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("arguments", "said"), [
    ([], "data=<set> is missing"),
    (["data=nothing"], "Could not find 'data/nothing'; sets: "),
    (["data=folder"], "data.root= is missing"),
    (["data=folder", "data.root=nowhere"], "nowhere: no such folder or .zip"),
    (["data=folder", "data.rot=nowhere"], "Could not override 'data.rot'; --help data=folder"),
    (["data=folder", "data.root=nowhere", "data.label_shift=one"], "data.label_shift: 'one' is not a whole number"),
    (["data=demo", "workers=0"], "workers: 0 processes"),
    (["data=demo", "splits=[train,rest]"], "no split rest"),
    (["data=demo", "out=found.txt"], "end the name in .json"),
])  # fmt: skip
def test_settings_that_cannot_be_used_are_one_line(arguments, said):
    with pytest.raises(UserError) as caught:
        check.main(arguments)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_help_names_the_sets_and_shows_the_settings_of_one(capsys):
    assert check.main(["--help"]) == 0
    assert "  folder " in capsys.readouterr().out
    check.main(["--help", "data=folder"])
    said = capsys.readouterr().out
    assert "label_shift: 0" in said and "cat_max_ratio" in said


def test_the_command_ends_with_the_status(tree):
    damage(tree, "d", "size")
    command = [sys.executable, "-m", "datamodules.check", "data=folder", f"data.root={tree}", f"out={tree / 'found.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "" and "labels of another size than their picture (1)" in done.stdout
