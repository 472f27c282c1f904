"""Tiny trees in COCO's and LVIS's official formats: real JSON, PNG and JPEG."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
CATEGORIES = [                         # of the 133, in the official order; ids have gaps
    {"supercategory": "person", "isthing": 1, "id": 1, "name": "person"},
    {"supercategory": "indoor", "isthing": 1, "id": 90, "name": "toothbrush"},
    {"supercategory": "textile", "isthing": 0, "id": 92, "name": "banner"},
    {"supercategory": "textile", "isthing": 0, "id": 200, "name": "rug-merged"},
]
SEGMENTS = [                           # id, category, crowd, rows, columns; ids need all three channels
    (70_001, 1, 0, (0, 8), (0, 10)),
    (131, 1, 0, (0, 8), (12, 20)),
    (65_536, 1, 1, (0, 8), (22, 30)),
    (256, 90, 0, (10, 14), (4, 9)),
    (9_000_000, 200, 0, (15, 24), (0, 32)),
]
THINGS = [                             # category, polygon or columns of run lengths, crowd
    (1, [[2, 2, 22, 2, 22, 20, 2, 20]], 0),
    (18, [[6, 6, 12, 6, 12, 12, 6, 12]], 0),
    (17, [[24.5, 2, 30, 2, 30, 9.25], [24, 14, 31, 14, 31, 22, 24, 22]], 0),
]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)


def index_map(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def write(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def picture_entry(number: int, folder: str, file: str) -> dict:
    return {"id": number, "file_name": file, "height": HEIGHT, "width": WIDTH, "license": 3,
            "coco_url": f"http://images.cocodataset.org/{folder}/{file}"}


# -- panoptic ----------------------------------------------------------------------------------------------------------
def segment_ids() -> np.ndarray:
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    for number, _, _, rows, columns in SEGMENTS:
        ids[slice(*rows), slice(*columns)] = number
    return ids


def panoptic_png(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(path)


def panoptic(root: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 2) -> Path:
    """Each picture shows SEGMENTS; the rest is void."""
    ids = segment_ids()
    infos = [{"id": number, "category_id": category, "iscrowd": crowd, "area": int((ids == number).sum()),
              "bbox": [columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0]]}
             for number, category, crowd, rows, columns in SEGMENTS]
    for split in splits:
        folder, images, annotations = f"{split}2017", [], []
        for number in range(1, count + 1):
            stem = f"{number:012d}"
            picture(root / folder / f"{stem}.jpg", number)
            panoptic_png(root / "annotations" / f"panoptic_{folder}" / f"{stem}.png", ids)
            images.append(picture_entry(number, folder, f"{stem}.jpg"))
            annotations.append({"segments_info": infos, "file_name": f"{stem}.png", "image_id": number})
        document = {"info": {}, "licenses": [], "images": images, "annotations": annotations[::-1], "categories": CATEGORIES}
        write(root / "annotations" / f"panoptic_{folder}.json", document)
    return root


# -- outlines ----------------------------------------------------------------------------------------------------------
def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed form: down the columns, background first."""
    flat = mask.T.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=flat[-1] ^ 1))
    return {"size": list(mask.shape), "counts": np.diff(edges, prepend=0).tolist()}


def crowd_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[16:24, 10:28] = True
    return mask


def compressed(mask: np.ndarray) -> dict:
    from pycocotools import mask as coco_mask

    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def round_mask() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - 19) ** 2 + (columns - 4) ** 2 < 14


def annotations(image: int, first: int) -> list[dict]:
    """Polygons, one thing in two parts, compressed run lengths, and a crowd in uncompressed ones; ids count from `first`."""
    drawn = [*THINGS, (44, compressed(round_mask()), 0), (1, run_lengths(crowd_mask()), 1)]
    return [{"id": first + i, "image_id": image, "category_id": category, "iscrowd": crowd, "area": 1.0, "bbox": [0, 0, 1, 1],
             "segmentation": segmentation} for i, (category, segmentation, crowd) in enumerate(drawn)]


def instances(root: Path, folders: tuple[str, ...] = ("train2017", "val2017"), count: int = 2) -> Path:
    """The last picture of each folder shows nothing but a crowd, the others `annotations`; the first annotation has id 0."""
    from datamodules.coco import THINGS as NAMES

    categories = [{"supercategory": "", "id": number, "name": name} for number, name in NAMES.items()]
    for folder in folders:
        images, rows = [], []
        for number in range(1, count + 2):
            stem = f"{number:012d}" if folder.endswith("2017") else f"COCO_{folder}_{number:012d}"
            picture(root / folder / f"{stem}.jpg", number)
            images.append(picture_entry(number, folder, f"{stem}.jpg"))
            rows += annotations(number, len(rows)) if number <= count else annotations(number, len(rows))[-1:]
        document = {"info": {}, "licenses": [], "images": images, "annotations": rows[::2] + rows[1::2], "categories": categories}
        write(root / "annotations" / f"instances_{folder}.json", document)
    return root


def lvis(root: Path, split: str = "val") -> Path:
    """Three pictures out of both folders of COCO 2017, three categories of which one is in none."""
    images = []
    for number, folder in ((5, "train2017"), (3, "val2017"), (9, "val2017")):
        entry = picture_entry(number, folder, f"{number:012d}.jpg")
        picture(root / folder / entry.pop("file_name"), number)
        images.append(entry | {"not_exhaustive_category_ids": [], "neg_category_ids": [7]})
    shown = [(5, 3, THINGS[0][1]), (5, 3, THINGS[2][1]), (5, 1, THINGS[1][1]), (9, 3, THINGS[1][1]), (3, 3, THINGS[2][1])]
    rows = [{"id": i, "image_id": image, "category_id": category, "segmentation": polygons, "area": 1.0, "bbox": [0, 0, 1, 1]}
            for i, (image, category, polygons) in enumerate(shown, 1)]
    categories = [{"id": number, "name": name, "synset": f"{name}.n.01", "synonyms": [name], "frequency": "r", "def": "",
                   "image_count": 1, "instance_count": 1} for number, name in ((3, "aglet"), (1, "apple"), (7, "zebra"))]
    write(root / f"lvis_v1_{split}.json",
          {"info": {}, "licenses": [], "images": images, "annotations": rows, "categories": categories})
    return root
