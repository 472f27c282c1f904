"""Labelled lists and draws, own classes, made pictures mixed in, scenes as segments."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules.base import Augmented, Mixed, SceneData, made_scenes, scene_segments
from datamodules.errors import UserError
from datamodules.scarce import LISTS, chosen, published, read_class_map, read_list
from datamodules.sources import Mapped, SceneSource

NAMES = [f"n{i}" for i in range(30)]


class Stripes(SceneSource):
    """Scene i: rows of classes 0, 1, 2, 3, and 255 in the last row; its pixels hold i."""

    names = NAMES

    def read(self, index):
        labels = torch.arange(4, dtype=torch.uint8).repeat_interleave(4)[:, None].repeat(1, 16)
        labels[15] = 255
        image = torch.full((3, 16, 16), index, dtype=torch.uint8)
        return {"image": image, "labels": labels, "name": self.names[index], "size": (16, 16)}


@dataclass(kw_only=True, eq=False, repr=False)
class StripeData(SceneData):
    crop: int = 16
    scale: tuple = (1.0, 1.0)
    colour: float = 0.0
    workers: int = 0

    def __post_init__(self):
        self.name, self.classes, self.palette = "stripes", ["sky", "tree", "road", "car"], [(i, i, i) for i in range(4)]
        super().__post_init__()

    def make_source(self, split):
        return Stripes()


# -- labelled and unlabelled
def test_a_number_without_a_published_list_is_a_seeded_draw_that_is_stated(capsys):
    first, again, other = (StripeData(labelled=5, seed=seed) for seed in (1, 1, 2))
    assert first.source("train").names == again.source("train").names != other.source("train").names
    assert "5 of 30 scenes, drawn with seed 1" in capsys.readouterr().out
    rest = first.source("unlabelled").names
    assert sorted(first.source("train").names + rest) == sorted(NAMES) and len(first.source("val")) == 30
    for wrong in (0, 31):
        with pytest.raises(UserError, match="data.labelled"):
            StripeData(labelled=wrong).source("train")


def test_a_list_may_name_scenes_with_folders_masks_and_no_last_newline(tmp_path):
    (tmp_path / "list.txt").write_text("JPEGImages/n4.jpg SegmentationClass/n4.png\n\nn1\nn4")
    data = StripeData(labelled=str(tmp_path / "list.txt"))
    assert data.source("train").names == ["n1", "n4"] and len(data.source("unlabelled")) == 28


def test_names_that_are_not_on_disk_are_named_and_counted(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("n4\na\nb\nc\nd\n")
    StripeData(labelled=str(tmp_path / "list.txt")).source("train")
    assert "4 of its 5 are not on disk: a, b, c, ..." in capsys.readouterr().out
    for text, what in (("a\nb\n", "none of its 2 names"), ("\n", "the list is empty")):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(UserError, match=what):
            StripeData(labelled=str(tmp_path / "list.txt")).source("train")
    with pytest.raises(UserError, match="no such list"):
        StripeData(labelled=str(tmp_path / "other.txt")).source("train")


def test_a_published_list_is_taken_by_its_number_and_its_lines_are_counted(tmp_path):
    names = [f"p{i}" for i in range(183)]
    (tmp_path / "pascal" / "183").mkdir(parents=True)
    file = tmp_path / "pascal" / "183" / "labeled.txt"
    file.write_text("\n".join(f"JPEGImages/{n}.jpg SegmentationClass/{n}.png" for n in names))
    indices, line = chosen([*names, "more"], 183, 0, "voc", str(tmp_path))
    assert indices == list(range(183)) and "UniMatch's list of 183" in line
    file.write_text("p1\np2")
    with pytest.raises(UserError, match="2 lines instead of 183"):
        chosen(names, 183, 0, "voc", str(tmp_path))
    with pytest.raises(UserError, match="no pascal/92/labeled.txt"):
        chosen(names, 92, 0, "voc", str(tmp_path))
    assert "drawn with seed 0" in chosen(names, 92, 0, "another set", str(tmp_path))[1]


def test_the_real_lists_have_their_numbers_and_are_disjoint_from_the_unlabelled(shared):
    folder = shared / "data/lists/unimatch"
    for data, rows in yaml.safe_load(LISTS.read_text())["labelled"].items():
        for row in rows:
            assert len(read_list(folder / row["file"])) == row["count"] == published(data, row["count"])["count"]
    for count in (92, 183, 366, 732):
        labelled = set(read_list(folder / f"pascal/{count}/labeled.txt"))
        rest = set(read_list(folder / f"pascal/{count}/unlabeled.txt"))
        assert not labelled & rest and len(labelled | rest) == 10_582


# -- own classes
def write_map(folder, text):
    (folder / "map.yaml").write_text(text)
    return str(folder / "map.yaml")


def test_a_class_map_renumbers_after_every_transform(tmp_path):
    data = StripeData(class_map=write_map(tmp_path, "nature: [tree, 0]\nmade: [car]\n"))
    assert data.classes == ["nature", "made"] and data.num_classes == 2 and len(data.palette) == 2
    for scene in (data.source("val").read(3), data.training()[0, 3]):
        assert scene["labels"][:, 0].tolist() == [0] * 8 + [255] * 4 + [1] * 3 + [255]
        assert scene["labels"].dtype == torch.uint8


def test_a_class_map_takes_the_rest_and_more_than_255_classes(tmp_path):
    table = read_class_map(write_map(tmp_path, "b: [road]\na: rest\n"), ["sky", "tree", "road"]).table
    assert table.tolist() == [1, 1, 0]
    many = [str(i) for i in range(300)]
    source = Stripes()
    mapped = Mapped(source, read_class_map(write_map(tmp_path, "x: [1, 2]\n"), many).table, 255).renumber(
        {"labels": torch.tensor([[1, 299, -1, 2]], dtype=torch.int32)}
    )
    assert mapped["labels"].tolist() == [[0, 255, 255, 0]] and mapped["labels"].dtype == torch.uint8


@pytest.mark.parametrize(
    "text, what",
    [
        ("a: [lake]", "no class 'lake'"), ("a: [9]", "no class 9"), ("a: [sky]\nb: [0]", "sky is in a and in b"),
        ("a: rest\nb: rest", "both take the rest"), ("- a", "not a map"), ("a: [", "not readable"), ("", "not a map"),
        ("a: [twice]", "name of 2 classes"),
    ],
)  # fmt: skip
def test_a_wrong_class_map_is_one_line(tmp_path, text, what):
    with pytest.raises(UserError, match=what):
        read_class_map(write_map(tmp_path, text), ["sky", "tree", "twice", "twice"])


# -- made pictures
def make_synthetic(root, count=3, classes="sky\ntree\nroad\ncar\n"):
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((16, 16, 3), 200 + i, np.uint8)).save(root / "images" / f"m{i}.png")
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(root / "masks" / f"m{i}.png")
    (root / "classes.txt").write_text(classes)
    (root / "manifest.jsonl").write_text("")


def test_made_pictures_take_their_share_and_the_run_keeps_its_length(tmp_path, capsys):
    make_synthetic(tmp_path)
    dataset = StripeData(synthetic=str(tmp_path), synthetic_share=0.25, seed=4).training()
    names = [dataset[visit, visit % 30]["name"] for visit in range(400)]
    made = [name for name in names if name.startswith("m")]
    assert len(dataset) == 30 and 70 < len(made) < 130 and set(made) == {"m0", "m1", "m2"}
    assert "25% of the training samples are of the 3 made scenes" in capsys.readouterr().out
    assert all(name in (f"n{visit % 30}", "m0", "m1", "m2") for visit, name in enumerate(names))
    again = StripeData(synthetic=str(tmp_path), synthetic_share=0.25, seed=4).training()
    assert names == [again[visit, visit % 30]["name"] for visit in range(400)]
    only = StripeData(synthetic=str(tmp_path), synthetic_share=1.0).training()
    assert all(only[visit, 0]["name"].startswith("m") for visit in range(50))


def test_made_pictures_of_other_classes_or_not_made_to_the_end_are_refused(tmp_path):
    make_synthetic(tmp_path, classes="sky\nlake\nroad\ncar\n")
    with pytest.raises(UserError, match="made for other classes .lake for tree"):
        made_scenes(str(tmp_path), ["sky", "tree", "road", "car"])
    with pytest.raises(UserError, match="synthetic_share"):
        StripeData(synthetic_share=0.0)
    (tmp_path / "manifest.jsonl").unlink()
    with pytest.raises(UserError, match="no manifest.jsonl"):
        made_scenes(str(tmp_path), ["sky", "lake", "road", "car"])


def test_what_is_mixed_depends_on_seed_and_visit_alone():
    real, made = Augmented(Stripes(), lambda scene, rng: scene, 0), Augmented(Stripes(), lambda scene, rng: scene, 0)
    one, other = Mixed(real, made, 0.5, 1), Mixed(real, made, 0.5, 2)
    assert [one[v, 0]["name"] for v in range(20)] == [one[v, 0]["name"] for v in range(20)]
    assert [one[v, 0]["name"] for v in range(20)] != [other[v, 0]["name"] for v in range(20)]


# -- scenes as masks
def test_segments_of_a_label_map_are_its_classes():
    data = StripeData(segments=True, batch_size=2)
    sample = data.training()[0, 1]
    assert sample["masks"].shape == (4, 16, 16) and sample["classes"].tolist() == [0, 1, 2, 3]
    assert sample["masks"].sum((1, 2)).tolist() == [64, 64, 64, 48] and sample["vocabulary"] == data.classes
    batch = data.collate([sample, data.training()[1, 2]])
    assert batch["image"].shape == (2, 3, 16, 16) and [len(m) for m in batch["masks"]] == [4, 4]


def test_segments_of_instances_keep_two_of_one_class_apart_and_leave_out_what_is_ignored():
    labels = torch.tensor([[1, 1, 1, 0], [255, 255, 2, 0]], dtype=torch.uint8)
    instances = torch.tensor([[5, 5, 7, -1], [8, 8, 9, -1]], dtype=torch.int32)
    image = torch.zeros(3, 2, 4, dtype=torch.uint8)
    scene = {"image": image, "labels": labels, "instances": instances, "name": "a", "size": (2, 4)}
    segments = scene_segments(scene, ["a", "b", "c"], 255)
    assert segments["classes"].tolist() == [1, 1, 2]
    assert segments["masks"].sum((1, 2)).tolist() == [2, 1, 1]
    empty = scene | {"labels": torch.full_like(labels, 255)}
    assert scene_segments(empty, ["a", "b", "c"], 255)["masks"].shape == (0, 2, 4)
