"""COCO's four kinds of labels, on tiny trees in the official formats and on the real sample where it lies."""

import json
import shutil

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from datamodules import polygons
from datamodules.coco import (
    STUFF,
    THINGS,
    CocoInstances,
    CocoObjects,
    CocoPanoptic,
    CocoStuff,
    ObjectMasks,
)
from datamodules.errors import UserError
from datamodules.files import Tree
from tests.data import trees_coco as trees

PANOPTIC = "annotations/panoptic_val2017.json"
OUTLINES = "annotations/instances_val2017.json"


def make(kind, root, workers=0, **settings):
    return kind(root=str(root), crop=16, batch_size=2, workers=workers, **settings)


def change(path, edit):
    """Rewrites a JSON file; `edit` changes its content in place."""
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


# -- panoptic ----------------------------------------------------------------------------------------------------------
def test_panoptic_ids_become_classes_and_numbers_as_a_loop_over_the_segments_gives_them(tmp_path):
    data = make(CocoPanoptic, trees.panoptic(tmp_path))
    scene, ids = data.source("val").read(0), trees.segment_ids()
    labels, numbers = np.full(ids.shape, 255), np.full(ids.shape, -1)
    for place, (number, category, crowd, _, _) in enumerate(trees.SEGMENTS):
        labels[ids == number] = [1, 90, 92, 200].index(category)
        numbers[ids == number] = -1 if crowd else place
    assert np.array_equal(scene["labels"], labels) and scene["labels"].dtype == torch.uint8
    assert np.array_equal(scene["instances"], numbers) and scene["instances"].dtype == torch.int32
    assert np.array_equal(data.source("val").raw(0), ids)
    assert (scene["labels"][ids == 65_536] == 0).all()                       # a crowd has its class, and is no segment
    assert scene["name"] == "000000000002" and scene["size"] == (trees.HEIGHT, trees.WIDTH)      # the JSON's order


def test_two_persons_are_two_segments_and_a_crowd_is_none(tmp_path):
    data = make(CocoPanoptic, trees.panoptic(tmp_path), segments=True)
    sample = data.evaluation("val")[0]
    assert sample["classes"].tolist() == [0, 0, 1, 3] and sample["masks"].sum((1, 2)).tolist() == [80, 64, 20, 288]


def test_names_are_the_jsons_and_colours_those_of_panopticapis_file(tmp_path):
    trees.panoptic(tmp_path)
    assert make(CocoPanoptic, tmp_path).classes == ["person", "toothbrush", "banner", "rug-merged"]
    assert make(CocoPanoptic, tmp_path).palette == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    for split in ("train", "val"):
        change(tmp_path / f"annotations/panoptic_{split}2017.json", lambda d: d["categories"][1].update(color=[1, 2, 3]))
    assert make(CocoPanoptic, tmp_path).palette[:2] == [(0, 0, 0), (1, 2, 3)]
    coloured = [row | {"color": [9, 8, row["id"]]} for row in trees.CATEGORIES]
    trees.write(tmp_path / "annotations/panoptic_coco_categories.json", coloured)
    assert make(CocoPanoptic, tmp_path).palette[1] == (9, 8, 90)
    (tmp_path / "annotations/panoptic_coco_categories.json").write_text("[1]")
    with pytest.raises(UserError, match="panoptic_coco_categories.json: not a list of categories"):
        make(CocoPanoptic, tmp_path)


def test_published_synonyms_name_the_real_classes(shared):
    lists, root = shared / "data" / "lists", shared / "data" / "coco"
    if not (lists.is_dir() and root.is_dir()):
        pytest.skip(f"no {lists} or no {root}")
    settings = {"vocabulary": "published", "lists": str(lists)}
    data, other = make(CocoPanoptic, root, **settings), make(CocoStuff, root, **settings)
    assert (len(data.synonyms), len(other.synonyms)) == (133, 171)
    assert sum(map(len, data.synonyms)) == 254 and sum(map(len, other.synonyms)) == 328
    assert data.classes[:4] == other.classes[:4] == ["person", "bicycle", "car", "motorcycle"] and other.classes[170] == "wood"


def test_panoptic_files_that_are_missing_are_named_before_anything_is_trained(tmp_path):
    trees.panoptic(tmp_path)
    (tmp_path / "annotations/panoptic_train2017/000000000001.png").unlink()
    with pytest.raises(UserError, match=r"panoptic_train2017/000000000001.png: missing \(1 of the 2 files"):
        make(CocoPanoptic, tmp_path).setup("fit")
    (tmp_path / "val2017/000000000002.jpg").unlink()
    with pytest.raises(UserError, match=r"val2017/000000000002.jpg: missing"):
        make(CocoPanoptic, tmp_path).setup("validate")
    (tmp_path / "annotations/panoptic_train2017.json").unlink()
    with pytest.raises(UserError, match="no annotations/panoptic_train2017.json; set data.root"):
        make(CocoPanoptic, tmp_path).setup("fit")
    with pytest.raises(UserError, match="no public labels of test; evaluate with split=val"):
        make(CocoPanoptic, tmp_path).setup("test")
    with pytest.raises(UserError, match="no annotations/panoptic_train2017.json"):
        make(CocoPanoptic, trees.instances(tmp_path / "other"))


def test_a_png_and_a_json_that_disagree_name_the_png_and_the_segment(tmp_path):
    trees.panoptic(tmp_path, ("val",))
    png = tmp_path / "annotations/panoptic_val2017/000000000002.png"
    for wrong, message in ((77, "has segment 77, which .*panoptic_val2017.json does not list"), (0, "lacks segment 256, which")):
        ids = trees.segment_ids()
        ids[ids == 256] = wrong
        trees.panoptic_png(png, ids)
        with pytest.raises(UserError, match=f"000000000002.png: {message}"):
            make(CocoPanoptic, tmp_path).source("val").read(0)
    trees.panoptic_png(png, trees.segment_ids()[:, :-2])
    with pytest.raises(UserError, match="000000000002.png: labels of 30x24 for a picture of 32x24"):
        make(CocoPanoptic, tmp_path).source("val").read(0)
    png.write_bytes(png.read_bytes()[:60])
    with pytest.raises(UserError, match="000000000002.png: not a whole picture"):
        make(CocoPanoptic, tmp_path).source("val").read(0)


@pytest.mark.parametrize(("edit", "message"), [
    (lambda d: d.pop("annotations"), "not a whole panoptic JSON .*annotations"),
    (lambda d: d["annotations"][0].update(image_id=99), "not a whole panoptic JSON .*99"),
    (lambda d: d["annotations"][0]["segments_info"][0].pop("id"), "not a whole panoptic JSON .*id"),
    (lambda d: d["annotations"][0]["segments_info"][0].update(category_id=12), "a segment of category 12, which it does not"),
    (lambda d: d["categories"].pop(2), "other categories than the other split's"),
])
def test_a_damaged_panoptic_json_is_one_line_that_names_it(tmp_path, edit, message):
    trees.panoptic(tmp_path)
    change(tmp_path / "annotations/panoptic_train2017.json", edit)
    with pytest.raises(UserError, match=f"panoptic_train2017.json: {message}"):
        make(CocoPanoptic, tmp_path).source("train")


def test_a_json_that_ends_early_is_one_line(tmp_path):
    path = trees.panoptic(tmp_path) / PANOPTIC
    path.write_text(path.read_text()[:500])
    with pytest.raises(UserError, match="panoptic_val2017.json: not readable as JSON"):
        make(CocoPanoptic, tmp_path)


def test_a_zip_reads_as_the_folder_does(tmp_path):
    trees.instances(trees.panoptic(tmp_path / "set" / "coco"))
    shutil.make_archive(str(tmp_path / "coco"), "zip", tmp_path / "set")
    for kind in (CocoPanoptic, CocoInstances):
        here, packed = (make(kind, root).source("val").read(1) for root in (tmp_path / "set", tmp_path / "coco.zip"))
        assert all(torch.equal(here[key], packed[key]) for key in ("image", "labels", "instances"))


@pytest.mark.parametrize("kind", [CocoPanoptic, CocoInstances])
def test_workers_give_what_one_process_gives(tmp_path, kind):
    trees.instances(trees.panoptic(tmp_path))
    alone, together = (make(kind, tmp_path, workers).val_dataloader() for workers in (0, 2))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("image", "labels", "instances"))


# -- stuff -------------------------------------------------------------------------------------------------------------
def stuff(root, values, folder="val2017", count=1):
    for number in range(count):
        trees.picture(root / folder / f"{number:012d}.jpg")
    trees.index_map(root / "stuffthingmaps" / folder / f"{0:012d}.png", np.resize(values, (trees.HEIGHT, trees.WIDTH)))
    return root


def test_stuff_values_are_coco_ids_less_one_and_become_171_classes(tmp_path):
    values = np.array([number - 1 for number in (*THINGS, *STUFF)] + [255])
    data = make(CocoStuff, stuff(tmp_path, values))
    labels = data.source("val").read(0)["labels"]
    assert np.array_equal(labels, np.resize([*range(171), 255], labels.shape)) and labels.dtype == torch.uint8
    assert len(data.classes) == len(set(data.classes)) == 171
    assert (data.classes[79], data.classes[80], data.classes[84], data.classes[170]) == (
        "toothbrush", "banner", "building-other", "wood")


@pytest.mark.parametrize("value", [11, 182, 254])
def test_a_value_that_is_no_class_of_stuff_is_an_error(tmp_path, value):
    source = make(CocoStuff, stuff(tmp_path, [0, value])).source("val")
    with pytest.raises(UserError, match=f"stuffthingmaps/val2017/000000000000.png: value {value} is none of COCO-Stuff's"):
        source.read(0)


def test_pictures_without_a_stuff_map_are_left_out_and_counted(tmp_path, capsys):
    assert make(CocoStuff, stuff(tmp_path, [0], count=3)).source("val").names == ["000000000000"]
    assert "2 of 3 pictures have no map" in capsys.readouterr().out
    with pytest.raises(UserError, match="train2017: no pictures; extract train2017.zip"):
        make(CocoStuff, tmp_path).source("train")
    (tmp_path / "stuffthingmaps/val2017/000000000000.png").unlink()
    with pytest.raises(UserError, match="no maps of the pictures of val2017; extract stuffthingmaps_trainval2017.zip"):
        make(CocoStuff, tmp_path).source("val")


# -- things ------------------------------------------------------------------------------------------------------------
def truth(path, image=1):
    """Masks of a picture's annotations as pycocotools draws them, in the file's order."""
    coco = COCO(str(path))
    rows = coco.imgToAnns[image]
    return rows, [coco.annToMask(row).astype(bool) for row in rows]


def test_things_are_drawn_as_pycocotools_draws_them_smaller_ones_on_top_and_crowds_below(tmp_path):
    path = trees.instances(tmp_path) / OUTLINES
    scene = make(CocoInstances, tmp_path, segments=False).source("val").read(0)
    rows, masks = truth(path)
    labels, numbers = np.full((trees.HEIGHT, trees.WIDTH), 255), np.full((trees.HEIGHT, trees.WIDTH), -1)
    for place in sorted(range(len(rows)), key=lambda i: -masks[i].sum()):
        if not rows[place]["iscrowd"]:
            labels[masks[place]], numbers[masks[place]] = list(THINGS).index(rows[place]["category_id"]), place
    assert np.array_equal(scene["labels"], labels) and np.array_equal(scene["instances"], numbers)
    assert {type(row["segmentation"]) for row in rows} == {list, dict}
    assert any(isinstance(row["segmentation"], dict) and isinstance(row["segmentation"]["counts"], str) for row in rows)


def test_an_annotation_of_id_0_is_a_thing_like_any_other(tmp_path):
    path = trees.instances(tmp_path) / OUTLINES
    rows, masks = truth(path)
    assert rows[0]["id"] == 0
    sample = make(CocoInstances, tmp_path, segments=True).evaluation("val")[0]
    assert len(sample["masks"]) == 4 and sample["classes"][0] == 0
    smaller = np.any([mask for row, mask in zip(rows[1:], masks[1:]) if not row["iscrowd"]], 0)
    assert np.array_equal(sample["masks"][0], masks[0] & ~smaller)


def test_training_leaves_out_pictures_without_a_thing_and_evaluation_does_not(tmp_path):
    data = make(CocoInstances, trees.instances(tmp_path))
    assert (len(data.source("train")), len(data.source("val"))) == (2, 3)
    assert data.source("val").read(2)["labels"].unique().tolist() == [255]


def test_object_maps_are_drawn_where_there_are_none(tmp_path, capsys):
    data = make(CocoObjects, trees.instances(tmp_path))
    labels = data.source("val").read(0)["labels"].numpy()
    rows, masks = truth(tmp_path / OUTLINES)
    covered = np.any([mask for row, mask in zip(rows, masks) if not row["iscrowd"]], 0)
    crowd = next(mask for row, mask in zip(rows, masks) if row["iscrowd"])
    assert (labels[~covered & ~crowd] == 0).all() and (labels[crowd & ~covered] == 255).all()
    assert set(np.unique(labels[covered])) == {1, 1 + list(THINGS).index(17), 1 + list(THINGS).index(18),
                                               1 + list(THINGS).index(44)}
    assert data.classes[:2] == ["background", "person"] and len(data.classes) == 81
    assert "object masks are drawn" in capsys.readouterr().out


@pytest.mark.parametrize(("folder", "maps", "year"), [("val2017", "masks", 2017), ("val2014", "annotations/val2014", 2014)])
def test_unimatchs_and_hsnets_index_maps_are_read_where_they_are(tmp_path, folder, maps, year):
    trees.instances(tmp_path, (folder,))
    stem = f"{1:012d}" if year == 2017 else f"COCO_val2014_{1:012d}"
    trees.index_map(tmp_path / maps / f"{stem}.png", np.full((trees.HEIGHT, trees.WIDTH), 80))
    source = make(CocoObjects, tmp_path, year=year).source("val")
    assert source.names == [stem] and source.read(0)["labels"].unique().tolist() == [80]
    trees.index_map(tmp_path / maps / f"{stem}.png", np.full((trees.HEIGHT, trees.WIDTH), 81))
    with pytest.raises(UserError, match="labels up to 81"):
        source.read(0)


def test_a_list_of_unimatch_chooses_labelled_objects_and_the_json_is_read_once(tmp_path, monkeypatch):
    trees.instances(tmp_path)
    (tmp_path / "labeled.txt").write_text("train2017/000000000002.jpg masks/000000000002.png")
    read, names = polygons.read_json, []
    monkeypatch.setattr(polygons, "read_json", lambda tree, name, keep: names.append(name) or read(tree, name, keep))
    data = make(CocoObjects, tmp_path, labelled=str(tmp_path / "labeled.txt"))
    assert data.source("train").names == ["000000000002"]
    assert data.source("unlabelled").names == ["000000000001", "000000000003"]
    assert names == ["annotations/instances_train2017.json"]


def test_panoptic_json_files_are_read_once(tmp_path, monkeypatch):
    read, names = polygons.read_json, []
    monkeypatch.setattr("datamodules.coco.read_json", lambda tree, name, keep: names.append(name) or read(tree, name, keep))
    data = make(CocoPanoptic, trees.panoptic(tmp_path), labelled=1)
    assert [len(data.source(split)) for split in ("train", "unlabelled", "val")] == [1, 1, 2]
    assert sorted(names) == ["annotations/panoptic_train2017.json", PANOPTIC]


def test_the_json_of_another_year_or_with_other_categories_is_refused(tmp_path):
    trees.instances(tmp_path)
    for kind in (CocoObjects, CocoInstances):
        with pytest.raises(UserError, match="no annotations/instances_val2014.json; set data.root and the year"):
            make(kind, tmp_path, year=2014).source("val")
        with pytest.raises(UserError, match="data.year: no COCO of 2016; give 2017 or 2014"):
            make(kind, tmp_path, year=2016).source("val")
    change(tmp_path / OUTLINES, lambda d: d["categories"].append({"id": 91, "name": "hair brush"}))
    with pytest.raises(UserError, match="category 91 is none of COCO's 80 things; use data=folder"):
        make(CocoInstances, tmp_path).source("val")


def test_a_missing_picture_of_the_outlines_is_named(tmp_path):
    trees.instances(tmp_path)
    (tmp_path / "val2017/000000000002.jpg").unlink()
    for kind in (CocoObjects, CocoInstances):
        with pytest.raises(UserError, match=r"val2017/000000000002.jpg: missing \(1 of the 3 files of val2017\)"):
            make(kind, tmp_path).source("val")


@pytest.mark.parametrize("segmentation", [
    {"size": [24, 32], "counts": [0, 5]},                    # fewer pixels than there are: pycocotools would read on
    {"size": [24, 32], "counts": "05"},
    {"size": [32, 24], "counts": [768]},
    {"size": [24, 32], "counts": [-1, 769]},
    {"size": [24, 32], "counts": "\x00\x7f"},
    {"size": [24, 32]},
    [[1e9, 0, 5, 5, 5, 0]],
    [[float("nan"), 0, 5, 5, 5, 0]],
])
def test_a_segmentation_that_cannot_be_drawn_is_one_line(tmp_path, segmentation):
    trees.instances(tmp_path)
    change(tmp_path / OUTLINES, lambda d: d["annotations"][0].update(segmentation=segmentation))
    with pytest.raises(UserError, match="instances_val2017.json: a segmentation of 000000000001.jpg cannot be drawn"):
        make(CocoInstances, tmp_path).source("val").read(0)


def test_a_polygon_of_two_points_covers_nothing(tmp_path):
    trees.instances(tmp_path)
    change(tmp_path / OUTLINES, lambda d: d["annotations"][0].update(segmentation=[[1, 1, 5, 5]]))
    labels = make(CocoInstances, tmp_path).source("val").read(0)["labels"]
    assert set(labels.unique().tolist()) == {list(THINGS).index(number) for number in (17, 18, 44)} | {255}


@pytest.mark.parametrize(("edit", "message"), [
    (lambda d: d.pop("images"), "no COCO JSON of instances .*'images'"),
    (lambda d: d["annotations"][0].pop("segmentation"), "one of its annotations is without segmentation"),
    (lambda d: d["annotations"][0].update(segmentation=[1, 2, 3, 4, 5, 6]), "an odd entry"),
    (lambda d: d["annotations"][0].pop("image_id"), "an odd entry .*image_id"),
    (lambda d: d["annotations"][0].update(image_id=77), "an annotation of picture 77, which it does not list"),
    (lambda d: d["annotations"][0].update(category_id=12), "an annotation of category 12, which it does not list"),
    (lambda d: d["images"][0].pop("file_name"), "one of its images is without file_name"),
    (lambda d: d["images"][0].update(height=0), "an odd entry"),
    (lambda d: d["categories"].append(3), "one of its categories is without id, name"),
])
def test_a_damaged_json_of_outlines_is_one_line_that_names_it(tmp_path, edit, message):
    trees.instances(tmp_path)
    change(tmp_path / OUTLINES, edit)
    with pytest.raises(UserError, match=f"instances_val2017.json: {message}"):
        make(CocoInstances, tmp_path).source("val")


def test_compressed_run_lengths_are_those_pycocotools_wrote():
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 1.0):
        for size in ((1, 1), (24, 32), (150, 90)):
            mask = rng.random(size) < share
            mask[: size[0] // 2] = False                     # runs of many lengths
            assert polygons.uncompressed(trees.compressed(mask)["counts"].encode()) == trees.run_lengths(mask)["counts"]


# -- for episodes ------------------------------------------------------------------------------------------------------
def test_object_masks_come_from_hsnets_maps_or_from_the_outlines(tmp_path):
    trees.instances(tmp_path, ("val2014",))
    name = f"val2014/COCO_val2014_{1:012d}.jpg"
    drawn = ObjectMasks(Tree(tmp_path))
    assert torch.equal(drawn.read(name), make(CocoObjects, tmp_path, year=2014).source("val").read_labels(0))
    assert drawn.picture(name).shape == (3, trees.HEIGHT, trees.WIDTH)
    with pytest.raises(UserError, match="instances_val2014.json: val2014/other.jpg is not in it"):
        drawn.read("val2014/other.jpg")
    with pytest.raises(UserError, match="no annotations/instances_train2014.json"):
        drawn.read("train2014/other.jpg")
    trees.index_map(tmp_path / "annotations" / name.replace(".jpg", ".png"), np.eye(24, 32) * 80)
    ready = ObjectMasks(Tree(tmp_path))
    assert ready.read(name).unique().tolist() == [0, 80] and ready.read(name).dtype == torch.uint8
    with pytest.raises(UserError, match="annotations/val2014/other.png: missing"):
        ready.read("val2014/other.jpg")


# -- the real sample ---------------------------------------------------------------------------------------------------
@pytest.fixture
def coco(shared):
    if not (shared / "data" / "coco").is_dir():
        pytest.skip(f"no {shared / 'data' / 'coco'}")
    return shared / "data" / "coco"


def test_real_panoptic_pictures_have_the_areas_of_their_json(coco):
    data = make(CocoPanoptic, coco)
    source, total = data.source("val"), 0
    assert data.num_classes == 133 and data.classes[:80] == list(THINGS.values())
    assert (data.classes[80], data.classes[132]) == ("banner", "rug-merged") and data.palette[0] == (220, 20, 60)
    for index, row in enumerate(json.loads((coco / PANOPTIC).read_text())["annotations"]):
        scene, infos = source.read(index), row["segments_info"]
        total += len(infos)
        areas = np.bincount(scene["instances"].flatten() + 1, minlength=len(infos) + 1)[1:]
        assert areas.tolist() == [0 if info["iscrowd"] else info["area"] for info in infos]
        ids = list(source.panoptic.categories)
        pixels = np.bincount(scene["labels"].flatten(), minlength=256)
        for category in {info["category_id"] for info in infos}:
            assert pixels[ids.index(category)] == sum(info["area"] for info in infos if info["category_id"] == category)
    assert total == 50


def test_real_run_lengths_are_the_panoptic_segments(coco):
    things = make(CocoInstances, coco).source("val")
    panoptic = make(CocoPanoptic, coco).source("val")
    for index, number in enumerate(things.coco.ids):
        rows = things.coco.annotations(index)
        areas = sorted(int(area_of(things, row, index)) for row in rows)
        at = panoptic.panoptic.pictures.index(f"{number:012d}.jpg")
        ids, segments = panoptic.raw(at), panoptic.panoptic.segments(at)
        assert areas == sorted(int((ids == s[0]).sum()) for s in segments if s[1] <= 90)


def area_of(source, row, index):
    from pycocotools import mask as coco_mask

    return coco_mask.area(source.coco.run_lengths(row, index))


def test_real_stuff_maps_hold_classes_only(coco):
    data = make(CocoStuff, coco)
    for split, count in (("train", 10), ("val", 6)):
        source = data.source(split)
        assert len(source) == count
        for index in range(count):
            labels = source.read(index)["labels"]
            assert ((labels < 171) | (labels == 255)).all() and (labels < 171).float().mean() > 0.5
