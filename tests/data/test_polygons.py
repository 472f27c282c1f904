"""Labels as polygons for data=folder: LabelMe's JSON and COCO's."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.errors import UserError
from datamodules.folder import FolderScenes
from tests.data import trees_coco as trees

HEIGHT, WIDTH = trees.HEIGHT, trees.WIDTH
NAMES = "background\ncat\ntraffic light\n"


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


SQUARE = shape("cat", [[2, 3], [12, 3], [12, 9], [2, 9]])


def labelme(path, shapes, size=(HEIGHT, WIDTH), **more):
    trees.write(path, {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.jpg", "imageData": None,
                       "imageHeight": size[0], "imageWidth": size[1]} | more)


def make(root, shapes=(SQUARE,), classes=NAMES, names="abcde", split="", **more):
    for name in names:
        trees.picture(root / "images" / split / f"{name}.jpg")
        labelme(root / "masks" / split / f"{name}.json", list(shapes), **more)
    (root / "classes.txt").write_text(classes)
    return root


def data(root, **settings):
    return FolderScenes(root=str(root), crop=16, batch_size=2, workers=0, **settings)


def labels(root, **settings):
    return data(root, **settings).source("val").read(0)["labels"]


def disc(row, column, radius):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius ** 2


def block(top, bottom, left, right):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom + 1, left:right + 1] = True
    return mask


# -- LabelMe -----------------------------------------------------------------------------------------------------------
def test_shapes_are_drawn_with_their_edges_as_labelme_draws_them(tmp_path):
    found = labels(make(tmp_path))
    assert np.array_equal(found, block(3, 9, 2, 12)) and found.dtype == torch.uint8


def test_a_triangle_covers_the_pixels_on_its_side_of_the_line(tmp_path):
    found = labels(make(tmp_path, [shape("cat", [[0, 0], [20, 0], [0, 20]])]))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    assert np.array_equal(found == 1, rows + columns <= 20)


@pytest.mark.parametrize(("points", "expected"), [
    ([[2, 3], [12, 9]], block(3, 9, 2, 12)),
    ([[12, 3], [2, 9]], block(3, 9, 2, 12)),                                 # drawn from the other corner
    ([[-9, -9], [5, 40]], block(0, HEIGHT - 1, 0, 5)),                       # what lies outside is cut off
])
def test_rectangles_are_areas_too(tmp_path, points, expected):
    assert np.array_equal(labels(make(tmp_path, [shape("traffic light", points, "rectangle")])) == 2, expected)


def test_a_circle_is_its_centre_and_a_point_on_it(tmp_path):
    found = labels(make(tmp_path, [shape("cat", [[15, 10], [15, 18]], "circle")])).numpy() == 1
    assert found[disc(10, 15, 8)].all() and not found[~disc(10, 15, 9)].any()


def test_a_mask_shape_is_its_picture_at_its_place(tmp_path):
    bits, file = np.eye(5, 7) > 0, io.BytesIO()
    Image.fromarray(bits).save(file, "PNG")
    mask = base64.b64encode(file.getvalue()).decode()
    found = labels(make(tmp_path, [shape("cat", [[4, 6], [10, 10]], "mask", mask=mask)]))
    assert np.array_equal(found[6:11, 4:11] == 1, bits) and (found == 1).sum() == 5


def test_later_shapes_lie_on_top(tmp_path):
    over = shape("traffic light", [[0, 0], [30, 0], [30, 6], [0, 6]])
    assert labels(make(tmp_path, [SQUARE, over]))[5, 5] == 2
    assert labels(make(tmp_path, [over, SQUARE]))[5, 5] == 1


def test_old_files_without_a_shape_type_are_polygons(tmp_path):
    old = {key: value for key, value in SQUARE.items() if key in ("label", "points")}
    assert torch.equal(labels(make(tmp_path / "old", [old, SQUARE | {"shape_type": None}])), labels(make(tmp_path / "new")))


def test_pixels_of_no_shape_are_background_or_ignored(tmp_path):
    assert labels(make(tmp_path / "with"))[0, 0] == 0
    without = labels(make(tmp_path / "without", classes="cat\ntraffic light\n"))
    assert without[0, 0] == 255 and without[5, 5] == 0
    many = "".join(f"c{i}\n" for i in range(299)) + "cat\n"
    wide = labels(make(tmp_path / "many", classes=many))
    assert wide[0, 0] == -1 and wide[5, 5] == 299 and wide.dtype == torch.int32


def test_label_pictures_and_polygons_may_be_mixed_and_a_picture_goes_first(tmp_path):
    make(tmp_path, split="train")
    make(tmp_path, split="val", names="abc")
    trees.index_map(tmp_path / "masks/val/a.png", np.full((HEIGHT, WIDTH), 2))
    (tmp_path / "masks/val/b.json").unlink()
    trees.index_map(tmp_path / "masks/val/b.png", np.full((HEIGHT, WIDTH), 1))
    source = data(tmp_path).source("val")
    assert [source.read(i)["labels"].unique().tolist() for i in range(3)] == [[2], [1], [0, 1]]
    (tmp_path / "masks/val/b.png").unlink()
    with pytest.raises(UserError, match="images/val/b.jpg: 1 of 3 pictures have no labels; add .*masks/val/b.json"):
        data(tmp_path).source("val")


def test_polygons_in_a_zip_read_as_in_the_folder(tmp_path):
    make(tmp_path / "set")
    shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "set")
    assert torch.equal(labels(tmp_path / "mine.zip"), labels(tmp_path / "set"))


@pytest.mark.parametrize(("shapes", "message"), [
    ([SQUARE, shape("dog", SQUARE["points"])], "shape 2 has the label 'dog', which is not in classes.txt"),
    ([shape("cat", [[1, 1], [5, 5]])], r"shape 1 \(cat\): a polygon of 2 points, 3 are the least"),
    ([shape("cat", [[1, 1]], "rectangle")], r"shape 1 \(cat\): a rectangle of 1 points instead of 2"),
    ([shape("cat", [[1, 1], [5, 5]], "line")], r"shape 1 \(cat\): a line is no area; draw polygons"),
    ([shape("cat", [[1, 1], [5, "x"], [3, 3]])], r"shape 1 \(cat\): "),
    ([shape("cat", [[1, 1], [5], [3, 3]])], r"shape 1 \(cat\): "),
    ([shape("cat", [[1, 1], [1e300, 2], [3, 3]])], r"shape 1 \(cat\): coordinates far outside the picture"),
    ([shape("cat", [[1, 1], [float("nan"), 2], [3, 3]])], r"shape 1 \(cat\): coordinates far outside the picture"),
    ([shape("cat", None)], r"shape 1 \(cat\): "),
    ([{"points": [[1, 1], [5, 5], [3, 3]]}], "shape 1 has the label 'None'"),
    ([7], "shape 1 has the label None"),
    ([shape("cat", [[1, 1], [5, 5]], "mask", mask="AAAA")], r"shape 1 \(cat\): its mask: not a whole picture"),
    ([shape("cat", [[1, 1], [5, 5]], "mask")], r"shape 1 \(cat\): 'mask'"),
])
def test_a_shape_that_cannot_be_drawn_names_the_file_and_the_shape(tmp_path, shapes, message):
    with pytest.raises(UserError, match=r"masks/.\.json: " + message):
        labels(make(tmp_path, shapes))


def test_a_json_for_another_picture_or_of_another_kind_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"masks/.\.json: labels of 40x10 for a picture of 32x24"):
        labels(make(tmp_path / "size", size=(10, 40)))
    with pytest.raises(UserError, match=r"\.json: imageWidth and imageHeight are None and 24"):
        labels(make(tmp_path / "none", imageWidth=None))
    for text, message in (("{", "not readable as JSON"), ("[1]", "its JSON is no object"),
                          ("{}", "not LabelMe's JSON .*; LabelMe's or COCO's JSON is expected"),
                          ('{"images": [], "annotations": []}', "not LabelMe's JSON .*; a COCO JSON for all pictures goes to")):
        make(tmp_path / "kind")
        for name in "abcde":
            (tmp_path / "kind/masks" / f"{name}.json").write_text(text)
        with pytest.raises(UserError, match=r"masks/.\.json: " + message):
            labels(tmp_path / "kind")


# -- COCO --------------------------------------------------------------------------------------------------------------
BOXES = {                              # category, polygon
    1: [[2, 2, 22, 2, 22, 20, 2, 20]],
    2: [[6, 6, 12, 6, 12, 12, 6, 12]],
}


def coco(root, names="abcde", file="annotations.json", folder="", boxes=BOXES, classes=NAMES, below="", **more):
    """Pictures that all show the same boxes; the smaller one is written first."""
    images = [{"id": i, "file_name": f"{folder}{name}.jpg", "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names)]
    rows = [{"id": 10 * i + category, "image_id": i, "category_id": category, "iscrowd": 0, "segmentation": polygons}
            for i in range(len(names)) for category, polygons in sorted(boxes.items(), reverse=True)]
    categories = [{"id": 0, "name": "objects"}, {"id": 1, "name": "traffic  light"}, {"id": 2, "name": "cat"}]
    trees.write(root / file, {"images": images, "annotations": rows, "categories": categories} | more)
    for name in names:
        trees.picture(root / "images" / below / f"{name}.jpg")
    (root / "classes.txt").write_text(classes)
    return root


def test_smaller_things_lie_on_top_and_categories_are_found_by_name(tmp_path):
    found = labels(coco(tmp_path))
    expected = np.zeros((HEIGHT, WIDTH))
    expected[2:20, 2:22], expected[6:12, 6:12] = 2, 1
    assert np.array_equal(found, expected)


def test_a_crowd_is_ignored_and_lies_below(tmp_path):
    document = json.loads((coco(tmp_path) / "annotations.json").read_text())
    for row in document["annotations"]:
        row["iscrowd"] = int(row["category_id"] == 2)
    trees.write(tmp_path / "annotations.json", document)
    assert labels(tmp_path).unique().tolist() == [0, 2]                      # the cats lie below the lights
    for row in document["annotations"]:
        row["iscrowd"] = int(row["category_id"] == 1)
    trees.write(tmp_path / "annotations.json", document)
    assert labels(tmp_path).unique().tolist() == [0, 1, 255]


def test_pixels_of_no_annotation_are_ignored_without_a_background(tmp_path):
    assert labels(coco(tmp_path, classes="cat\ntraffic light\n")).unique().tolist() == [0, 1, 255]


def test_splits_share_a_json_or_have_their_own_and_pictures_of_one_name_are_told_apart(tmp_path):
    for split, boxes in (("train", BOXES), ("val", {1: BOXES[1]})):
        coco(tmp_path / "own", file=f"masks/{split}.json", boxes=boxes, below=split)
    assert data(tmp_path / "own").source("train").read(0)["labels"].unique().tolist() == [0, 1, 2]
    assert data(tmp_path / "own").source("val").read(0)["labels"].unique().tolist() == [0, 2]
    one = tmp_path / "one"
    for split in ("train", "val"):
        coco(one, "ab", f"{split}.json", f"/home/me/{split}/", {1: BOXES[1]} if split == "val" else BOXES, below=split)
    parts = [json.loads((one / f"{split}.json").read_text()) for split in ("train", "val")]
    images = parts[0]["images"] + [row | {"id": row["id"] + 50} for row in parts[1]["images"]]
    rows = parts[0]["annotations"] + [row | {"image_id": row["image_id"] + 50} for row in parts[1]["annotations"]]
    trees.write(one / "annotations.json", parts[0] | {"images": images, "annotations": rows})
    assert data(one).source("train").read(0)["labels"].unique().tolist() == [0, 1, 2]
    assert data(one).source("val").read(0)["labels"].unique().tolist() == [0, 2]


def test_one_json_is_drawn_into_train_and_val_as_label_pictures_are(tmp_path):
    coco(tmp_path / "coco", folder="images\\")                               # as exported on Windows
    make(tmp_path / "labelme")
    for split in ("train", "val"):
        assert data(tmp_path / "coco").source(split).names == data(tmp_path / "labelme").source(split).names


@pytest.mark.parametrize(("change", "message"), [
    ({"boxes": {1: [[2, 2, 22, 2]]}}, "a.jpg has a traffic light of fewer than 3 points"),
    ({"boxes": {1: []}}, "a.jpg has a traffic light of fewer than 3 points"),
    ({"boxes": {0: BOXES[1]}}, "category 'objects' is not in classes.txt"),
    ({"images": [{"id": 0, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}], "annotations": []},
     r"3 of 4 pictures are not in it, or more than once \(images/b.jpg\)"),
    ({"categories": None}, "no COCO JSON of instances"),
])
def test_a_coco_json_of_no_use_is_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=f"annotations.json: {message}"):
        data(coco(tmp_path, **change)).setup("fit")


def test_a_coco_json_with_another_size_or_without_pictures_is_one_line(tmp_path):
    coco(tmp_path)
    trees.picture(tmp_path / "images/a.jpg", size=(10, 12))
    sources = [data(tmp_path).source(split) for split in ("train", "val")]
    with pytest.raises(UserError, match="annotations.json: labels of 32x24 for a picture of 12x10"):
        for source in sources:
            for index in range(len(source)):
                source.read(index)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        data(tmp_path).setup("fit")
