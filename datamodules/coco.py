"""COCO: photographs of everyday scenes (Lin et al., ECCV 2014), labelled in four ways.

Sets       CocoPanoptic   133 classes, every pixel a segment: 80 kinds of things, 53 of stuff (Kirillov et al., CVPR 2019)
           CocoStuff      171 classes: 80 things, 91 stuff (COCO-Stuff 164K, Caesar et al., CVPR 2018)
           CocoObjects    81 classes: background and the 80 things
           CocoInstances  80 classes, things one by one; the rest is ignored (for segments=true)
           ObjectMasks    what episodes read: maps of the 80 things by a picture's name
Size       2017: 118,287 train, 5,000 val; 2014 (objects, instances): 82,783 train, 40,504 val; test has no public labels
Source     images.cocodataset.org/zips/{train,val}2017.zip, .../annotations/annotations_trainval2017.zip and
           panoptic_annotations_trainval2017.zip (also 2014); stuff maps: stuffthingmaps_trainval2017.zip, linked from
           github.com/nightrome/cocostuff
Licence    annotations CC BY 4.0; the photographs are Flickr's, each with its own
Layout     {train,val}2017/*.jpg                       the photographs; 2014: {train,val}2014/COCO_{train,val}2014_*.jpg
           annotations/panoptic_{train,val}2017.json   with panoptic_{train,val}2017/*.png, id = R + 256 G + 65536 B
           stuffthingmaps/{train,val}2017/*.png        COCO id - 1 (0..181 with gaps), 255 unlabelled
           annotations/instances_{train,val}2017.json  outlines of the things
           masks/*.png                                 UniMatch's index maps, 0 background, 1..80
           annotations/{train,val}2014/*.png           HSNet's, the same

Panoptic labels follow Mask2Former and FC-CLIP: a crowd's pixels keep their class, but a crowd is no segment to be learned;
id 0 is ignored. Index maps of the things are read where they are, and drawn from the outlines where not; the rule for
those is ours: smaller things lie on top, crowds are ignored (255). JSON files are read whole once, at the start.
"""

import json
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from datamodules.base import SceneData, say
from datamodules.errors import UserError, refuse
from datamodules.files import PICTURES, Tree, read_image, read_labels
from datamodules.polygons import CocoFiles, CocoJson, read_json
from datamodules.samples import Scene, default_palette, ignore_of
from datamodules.sources import SceneFiles, settle_labels
from datamodules.vocabulary import names_of

THINGS = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe", 27: "backpack",
    28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball",
    38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket",
    44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza", 60: "donut", 61: "cake",
    62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet", 72: "tv", 73: "laptop",
    74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink",
    82: "refrigerator", 84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier",
    90: "toothbrush",
}
STUFF = {
    92: "banner", 93: "blanket", 94: "branch", 95: "bridge", 96: "building-other", 97: "bush", 98: "cabinet", 99: "cage",
    100: "cardboard", 101: "carpet", 102: "ceiling-other", 103: "ceiling-tile", 104: "cloth", 105: "clothes", 106: "clouds",
    107: "counter", 108: "cupboard", 109: "curtain", 110: "desk-stuff", 111: "dirt", 112: "door-stuff", 113: "fence",
    114: "floor-marble", 115: "floor-other", 116: "floor-stone", 117: "floor-tile", 118: "floor-wood", 119: "flower",
    120: "fog", 121: "food-other", 122: "fruit", 123: "furniture-other", 124: "grass", 125: "gravel", 126: "ground-other",
    127: "hill", 128: "house", 129: "leaves", 130: "light", 131: "mat", 132: "metal", 133: "mirror-stuff", 134: "moss",
    135: "mountain", 136: "mud", 137: "napkin", 138: "net", 139: "paper", 140: "pavement", 141: "pillow", 142: "plant-other",
    143: "plastic", 144: "platform", 145: "playingfield", 146: "railing", 147: "railroad", 148: "river", 149: "road",
    150: "rock", 151: "roof", 152: "rug", 153: "salad", 154: "sand", 155: "sea", 156: "shelf", 157: "sky-other",
    158: "skyscraper", 159: "snow", 160: "solid-other", 161: "stairs", 162: "stone", 163: "straw", 164: "structural-other",
    165: "table", 166: "tent", 167: "textile-other", 168: "towel", 169: "tree", 170: "vegetable", 171: "wall-brick",
    172: "wall-concrete", 173: "wall-other", 174: "wall-panel", 175: "wall-stone", 176: "wall-tile", 177: "wall-wood",
    178: "water-other", 179: "waterdrops", 180: "window-blind", 181: "window-other", 182: "wood",
}
BACKGROUND = "background"
COLOURS = "annotations/panoptic_coco_categories.json"
NO_CLASS = 254
STUFF_LABELS = np.full(256, NO_CLASS, np.uint8)              # by a map's value, COCO id - 1
STUFF_LABELS[[number - 1 for number in (*THINGS, *STUFF)]] = range(len(THINGS) + len(STUFF))
STUFF_LABELS[255] = 255


def folder_of(split: str, year: int = 2017) -> str:
    """train2017, val2017, train2014 or val2014."""
    if split not in ("train", "val"):
        raise UserError(f"COCO has no public labels of {split}", mend="evaluate with split=val")
    if year not in (2014, 2017):
        raise UserError(f"no COCO of {year}", "data.year", "give 2017 or 2014")
    return f"{split}{year}"


def expect(tree: Tree, folder: str, names: list[str]) -> None:
    """Refuses a set of which files are missing."""
    here = set(tree.list(folder))
    missing = [name for name in names if name not in here]
    if missing:
        refuse(UserError(f"missing ({len(missing)} of the {len(names)} files of {folder})", tree.where(missing[0]),
                         "download and extract the archive again (datamodules/coco.py has the addresses)"))


def pair_maps(tree: Tree, folder: str, maps: str) -> list[tuple[str, str]]:
    """The pictures in `folder` with the label maps of their stems below `maps`; says how many have none."""
    pictures = tree.list(folder, PICTURES)
    if not pictures:
        raise UserError("no pictures", tree.where(folder), f"extract {folder}.zip there, or set data.root")
    stems = {stem_of(name): name for name in tree.list(maps, (".png",))}
    pairs = [(name, stems[stem_of(name)]) for name in pictures if stem_of(name) in stems]
    if pairs and len(pairs) < len(pictures):
        without = len(pictures) - len(pairs)
        say(f"{tree.where(folder)}: {without} of {len(pictures)} pictures have no map in {maps} and are left out")
    return pairs


def stem_of(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def with_instances(files: SceneFiles, index: int, labels: Tensor, instances: Tensor) -> Scene:
    """The scene `index` with these labels and numbers of segments [H, W]."""
    image = files.picture(index)
    size = tuple(image.shape[-2:])
    if tuple(labels.shape) != size:
        raise UserError(f"labels of {labels.shape[1]}x{labels.shape[0]} for a picture of {size[1]}x{size[0]}",
                        files.files(index)[1], "download the picture and its labels again")
    return {"image": image, "labels": labels, "instances": instances, "name": files.names[index], "size": size}


# -- panoptic ----------------------------------------------------------------------------------------------------------
class PanopticJson:
    """What is needed of a panoptic JSON, kept small.

    pictures, maps: file names. segments(index): int64 [N, 3], each (id, category, crowd). categories: {id: name}, ascending.
    colours: {id: (r, g, b)} where it has them.
    """

    def __init__(self, tree: Tree, name: str):
        self.where = tree.where(name)
        try:
            document = read_json(tree, name, self._keep)
            files = {row["id"]: row["file_name"] for row in document["images"]}
            rows = [(files[picture], file, segments) for picture, file, segments in document["annotations"]]
            self.categories = dict(sorted((row["id"], row["name"]) for row in document["categories"]))
            self.colours = colours_of(document["categories"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"not a whole panoptic JSON ({error!r})", self.where, "download it again") from error
        self.pictures, self.maps = [row[0] for row in rows], [row[1] for row in rows]
        self._ends = np.cumsum([0, *(len(row[2]) for row in rows)])
        self._segments = np.concatenate([np.zeros((0, 3), np.int64), *(row[2] for row in rows)])
        unknown = np.setdiff1d(self._segments[:, 1], list(self.categories))
        if len(unknown):
            raise UserError(f"a segment of category {unknown[0]}, which it does not list", self.where, "download it again")

    @staticmethod
    def _keep(entry: dict):
        """A segment as (id, category, crowd), a picture's annotation as (picture's id, file, segments)."""
        if "segments_info" in entry:
            return entry["image_id"], entry["file_name"], np.array(entry["segments_info"], np.int64).reshape(-1, 3)
        if "category_id" in entry:
            return entry["id"], entry["category_id"], entry.get("iscrowd", 0)
        return entry

    def segments(self, index: int) -> np.ndarray:
        return self._segments[self._ends[index]:self._ends[index + 1]]


def colours_of(categories: list[dict]) -> dict[int, tuple[int, int, int]]:
    return {row["id"]: tuple(row["color"]) for row in categories if "color" in row}


class PanopticFiles(SceneFiles):
    """Pictures with panoptic PNGs, in the order of the JSON that explains them."""

    def __init__(self, tree: Tree, pairs: list[tuple[str, str]], panoptic: PanopticJson):
        super().__init__(tree, pairs, len(panoptic.categories))
        self.panoptic, self.ids = panoptic, np.array(list(panoptic.categories))

    def raw(self, index: int) -> Tensor:
        """Ids of segments, int32 [H, W]."""
        return torch.from_numpy((self._codes(index) & 0xFFFFFF).astype(np.int32))

    def read(self, index: int) -> Scene:
        return with_instances(self, index, *self.decode(index))

    def read_labels(self, index: int) -> Tensor:
        return self.decode(index)[0]

    def decode(self, index: int) -> tuple[Tensor, Tensor]:
        """Labels, and numbers of segments (-1 for void and crowds) [H, W]."""
        codes, segments, ignore = self._codes(index), self.panoptic.segments(index), ignore_of(self.classes)
        flat = codes.ravel()
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])     # of runs: many pixels, few runs
        known = np.concatenate([[0], segments[:, 0]])                                 # 0 is void
        order = np.argsort(known, kind="stable")
        runs = flat[starts] & 0xFFFFFF
        at = order[np.searchsorted(known, runs, sorter=order).clip(max=len(known) - 1)]
        self._agree(index, known, runs, at)
        labels = np.append(ignore, np.searchsorted(self.ids, segments[:, 1])).astype(np.uint8 if ignore == 255 else np.int32)
        numbers = np.append(-1, np.where(segments[:, 2], -1, np.arange(len(segments)))).astype(np.int32)
        lengths = np.diff(starts, append=flat.size)
        return tuple(torch.from_numpy(np.repeat(row[at], lengths).reshape(codes.shape)) for row in (labels, numbers))

    def _codes(self, index: int) -> np.ndarray:
        """uint32 [H, W], the id in the lower 24 bits."""
        picture = read_image(self.tree.open(self.pairs[index][1]), self.files(index)[1])
        rgb = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA).view("<u4")[..., 0]

    def _agree(self, index: int, known: np.ndarray, runs: np.ndarray, at: np.ndarray) -> None:
        strange = runs[known[at] != runs]
        if len(strange):
            raise UserError(f"has segment {strange[0]}, which {self.panoptic.where} does not list", self.files(index)[1],
                            "download both again")
        absent = np.bincount(at, minlength=len(known))[1:] == 0
        if absent.any():
            raise UserError(f"lacks segment {known[1:][absent][0]}, which {self.panoptic.where} lists", self.files(index)[1],
                            "download both again")


@dataclass(kw_only=True, eq=False, repr=False)
class CocoPanoptic(SceneData):
    """COCO 2017's panoptic labels below `root`; classes and colours are those of its JSON files. vocabulary: names with
    synonyms, `published` or a file (vocabulary.py)."""

    root: str
    vocabulary: str | None = None

    def __post_init__(self):
        self.name, self.tree = "coco_panoptic", Tree(self.root).down("annotations")
        self._read: dict[str, PanopticJson] = {}
        first = self.panoptic("val" if self.tree.has(self.json("val")) else "train")     # val's is the small one
        self.categories, plain = first.categories, list(first.categories.values())
        self.synonyms = names_of(self.vocabulary, "coco_panoptic", plain, len(plain), self.lists)
        self.classes = [names[0] for names in self.synonyms]
        colours = self.listed_colours() if self.tree.has(COLOURS) else first.colours
        default = default_palette(len(self.classes))
        self.palette = [colours.get(number, colour) for number, colour in zip(first.categories, default)]
        super().__post_init__()
        if self.mapping:
            self.synonyms = [[name] for name in self.classes]

    @staticmethod
    def json(split: str) -> str:
        return f"annotations/panoptic_{folder_of(split)}.json"

    def panoptic(self, split: str) -> PanopticJson:
        if split not in self._read:
            if not self.tree.has(self.json(split)):
                raise UserError(f"no {self.json(split)}", self.tree, "set data.root (datamodules/coco.py has the tree)")
            self._read[split] = PanopticJson(self.tree, self.json(split))
        return self._read[split]

    def listed_colours(self) -> dict[int, tuple[int, int, int]]:
        """Those of panopticapi's file of categories."""
        try:
            return colours_of(json.loads(self.tree.text(COLOURS)))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"not a list of categories ({error!r})", self.tree.where(COLOURS), "download it again") from error

    def make_source(self, split: str) -> PanopticFiles:
        panoptic, folder = self.panoptic(split), folder_of(split)
        if panoptic.categories != self.categories:
            raise UserError("other categories than the other split's", panoptic.where, "download both again")
        maps = self.json(split).removesuffix(".json")
        pairs = [(f"{folder}/{picture}", f"{maps}/{file}") for picture, file in zip(panoptic.pictures, panoptic.maps)]
        expect(self.tree, folder, [picture for picture, _ in pairs])
        expect(self.tree, maps, [file for _, file in pairs])
        return PanopticFiles(self.tree, pairs, panoptic)


# -- stuff -------------------------------------------------------------------------------------------------------------
class StuffFiles(SceneFiles):
    """Pictures with stuff and thing maps: COCO id - 1, which has gaps."""

    def read_labels(self, index: int) -> Tensor:
        raw = self.raw(index).numpy()
        labels = cv2.LUT(raw, STUFF_LABELS) if raw.dtype == np.uint8 else np.full(raw.shape, NO_CLASS)
        if (labels == NO_CLASS).any():
            raise UserError(f"value {raw[labels == NO_CLASS][0]} is none of COCO-Stuff's (COCO id - 1)", self.files(index)[1],
                            "give the stuffthingmaps as they are downloaded")
        return torch.from_numpy(labels)


@dataclass(kw_only=True, eq=False, repr=False)
class CocoStuff(SceneData):
    """COCO-Stuff 164K below `root`: 80 things, then 91 kinds of stuff, in the order of their ids. vocabulary: names with
    synonyms, `published` or a file (vocabulary.py)."""

    root: str
    vocabulary: str | None = None

    def __post_init__(self):
        self.name, self.tree = "coco_stuff", Tree(self.root).down("stuffthingmaps")
        plain = [*THINGS.values(), *STUFF.values()]
        self.synonyms = names_of(self.vocabulary, "coco_stuff", plain, len(plain), self.lists)
        self.classes, self.palette = [names[0] for names in self.synonyms], default_palette(len(plain))
        super().__post_init__()
        if self.mapping:
            self.synonyms = [[name] for name in self.classes]

    def make_source(self, split: str) -> StuffFiles:
        folder = folder_of(split)
        pairs = pair_maps(self.tree, folder, f"stuffthingmaps/{folder}")
        if not pairs:
            raise UserError(f"no maps of the pictures of {folder}", self.tree.where(f"stuffthingmaps/{folder}"),
                            "extract stuffthingmaps_trainval2017.zip in stuffthingmaps/")
        return StuffFiles(self.tree, pairs, self.source_classes)


# -- things ------------------------------------------------------------------------------------------------------------
def things_tree(root: str) -> Tree:
    tree = Tree(root).down("annotations")
    return tree if tree.has("annotations") else tree.down("masks")


def read_things(tree: Tree, folder: str) -> CocoJson:
    """The outlines of the things in train2017, val2014, ..."""
    name = f"annotations/instances_{folder}.json"
    if not tree.has(name):
        raise UserError(f"no {name}", tree, "set data.root and the year (datamodules/coco.py has the tree)")
    coco = CocoJson(tree, name)
    if strange := set(coco.categories) - set(THINGS):
        raise UserError(f"category {min(strange)} is none of COCO's 80 things", coco.where,
                        "use data=folder for a JSON with categories of your own")
    return coco


def drawn_things(tree: Tree, folder: str) -> CocoFiles:
    """Maps of the things drawn from their outlines: 0 background, then 1..80."""
    coco = read_things(tree, folder)
    pairs = [(f"{folder}/{file}", f"annotations/instances_{folder}.json") for file in coco.files]
    labels = {number: label for label, number in enumerate(THINGS, 1)}
    return CocoFiles(tree, pairs, coco, list(range(len(pairs))), labels, len(THINGS) + 1, outside=0)


@dataclass(kw_only=True, eq=False, repr=False)
class CocoObjects(SceneData):
    """COCO's things as one index map a picture, background being a class: UniMatch's or HSNet's maps where there are any,
    else drawn. year: 2017 or 2014."""

    root: str
    year: int = 2017

    def __post_init__(self):
        self.name, self.tree = "coco_objects", things_tree(self.root)
        self.classes = [BACKGROUND, *THINGS.values()]
        self.palette = default_palette(len(self.classes))
        self._drawn: dict[str, CocoFiles] = {}
        super().__post_init__()

    def make_source(self, split: str) -> SceneFiles:
        folder = folder_of(split, self.year)
        for maps in ("masks", f"annotations/{folder}"):
            if self.tree.has(maps) and (pairs := pair_maps(self.tree, folder, maps)):
                return SceneFiles(self.tree, pairs, self.source_classes)
        if folder not in self._drawn:
            drawn = drawn_things(self.tree, folder)
            expect(self.tree, folder, [picture for picture, _ in drawn.pairs])
            say(f"{drawn.coco.where}: object masks are drawn from it (smaller things on top, crowds ignored)")
            self._drawn[folder] = drawn
        return self._drawn[folder]


class InstanceFiles(CocoFiles):
    """Pictures with their things one by one."""

    def read(self, index: int) -> Scene:
        row = self.rows[index]
        numbers = self.coco.numbers(row)
        single = [-1 if thing.crowd else number for number, thing in enumerate(self.coco.annotations(row))] + [-1]
        instances = torch.from_numpy(np.array(single, np.int32)[numbers])
        return with_instances(self, index, self.settle(numbers, index), instances)


@dataclass(kw_only=True, eq=False, repr=False)
class CocoInstances(SceneData):
    """COCO's things one by one. Where they overlap the smaller one is seen; crowds and all else are ignored. Training leaves
    out pictures without a thing, as detectron2 does. year: 2017 or 2014."""

    root: str
    year: int = 2017

    def __post_init__(self):
        self.name, self.tree = "coco_instances", Tree(self.root).down("annotations")
        self.classes, self.palette = list(THINGS.values()), default_palette(len(THINGS))
        self._read: dict[str, CocoJson] = {}
        super().__post_init__()

    def make_source(self, split: str) -> InstanceFiles:
        folder = folder_of(split, self.year)
        if folder not in self._read:
            self._read[folder] = read_things(self.tree, folder)
        coco = self._read[folder]
        rows = list(range(len(coco.files)))
        if split == "train":
            rows = [row for row in rows if not all(thing.crowd for thing in coco.annotations(row))]
        pairs = [(f"{folder}/{coco.files[row]}", f"annotations/instances_{folder}.json") for row in rows]
        expect(self.tree, folder, [picture for picture, _ in pairs])
        labels = {number: label for label, number in enumerate(THINGS)}
        return InstanceFiles(self.tree, pairs, coco, rows, labels, len(THINGS), outside=255)


class ObjectMasks:
    """Index maps of the 80 things by a picture's name, such as val2014/COCO_val2014_000000429717.jpg, for episodes.

    They are HSNet's PNGs in annotations/<folder>/ where that is there, else drawn from annotations/instances_<folder>.json.
    """

    def __init__(self, tree: Tree):
        self.tree = tree.down("annotations")
        self._drawn: dict[str, tuple[CocoFiles, dict[str, int]]] = {}

    def prepare(self, folder: str) -> None:
        """Reads what the pictures of a folder (val2014) need. Workers that are started after it share it."""
        if folder in self._drawn or self.tree.has(f"annotations/{folder}"):
            return
        files = drawn_things(self.tree, folder)
        self._drawn[folder] = files, {picture: index for index, (picture, _) in enumerate(files.pairs)}

    def read(self, name: str) -> Tensor:
        """uint8 [H, W]: class 0..79 + 1, 0 background; in drawn maps 255 where there is a crowd."""
        folder = name.rpartition("/")[0]
        self.prepare(folder)
        if folder in self._drawn:
            files, place = self._drawn[folder]
            if name not in place:
                raise UserError(f"{name} is not in it", files.coco.where, "correct the list of episodes")
            return files.read_labels(place[name])
        map = f"annotations/{folder}/{stem_of(name)}.png"
        return settle_labels(read_labels(self.tree.open(map), self.tree.where(map)), len(THINGS) + 1, self.tree.where(map))

    def picture(self, name: str) -> Tensor:
        """uint8 [3, H, W]."""
        return read_image(self.tree.open(name), self.tree.where(name))
