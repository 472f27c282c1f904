"""Tiny trees of the semantic sets in their official layouts. Masks are made so that what a real set always holds, they hold."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.samples import default_palette

SIZE = (16, 24)


def put(path: Path, array: np.ndarray, palette: bool = False) -> None:
    """A picture or mask; uint16 as 16 bit, with `palette` in VOC's 256 colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette:
        picture.putpalette(np.array(default_palette(256), np.uint8).tobytes())
    picture.save(path)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def blocks(values: list[int], kind: type = np.uint8) -> np.ndarray:
    """A mask of upright stripes with these values."""
    row = np.array(values, kind)[np.arange(SIZE[1]) * len(values) // SIZE[1]]
    return np.tile(row, (SIZE[0], 1))


def make_voc(folder: Path, train: int = 5, val: int = 4, augmented: int = 0, years: str = "2008") -> Path:
    """VOC2012 as published, at `folder`; `augmented` more masks in SegmentationClassAug, beside those of train and val.

    Each mask has background, a class and the outline's 255; mask i of train has class i + 1, the first of val has 20.
    """
    stems = {"train": [f"{years}_{i:06}" for i in range(train)], "val": [f"{years}_{100 + i:06}" for i in range(val)]}
    for split, names in stems.items():
        for i, stem in enumerate(names):
            mask = blocks([0, 255, i % 20 + 1 if split == "train" else 20 - i, 255, 0])
            put(folder / "JPEGImages" / f"{stem}.jpg", picture(i))
            put(folder / "SegmentationClass" / f"{stem}.png", mask, palette=True)
            if augmented:
                put(folder / "SegmentationClassAug" / f"{stem}.png", mask)
        write_list(folder, split, names)
    for i in range(augmented):
        put(folder / "JPEGImages" / f"{years}_{200 + i:06}.jpg", picture(i))
        put(folder / "SegmentationClassAug" / f"{years}_{200 + i:06}.png", blocks([0, 3, 0]))
    return folder


def write_list(folder: Path, name: str, stems: list[str]) -> None:
    path = folder / "ImageSets" / "Segmentation" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(stems))                        # as published lists often are: no newline at the end


def make_pairs(folder: Path, images: str, labels: str, masks: list[np.ndarray], suffix: str = "png") -> Path:
    """`masks` as training and as validation in two folders that mirror each other."""
    for split in ("training", "validation"):
        for i, mask in enumerate(masks):
            put(folder / images / split / f"{split[:5]}_{i:08}.jpg", picture(i))
            put(folder / labels / split / f"{split[:5]}_{i:08}.{suffix}", mask)
    return folder


def make_ade(folder: Path, subtracted: int = 0, labels: str = "annotations", count: int = 6) -> Path:
    """ADEChallengeData2016: 0 (unlabelled), wall and two others a mask; `subtracted` from it in 8 bit, as converters do."""
    masks = [blocks([0, 1, 2 + i, 40 + i]) - np.uint8(subtracted) for i in range(count)]
    return make_pairs(folder, "images", labels, masks)


def make_ade_full(folder: Path, images: str = "images_detectron2", labels: str = "annotations_detectron2") -> Path:
    """ADE20K_2021_17_01 as the converters make it: 0..846, 65535."""
    return make_pairs(folder, images, labels, [blocks([0, 255, 256 + i, 846, 65535], np.uint16) for i in range(3)], "tif")


def make_context(folder: Path) -> Path:
    """pascal_ctx_d2 with both sets of labels."""
    make_pairs(folder, "images", "annotations_ctx459", [blocks([1 + i, 255, 458, 65535], np.uint16) for i in range(4)], "tif")
    return make_pairs(folder, "images", "annotations_ctx59", [blocks([1 + i, 58, 255]) for i in range(4)])


def make_pascal_voc(folder: Path) -> Path:
    """pascal_voc_d2 with both sets of labels."""
    with_background = [blocks([0, 255, 1 + i]) for i in range(4)]
    make_pairs(folder, "images", "annotations_pascal21", with_background)
    return make_pairs(folder, "images", "annotations_pascal20", [blocks([255, 255, i]) for i in range(4)])
