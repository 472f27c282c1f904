"""PASCAL VOC 2012, semantic segmentation (Everingham et al., IJCV 2015; extra masks: Hariharan et al., ICCV 2011).

Size       1,464 train, 1,449 val pictures of about 500 x 375; with SBD's masks 10,582 train (trainaug), the same val
Classes    background and 20; 255 (outlines, difficult regions) is ignored. Masks are palette PNGs, value = class
Source     host.robots.ox.ac.uk/pascal/VOC/voc2012: VOCtrainval_11-May-2012.tar, 1,999,639,040 bytes (data.download=true)
Licence    annotations: free for research; the pictures are Flickr's, under its terms of use
Layout     VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation/{train,val}.txt}; data.root may be VOC2012,
           VOCdevkit or what holds it, or a .zip of any of these

`data.augmented=true` trains on SegmentationClassAug/*.png, SBD's masks in VOC's numbers. By hand: get SegmentationClassAug.zip
(the conversion DeepLab's users share; the originals are .mat files in SBD's benchmark.tgz, www.eecs.berkeley.edu/Research/
Projects/CS/vision/grouping/semantic_contours) and unpack it into VOC2012/. Its train list is ImageSets/Segmentation/
trainaug.txt or, without one, every such mask whose picture is not in val.txt. SBD's own train.txt shares pictures with VOC's
val.txt and is refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datamodules.base import say
from datamodules.errors import UserError, refuse
from datamodules.files import LABELS, PICTURES, Tree
from datamodules.paired import Layout, PairedScenes, colours_from
from datamodules.unpack import Archive, fetch

CLASSES = ["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
           "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"]
ARCHIVE = Archive("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar", 1_999_639_040,
                  "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb", "VOCdevkit/VOC2012")
WHENCE = ("unpack VOCtrainval_11-May-2012.tar (host.robots.ox.ac.uk/pascal/VOC/voc2012) there, which makes VOCdevkit/VOC2012 "
          "with JPEGImages, SegmentationClass and ImageSets/Segmentation")
AGAIN = "unpack the archive again, to its end"
PICTURE_FOLDER, MASKS, AUGMENTED, LISTS = "JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"


@dataclass(kw_only=True, eq=False, repr=False)
class VOCScenes(PairedScenes):
    """VOC 2012. augmented: train with SBD's masks. download: fetch the archive into `root` where the set is not there."""

    augmented: bool = False
    download: bool = False

    title, plain, count, colours, published = "voc", CLASSES, len(CLASSES), colours_from(0, len(CLASSES)), "pascal_voc_21"
    layouts = (Layout(PICTURE_FOLDER, MASKS, 0), Layout(PICTURE_FOLDER, AUGMENTED, 0))
    whence = f"{WHENCE}; data.download=true does it (2 GB)"
    void = drawn = True

    def prepare(self) -> None:
        if self.download and not (Path(self.root).exists() and voc_tree(self.root).has(PICTURE_FOLDER)):
            target = fetch(ARCHIVE, self.root)
            if not (target / PICTURE_FOLDER).exists():
                raise UserError(f"it has no {PICTURE_FOLDER}", target, "remove it, so that the archive is unpacked there")

    def locate(self, layout: Layout) -> Tree:
        return voc_tree(self.root)

    def pairs(self, split: str) -> list[tuple[str, str]]:
        if split == "val" or not self.augmented:
            refuse_shared(self.tree, f"{split}.txt")
            return listed_pairs(self.tree, read_list(self.tree, f"{split}.txt"), self.layout.labels)
        if not self.tree.has(AUGMENTED):
            raise UserError(f"no {AUGMENTED}", self.tree, f"unpack {AUGMENTED}.zip there (SBD's masks, see datamodules/voc.py)")
        if self.tree.has(f"{LISTS}/trainaug.txt"):
            refuse_shared(self.tree, "trainaug.txt")
            stems, rule = read_list(self.tree, "trainaug.txt"), "trainaug.txt"
        else:
            val = set(read_list(self.tree, "val.txt"))
            stems = [stem for stem in by_stem(self.tree, AUGMENTED, LABELS) if stem not in val]
            rule = f"all of {AUGMENTED} but val.txt"
        say(f"{self.tree}: {len(stems)} pictures for training ({rule})")
        return listed_pairs(self.tree, stems, AUGMENTED)


def voc_tree(root: str) -> Tree:
    """VOC2012 in whatever holds it; a VOCdevkit may hold other years as well."""
    holder = Tree(root).down(f"VOC2012/{PICTURE_FOLDER}")
    if holder.has(f"VOC2012/{PICTURE_FOLDER}"):
        return Tree(root, f"{holder.below}VOC2012/")
    tree = Tree(root).down(PICTURE_FOLDER)
    folder = Path(str(tree)).name
    if re.fullmatch(r"VOC20\d\d", folder) and folder != "VOC2012":
        raise UserError(f"this is {folder}, the set is VOC2012", tree, WHENCE)
    return tree


def read_list(tree: Tree, name: str) -> list[str]:
    """The pictures' stems that a list's lines begin with, each once."""
    path = f"{LISTS}/{name}"
    if not tree.has(path):
        raise UserError(f"no {path}", tree, WHENCE)
    stems = [PurePosixPath(line.split()[0]).stem for line in tree.text(path).splitlines() if line.strip()]
    if not stems:
        raise UserError("the list is empty", tree.where(path), AGAIN)
    return list(dict.fromkeys(stems))


def refuse_shared(tree: Tree, name: str) -> None:
    """A training list that names pictures of val.txt would train on what is judged."""
    if name == "val.txt" or not tree.has(f"{LISTS}/val.txt"):
        return
    val = set(read_list(tree, "val.txt"))
    shared = [stem for stem in read_list(tree, name) if stem in val]
    if shared:
        refuse(UserError(f"{len(shared)} of its pictures are in val.txt too ({shared[0]})", tree.where(f"{LISTS}/{name}"),
                         "take a list without them"))


def by_stem(tree: Tree, folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    return {PurePosixPath(name).stem: name for name in tree.list(folder, suffixes)}


def listed_pairs(tree: Tree, stems: list[str], masks: str) -> list[tuple[str, str]]:
    """Picture and mask of each stem; one that is not there is an error, for it is a sign of a broken copy."""
    files = [by_stem(tree, PICTURE_FOLDER, PICTURES), by_stem(tree, masks, LABELS)]
    for folder, found in zip((PICTURE_FOLDER, masks), files):
        missing = [stem for stem in stems if stem not in found]
        if missing:
            refuse(UserError(f"{len(missing)} of the {len(stems)} listed files are missing ({missing[0]})", tree.where(folder),
                             AGAIN))
    return [(files[0].get(stem, f"{PICTURE_FOLDER}/{stem}.jpg"), files[1].get(stem, f"{masks}/{stem}.png")) for stem in stems]
