"""How fast are samples made? python -m benchmarks.loading [sets] [tiles] [colour] [<set>=<root> ...] [photos=<folder>]

Seconds are those of the processor, on one thread, files being in memory: what else runs on the machine counts for little.
sets    decoding, and the whole training sample (window, resize, flip, colour), of each kind of data set
tiles   a random 1024 crop of a huge photograph from its tiles, and from the file by two ways
colour  what colour changes cost, and hue among them
Sets whose root is given (camvid, voc, ade20k, coco, fss1000) are read where they are; the others are drawn in the official
sets' sizes and layouts. photos: a folder of huge JPEGs; without it one of 4096x3072 is drawn.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import report
from datamodules import tile
from datamodules.ade20k import ADE20KScenes
from datamodules.base import AsSegments, Augmented
from datamodules.coco import CocoPanoptic
from datamodules.demo.data import DemoScenes
from datamodules.demo.landscape import landscape
from datamodules.errors import UserError, door
from datamodules.files import PICTURES
from datamodules.folder import FolderScenes
from datamodules.fss1000 import FolderEpisodes
from datamodules.mass13k import CLASSES, Mass13kScenes
from datamodules.samples import Scene
from datamodules.transforms import SceneTransform, Window, change_colours, cut_labels
from datamodules.voc import VOCScenes

PASS = 6                               # samples timed at a stretch
REPEATS = 3
QUALITY = 90                           # of the JPEGs that are drawn
DRAWN = "0"                            # name of the photograph that is drawn
Pair = tuple[np.ndarray, np.ndarray]   # picture uint8 H W 3, labels uint8 H W (0..6)


# -- sets that are drawn -----------------------------------------------------------------------------------------------
def drawn(size: tuple[int, int], count: int) -> list[Pair]:
    return [landscape(1, index, size) for index in range(count)]


def save(path: Path, array: np.ndarray, **settings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **settings)


def save_pairs(root: Path, pairs: list[Pair], images: str, masks: str) -> None:
    for i, (image, labels) in enumerate(pairs):
        save(root / images / f"{i}.jpg", image, quality=QUALITY)
        save(root / masks / f"{i}.png", labels)


def write_camvid(root: Path, pairs: list[Pair]) -> None:
    save_pairs(root, pairs, "images/val", "masks/val")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))


def write_voc(root: Path, pairs: list[Pair]) -> None:
    save_pairs(root, pairs, "JPEGImages", "SegmentationClass")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("".join(f"{i}\n" for i in range(len(pairs))))


def write_ade20k(root: Path, pairs: list[Pair]) -> None:
    one_more = [(image, labels + 1) for image, labels in pairs]
    save_pairs(root, one_more, "images/validation", "annotations/validation")


def write_coco(root: Path, pairs: list[Pair]) -> None:
    ids = [(image, np.stack([labels + 1, *np.zeros((2, *labels.shape), np.uint8)], -1)) for image, labels in pairs]
    save_pairs(root, ids, "val2017", "annotations/panoptic_val2017")
    document = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(pairs))],
        "categories": [{"id": i + 1, "name": name, "isthing": 0} for i, name in enumerate(CLASSES)],
        "annotations": [
            {"image_id": i, "file_name": f"{i}.png",
             "segments_info": [{"id": k + 1, "category_id": k + 1, "iscrowd": 0} for k in np.unique(labels).tolist()]}
            for i, (_, labels) in enumerate(pairs)
        ],
    }  # fmt: skip
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(document))


def write_fss1000(root: Path, pairs: list[Pair]) -> None:
    for i, (image, labels) in enumerate(pairs):
        mask = np.where(labels == labels[0, 0], 255, 0).astype(np.uint8)
        save(root / f"class{i % 2}/{i}.jpg", image, quality=QUALITY)
        save(root / f"class{i % 2}/{i}.png", mask)


def write_photographs(root: Path, folder: str | None) -> str:
    """MaSS13K's layout of the photographs in a folder, or of one that is drawn. Returns which."""
    if folder is None:                                       # as DRAWN
        save_pairs(root, drawn((3072, 4096), 1), "images/train", "annotations/train")
        return "drawn"
    files = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise UserError("no photographs there", f"photos={folder}", f"give a folder of {', '.join(PICTURES)}")
    (root / "images/train").mkdir(parents=True, exist_ok=True)
    for path in files:
        (root / "images/train" / path.name).write_bytes(path.read_bytes())
        grey = cv2.GaussianBlur(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (0, 0), 1.5)
        save(root / f"annotations/train/{path.stem}.png", grey // 37)       # 7 classes with the photograph's own edges
    return "real photographs, labels made of their brightness"


# -- each kind of set --------------------------------------------------------------------------------------------------
class Kind(NamedTuple):
    """A set on disk. size: H, W of what is drawn without its root."""

    title: str
    size: tuple[int, int]
    write: Callable[[Path, list[Pair]], None]
    open: Callable[[str], FolderScenes | VOCScenes | ADE20KScenes | CocoPanoptic | FolderEpisodes]


KINDS = {
    "camvid": Kind("folder, as CamVid", (360, 480), write_camvid, lambda root: FolderScenes(root=root)),
    "voc": Kind("VOC 2012", (375, 500), write_voc, lambda root: VOCScenes(root=root)),
    "ade20k": Kind("ADE20K", (512, 683), write_ade20k, lambda root: ADE20KScenes(root=root)),
    "coco": Kind("COCO panoptic", (480, 640), write_coco, lambda root: CocoPanoptic(root=root)),
    "fss1000": Kind("FSS-1000, 1-shot", (224, 224), write_fss1000, lambda root: FolderEpisodes(root=root, train_share=0.5)),
}


class Loading(NamedTuple):
    """What is timed of a set: whole samples as they lie on disk, and training samples."""

    title: str
    files: str
    size: str
    crop: str
    read: Callable[[], object]
    sample: Callable[[], object]


def timed(works: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, float]:
    """Median processor seconds of each, run in turn after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if repeat:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def passes(work: Callable[[int], object]) -> Callable[[], None]:
    """work(0), ..., work(5), then work(6), ..."""
    count = itertools.count()

    def run() -> None:
        for i in itertools.islice(count, PASS):
            work(i)

    return run


def scenes(title: str, files: str, data, split: str = "val") -> Loading:
    source = data.source(split)
    dataset = Augmented(source, data.transform, 0)
    if data.segments:
        dataset = AsSegments(dataset, data.classes, data.ignore)
    height, width = source.read(0)["size"]
    crop = "x".join(map(str, reversed(data.transform.crop)))
    return Loading(title, files, f"{width}x{height}", crop, passes(lambda i: source.read(i % len(source))),
                   passes(lambda i: dataset[i, i % len(source)]))  # fmt: skip


def episodes(title: str, files: str, data: FolderEpisodes) -> Loading:
    read, made = data.source("val"), data.training()
    height, width = read.read(0)["size"]
    return Loading(title, files, f"{width}x{height}", f"{data.size}x{data.size}", passes(lambda i: read.read(i % len(read))),
                   passes(lambda i: made[i, 0]))  # fmt: skip


def demo(family: str) -> list[Loading]:
    """Demo scenes that are drawn each time, and such that are kept."""
    anew, kept = (DemoScenes(family=family, size=256, crop=128, n_train=PASS) for _ in range(2))
    anew.source("train").kept = 0
    return [scenes(f"demo {family}", "drawn anew", anew, "train"), scenes(f"demo {family}", "kept in memory", kept, "train")]


def all_loadings(folder: Path, roots: dict[str, str]) -> list[Loading]:
    found = [*demo("landscape"), *demo("objects")]
    for name, kind in KINDS.items():
        files = "real" if name in roots else "drawn"
        if name not in roots:
            kind.write(folder / name, drawn(kind.size, PASS))
        data = kind.open(roots.get(name, str(folder / name)))
        found.append((episodes if name == "fss1000" else scenes)(kind.title, files, data))
        if name == "coco":
            data.segments = True
            found.append(scenes(f"{kind.title}, as masks", files, data))
    root = folder / "mass13k"
    files = write_photographs(root, roots.get("photos")).split(",")[0]
    found.append(scenes("MaSS13K, whole files", files, photographs(root), "train"))
    tile_all(root)
    found.append(scenes("MaSS13K, tiles", files, photographs(root), "train"))
    return found


def sets(folder: Path, roots: dict[str, str]) -> None:
    loadings = all_loadings(folder / "sets", roots)
    works = {f"{i} {what}": getattr(item, what) for i, item in enumerate(loadings) for what in ("read", "sample")}
    seconds = timed(works)
    rows = []
    for i, item in enumerate(loadings):
        read, sample = seconds[f"{i} read"] / PASS, seconds[f"{i} sample"] / PASS
        rows.append({"set": item.title, "files": item.files, "picture": item.size, "crop": item.crop,
                     "whole ms": 1e3 * read, "training sample ms": 1e3 * sample, "samples/s and core": 1 / sample})  # fmt: skip
    tell("loading", "Reading a whole scene, and making a training sample; processor time, one thread", rows)


# -- tiles -------------------------------------------------------------------------------------------------------------
CUTS = {
    "crop, scale 1": SceneTransform(1024, (1.0, 1.0), colour=0.0, cat_max_ratio=1.0),
    "crop, scale 0.5-2": SceneTransform(1024, (0.5, 2.0), colour=0.0, cat_max_ratio=1.0),
    "sample, scale 0.5-2": SceneTransform(1024, (0.5, 2.0)),                 # with colour and cat_max_ratio
}


def photographs(root: Path) -> Mass13kScenes:
    return Mass13kScenes(root=str(root), crop=1024)


def tile_all(root: Path) -> None:
    data = photographs(root)
    tile.tile_split(data.originals("train"), root, "train", "source", 0)


def resized_first(scene: Scene, transform: SceneTransform, rng: np.random.Generator) -> Scene:
    """The usual way: the whole photograph is resized by the factor, then cut."""
    factor = rng.uniform(*transform.scale)
    height, width = (round(side * factor) for side in scene["size"])
    image, labels = scene["image"], scene["labels"]
    if (height, width) != scene["size"]:
        everything = Window(0, 0, *scene["size"], (height, width), (height, width))
        image = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
        labels = cut_labels(labels, everything, transform.ignore)
    cut = SceneTransform(transform.crop, (1.0, 1.0), transform.flip, transform.colour, transform.cat_max_ratio)
    return cut(scene | {"image": image, "labels": labels}, rng)


def tiles(folder: Path, roots: dict[str, str]) -> None:
    root = folder / "photographs"
    which = write_photographs(root, roots.get("photos"))
    if which != "drawn":
        write_photographs(root, None)                        # for comparison: most cameras write baseline JPEGs, as we do
    tile_all(root)
    data, rows = photographs(root), []
    files, tiled = data.originals("train"), data.source("train")
    for index, name in enumerate(files.names):
        kind = "drawn" if name == DRAWN else name
        for what, transform in CUTS.items():
            rows.append({"photograph": kind, "JPEG": coding(files, index), "what": what,
                         **compared(photograph(files, tiled, index, transform))})  # fmt: skip
    tell("loading_tiles", "A 1024 crop of a huge photograph from its tiles, from the file, from the file resized first", rows,
         files=which)  # fmt: skip


def coding(files, index: int) -> str:
    with Image.open(files.files(index)[0]) as picture:
        return "progressive" if picture.info.get("progressive") else "baseline"


def photograph(files, tiled, index: int, transform: SceneTransform) -> dict[str, float]:
    """Seconds a crop takes by each way, the windows of the first two being the same."""
    rng = np.random.default_rng
    return {way: seconds / PASS for way, seconds in timed({
        "tiles": passes(lambda i: tiled.draw(index, transform, rng(i))),
        "file": passes(lambda i: files.draw(index, transform, rng(i))),
        "resized first": passes(lambda i: resized_first(files.read(index), transform, rng(i))),
    }).items()}  # fmt: skip


def compared(seconds: dict[str, float]) -> dict[str, float]:
    return {**{f"{way} ms": 1e3 * s for way, s in seconds.items()},
            "gain over file": seconds["file"] / seconds["tiles"],
            "gain over resized first": seconds["resized first"] / seconds["tiles"]}  # fmt: skip


# -- colour ------------------------------------------------------------------------------------------------------------
def colour(folder: Path, roots: dict[str, str]) -> None:
    from torchvision.transforms.v2 import functional as v2

    image = torch.from_numpy(landscape(1, 0, (1024, 1024))[0]).permute(2, 0, 1)

    def theirs(picture: Tensor, hue: bool) -> Tensor:
        picture = v2.adjust_saturation(v2.adjust_contrast(v2.adjust_brightness(picture, 1.1), 0.8), 1.2)
        return v2.adjust_hue(picture, 0.05) if hue else picture

    works = {
        "brightness, contrast, saturation": lambda: change_colours(image, np.random.default_rng(0), 1.0),
        "the same and hue, OpenCV": lambda: change_colours(image, np.random.default_rng(0), 1.0, hue=18),
        "brightness, contrast, saturation, torchvision": lambda: theirs(image, False),
        "the same and hue, torchvision": lambda: theirs(image, True),
        "window of 1448, resized to 1024": lambda: F.interpolate(wide[None], (1024, 1024), mode="bilinear", antialias=True),
    }
    wide = torch.from_numpy(landscape(1, 0, (1448, 1448))[0]).permute(2, 0, 1)
    rows = [{"work on a 1024 crop": name, "ms": 1e3 * s} for name, s in timed(works, 4 * REPEATS).items()]
    tell("loading_colour", "Colour changes of a 1024 crop", rows)


# -- the command -------------------------------------------------------------------------------------------------------
PARTS = {"sets": sets, "tiles": tiles, "colour": colour}


def tell(name: str, title: str, rows: list[dict], **extra) -> None:
    libraries = {package: version(package) for package in ("opencv-python-headless", "pillow")}
    report(name, title, rows, samples=PASS, repeats=REPEATS, load=os.getloadavg()[0], **libraries, **extra)


def main(arguments: list[str]) -> None:
    parts, roots = [], {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in (*KINDS, "photos"):
            roots[key] = value
        elif argument in PARTS:
            parts.append(argument)
        else:
            raise UserError("no such part or set", argument, f"parts: {', '.join(PARTS)}; roots: {', '.join(KINDS)}, photos")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        for part in parts or PARTS:
            PARTS[part](Path(folder), roots)


if __name__ == "__main__":
    door(lambda: main(sys.argv[1:]))
