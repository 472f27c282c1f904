"""Labels given as outlines: COCO's JSON (one for many pictures) and LabelMe's (one a picture).

COCO      {"images": [{id, file_name, height, width}], "categories": [{id, name}], "annotations": [{image_id, category_id,
          iscrowd, segmentation}]}; a segmentation is a list of polygons [x, y, x, y, ...], or run lengths {size, counts},
          counts being numbers or COCO's compressed text
LabelMe   {"shapes": [{label, points, shape_type}], "imageHeight", "imageWidth"}; polygon, rectangle, circle and mask are
          areas, lines and points are not
Pixels are drawn as pycocotools and LabelMe themselves draw them.
"""

import base64
import json
import math
import pickle
from array import array
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.errors import UserError, refuse
from datamodules.files import LABELS, PICTURES, Tree, read_labels
from datamodules.samples import ignore_of
from datamodules.sources import SceneFiles, pair_by_stem

BACKGROUND = "background"              # the class of pixels that no shape covers, where a set has one
FARTHEST = 65536                       # a coordinate beyond it is a mistake, and costs memory to draw


def read_json(tree: Tree, name: str, keep: Callable[[dict], object] | None = None) -> dict:
    """The object of a JSON file. `keep` gets every object in it, inner ones first, and returns what is kept of it."""
    try:
        document = json.loads(tree.open(name), object_hook=keep)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON ({error})", tree.where(name), "copy or export it again") from error
    if not isinstance(document, dict):
        raise UserError("its JSON is no object", tree.where(name), "LabelMe's or COCO's JSON is expected")
    return document


# -- COCO --------------------------------------------------------------------------------------------------------------
class Annotation(NamedTuple):
    """segmentation: polygons (float64 [2 n] each: x, y, x, y, ...), or run lengths {size, counts}."""

    category: int
    crowd: bool
    segmentation: list[np.ndarray] | dict


class Packed:
    """Lists by number in one block of bytes: forked workers share it, where objects would be copied as they are looked at."""

    def __init__(self, lists: Iterable[list]):
        blocks = [pickle.dumps(rows, protocol=5) for rows in lists]
        self.ends = np.cumsum([0, *map(len, blocks)])
        self.block = b"".join(blocks)

    def __getitem__(self, index: int) -> list:
        return pickle.loads(memoryview(self.block)[self.ends[index]:self.ends[index + 1]])


class CocoJson:
    """What is needed of an instances JSON, kept small. `picture` is the key under which it names a picture's file.

    ids, files, sizes (H, W): of the pictures, in the file's order. categories: {id: name}.
    """

    def __init__(self, tree: Tree, name: str, picture: str = "file_name"):
        self.where, self._picture = tree.where(name), picture
        document = read_json(tree, name, self._keep)
        for key in ("images", "annotations", "categories"):
            if not isinstance(document.get(key), list):
                raise UserError(f"no COCO JSON of instances (it has no list {key!r})", self.where, "give another file")
        for key, needed, length in (("images", picture, 4), ("annotations", "segmentation", 4), ("categories", "id, name", 2)):
            if odd := [row for row in document[key] if not (isinstance(row, tuple) and len(row) == length)]:
                raise UserError(f"one of its {key} is without {needed} ({_short(odd[0])})", self.where, "export it again")
        self.ids, self.files = [row[0] for row in document["images"]], [row[1] for row in document["images"]]
        self.sizes = np.array([row[2:] for row in document["images"]], np.int32).reshape(-1, 2)
        self.categories = dict(document["categories"])
        self._rows = Packed(self._by_picture(document["annotations"]))

    def _keep(self, entry: dict):
        """An annotation as (picture's id, category, crowd, segmentation), a picture as (id, file, height, width), a category
        as (id, name)."""
        try:
            if "segmentation" in entry:
                drawn = entry["segmentation"]
                drawn = drawn if isinstance(drawn, dict) else [array("d", polygon).tobytes() for polygon in drawn]
                return _number(entry["image_id"]), _number(entry["category_id"]), bool(entry.get("iscrowd", 0)), drawn
            if self._picture in entry:
                size = entry["height"], entry["width"]
                if not all(0 < side <= FARTHEST for side in size):
                    raise ValueError("size")
                return _number(entry["id"]), str(entry[self._picture]), *size
            if "id" in entry and "name" in entry:
                return _number(entry["id"]), " ".join(str(entry["name"]).split())
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"an odd entry ({error!r}: {_short(entry)})", self.where, "correct or export it again") from error
        return entry

    def _by_picture(self, annotations: list[tuple]) -> list[list[tuple]]:
        place, rows = {number: index for index, number in enumerate(self.ids)}, [[] for _ in self.ids]
        for picture, *rest in annotations:
            if picture not in place or rest[0] not in self.categories:
                what = f"category {rest[0]}" if picture in place else f"picture {picture}"
                raise UserError(f"an annotation of {what}, which it does not list", self.where, "export it again")
            rows[place[picture]].append(tuple(rest))
        return rows

    def places(self, pictures: list[str]) -> list[int]:
        """The entry of each picture (a path): that whose file name has the longest ending in common with it."""
        known: dict[str, list[int]] = {}
        for row, file in enumerate(self.files):
            for ending in _endings(file.replace("\\", "/")):
                known.setdefault(ending, []).append(row)
        found = [next((known[ending] for ending in _endings(picture) if ending in known), []) for picture in pictures]
        wrong = [picture for picture, rows in zip(pictures, found) if len(rows) != 1]
        if wrong:
            raise UserError(f"{len(wrong)} of {len(pictures)} pictures are not in it, or more than once ({wrong[0]})", self.where,
                            "export it with all pictures, or remove them")
        return [rows[0] for rows in found]

    def annotations(self, index: int) -> list[Annotation]:
        """Those of picture number `index`, in the file's order."""
        return [Annotation(category, crowd, drawn if isinstance(drawn, dict) else [np.frombuffer(p) for p in drawn])
                for category, crowd, drawn in self._rows[index]]

    def numbers(self, index: int) -> np.ndarray:
        """int32 [H, W]: place among `annotations(index)` of what each pixel shows, -1 none; smaller ones lie on top,
        crowds below all others."""
        from pycocotools import mask as coco_mask

        rows, (height, width) = self.annotations(index), self.sizes[index].tolist()
        runs = [self.run_lengths(row, index) for row in rows]
        areas = coco_mask.area(runs) if runs else []
        canvas = np.full((width, height), -1, np.int32)      # run lengths go down the columns
        for number in sorted(range(len(rows)), key=lambda i: (not rows[i].crowd, -int(areas[i]))):
            canvas[coco_mask.decode(runs[number]).T.view(bool)] = number
        return np.ascontiguousarray(canvas.T)

    def union(self, index: int, category: int) -> np.ndarray:
        """bool [H, W]: the pixels of any annotation of a category."""
        from pycocotools import mask as coco_mask

        runs = [self.run_lengths(row, index) for row in self.annotations(index) if row.category == category]
        if not runs:
            return np.zeros(self.sizes[index].tolist(), bool)
        return np.ascontiguousarray(coco_mask.decode(coco_mask.merge(runs)).view(bool))

    def run_lengths(self, row: Annotation, index: int) -> dict:
        """pycocotools' run lengths of an annotation of picture `index`. Polygons of fewer than 3 points cover nothing."""
        from pycocotools import mask as coco_mask

        height, width = self.sizes[index].tolist()
        try:
            if isinstance(row.segmentation, dict):
                counts = _checked_counts(row.segmentation, height, width)
                return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
            polygons = [p for p in row.segmentation if len(p) >= 6]
            if not all((np.abs(p) <= FARTHEST).all() for p in polygons):
                raise ValueError("coordinates far outside")
            if not polygons:
                return coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
            return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            what = f"a segmentation of {self.files[index]} cannot be drawn ({error})"
            raise UserError(what, self.where, "correct or export it again") from error


def _number(value) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number of a thing")
    return value


def _short(entry) -> str:
    text = json.dumps(entry, default=str)
    return text if len(text) < 60 else text[:56] + " ..."


def _endings(path: str) -> list[str]:
    """a/b/c.jpg, b/c.jpg, c.jpg"""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _checked_counts(segmentation: dict, height: int, width: int) -> list[int]:
    """Run lengths as numbers. pycocotools does not check them: pixels they do not reach would be what the memory held."""
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"run lengths of {segmentation['size']} for a picture of {[height, width]}")
    counts = segmentation["counts"]
    counts = uncompressed(counts.encode()) if isinstance(counts, str) else counts
    if not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != height * width:
        raise ValueError("run lengths that are not those of all pixels")
    return counts


def uncompressed(text: bytes) -> list[int]:
    """The run lengths of COCO's compressed form: 5 bits a character, from the fourth on the change to the last but one."""
    counts, value, shift = [], 0, 0
    for character in text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:                                    # the number's last character; its highest bit is the sign
            value -= (bits & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


class CocoFiles(SceneFiles):
    """Pictures whose labels are drawn from a CocoJson: the pairs' label file is the JSON, rows are their places in it.

    labels: {category id: label}. outside: label of pixels that no annotation covers. Crowds are ignored.
    """

    def __init__(self, tree: Tree, pairs: list[tuple[str, str]], coco: CocoJson, rows: list[int], labels: dict[int, int],
                 classes: int, outside: int):
        super().__init__(tree, pairs, classes)
        self.coco, self.rows, self.labels, self.outside = coco, rows, labels, outside

    def raw(self, index: int) -> Tensor:
        """Category ids int64 [H, W], 0 where there is none."""
        categories = [row.category for row in self.coco.annotations(self.rows[index])]
        return torch.from_numpy(np.array([*categories, 0], np.int64)[self.coco.numbers(self.rows[index])])

    def read_labels(self, index: int) -> Tensor:
        return self.settle(self.coco.numbers(self.rows[index]), index)

    def settle(self, numbers: np.ndarray, index: int) -> Tensor:
        """Numbers of annotations [H, W] -> labels."""
        ignore = ignore_of(self.classes)
        rows = self.coco.annotations(self.rows[index])
        table = [ignore if row.crowd else self.labels[row.category] for row in rows] + [self.outside]
        return torch.from_numpy(np.array(table, np.uint8 if ignore == 255 else np.int32)[numbers])


# -- LabelMe -----------------------------------------------------------------------------------------------------------
class LabelmeFiles(SceneFiles):
    """Pairs of which some label files may be LabelMe's JSON; later shapes lie on top of earlier ones."""

    def __init__(self, tree: Tree, pairs: list[tuple[str, str]], names: list[str], label_shift: int = 0,
                 white: int | None = None, palette: list[tuple[int, int, int]] | None = None):
        super().__init__(tree, pairs, len(names), label_shift, white, palette)
        self.vocabulary = names

    def raw(self, index: int) -> Tensor:
        name = self.pairs[index][1]
        if not name.endswith(".json"):
            return super().raw(index)
        return labelme_labels(read_json(self.tree, name), self.tree.where(name), self.vocabulary)

    def read_labels(self, index: int) -> Tensor:
        return self.raw(index) if self.pairs[index][1].endswith(".json") else super().read_labels(index)


def outside_label(names: list[str]) -> int:
    """The label of pixels that nothing was drawn on: the class `background` where there is one, else ignored."""
    return names.index(BACKGROUND) if BACKGROUND in names else ignore_of(len(names))


def labelme_labels(document: dict, where: str, names: list[str]) -> Tensor:
    """A LabelMe JSON as labels [H, W], in the order of `names`."""
    shapes, size = document.get("shapes"), (document.get("imageWidth"), document.get("imageHeight"))
    if not isinstance(shapes, list):
        raise UserError("not LabelMe's JSON (it has no list 'shapes')", where,
                        "a COCO JSON for all pictures goes to annotations.json, without masks/" if "annotations" in document else
                        "LabelMe's or COCO's JSON is expected")
    if not all(isinstance(side, int) and 0 < side <= FARTHEST for side in size):
        raise UserError(f"imageWidth and imageHeight are {size[0]} and {size[1]}", where, "open and save it with LabelMe")
    canvas = Image.new("I", size, outside_label(names))
    for number, shape in enumerate(shapes, 1):
        label = " ".join(str(shape.get("label")).split()) if isinstance(shape, dict) else None
        if label not in names:
            raise UserError(f"shape {number} has the label {label!r}, which is not in classes.txt", where,
                            "add it there, or correct the shape")
        try:
            _draw(canvas, shape, names.index(label))
        except (KeyError, TypeError, ValueError, OverflowError, UserError) as error:
            raise UserError(f"shape {number} ({label}): {error}", where, "correct it with LabelMe") from error
    return torch.from_numpy(np.array(canvas, np.uint8 if len(names) <= 255 else np.int32))


def _draw(canvas: Image.Image, shape: dict, value: int) -> None:
    kind, draw = shape.get("shape_type") or "polygon", ImageDraw.Draw(canvas)
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if not all(abs(v) <= FARTHEST for point in points for v in point):       # also what is no number
        raise ValueError("coordinates far outside the picture")
    if kind == "polygon":
        if len(points) < 3:
            raise ValueError(f"a polygon of {len(points)} points, 3 are the least")
        draw.polygon(points, fill=value, outline=value)
    elif kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"a {kind} is no area; draw polygons, rectangles or circles")
    elif len(points) != 2:
        raise ValueError(f"a {kind} of {len(points)} points instead of 2")
    elif kind == "circle":
        (x, y), radius = points[0], math.dist(*points)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=value, outline=value)
    else:
        (left, right), (top, bottom) = (sorted(axis) for axis in zip(*points))
        if kind == "rectangle":
            draw.rectangle([left, top, right, bottom], fill=value, outline=value)
        else:
            covered = read_labels(base64.b64decode(shape["mask"]), "its mask") > 0
            canvas.paste(value, (int(left), int(top)), Image.fromarray(covered.numpy()))


# -- folders -----------------------------------------------------------------------------------------------------------
def pair_outlines(tree: Tree, images: str, masks: str) -> list[tuple[str, str]]:
    """Each picture below `images` with the label file of its path and stem below `masks`: a label picture or, where there
    is none, a LabelMe JSON."""
    drawn, pictures = tree.list(masks, (".json",)), tree.list(images, PICTURES)
    if not drawn or not pictures:
        return pair_by_stem(tree, images, masks)
    labels = {name[len(masks):].rpartition(".")[0]: name for name in drawn + tree.list(masks, LABELS)}
    pairs = [(name, labels.get(name[len(images):].rpartition(".")[0])) for name in pictures]
    missing = [name for name, label in pairs if label is None]
    if missing:
        wanted = tree.where(f"{masks}{missing[0][len(images):].rpartition('.')[0]}.json")
        refuse(UserError(f"{len(missing)} of {len(pairs)} pictures have no labels", tree.where(missing[0]),
                         f"add {wanted}, or remove the picture"))
    return [(name, label or f"{masks}{name[len(images):].rpartition('.')[0]}.json") for name, label in pairs]


def coco_source(tree: Tree, pairs: list[tuple[str, str]], coco: CocoJson, names: list[str]) -> CocoFiles:
    """Pictures as a COCO JSON of one's own labels them: categories are found by their names in `names`."""
    rows, labels = coco.places([picture for picture, _ in pairs]), {}
    for row in rows:
        for annotation in coco.annotations(row):
            category = coco.categories[annotation.category]
            if category not in names:
                raise UserError(f"category {category!r} is not in classes.txt", coco.where, "add it there, or correct the file")
            polygons = annotation.segmentation
            if isinstance(polygons, list) and (not polygons or any(len(p) < 6 or len(p) % 2 for p in polygons)):
                what = f"{coco.files[row]} has a {category} of fewer than 3 points"
                raise UserError(what, coco.where, "correct and export it again")
            labels[annotation.category] = names.index(category)
    return CocoFiles(tree, pairs, coco, rows, labels, len(names), outside_label(names))
