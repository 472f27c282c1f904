"""FSS-1000 (Li et al., CVPR 2020), and folders of one's own laid out like it.

Size       1,000 classes of 10 pictures, 224 x 224, one object each: 520 classes train, 240 val, 240 test
Masks      black and white PNGs; grey values from 128 on are the object, as HSNet reads them (0/1 is understood too)
Source     github.com/HKUSTCV/FSS-1000, whose README links the download
Licence    not stated there
Layout     <class>/<1..10>.jpg + .png, in data.root or in data/ or FSS-1000/data/ below it; data.root may be a .zip
Lists      HSNet's fss/{trn,val,test}.txt: data.lists=<folder>, or splits/ in the tree, or downloaded (10 kB)

Class ids count through the three lists, each sorted: 0.., 520.., 760... Evaluation is HSNet's: every picture is a query once.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from datamodules.base import say
from datamodules.episodes import (
    EpisodeData,
    Names,
    ObjectPictures,
    Plan,
    find_list,
    fss_plans,
    leave_one_out_plans,
    read_lines,
)
from datamodules.errors import UserError, refuse
from datamodules.files import PICTURES, Tree, read_image, read_labels
from datamodules.pair import read_object

FILES = {"train": "fss/trn.txt", "val": "fss/val.txt", "test": "fss/test.txt"}
SUFFIXES = tuple(suffix for suffix in PICTURES if suffix != ".png")
DRAW = (0, 3, 2)                       # seeds the draw of a folder's training classes


def black_and_white(data: bytes, where: str) -> Tensor:
    """FSS-1000's masks: uint8 [H, W], 1 from grey value 128 on, or where a mask of 0 and 1 is 1."""
    raw = read_labels(data, where)
    values = raw.unique().tolist()
    if len(values) > 2 and values[-1] < 128:
        raise UserError(f"a mask of {len(values)} values up to {values[-1]}, black and white is expected", where,
                        "copy the set again")
    return (raw >= (1 if values[-1] == 1 else 128)).to(torch.uint8)


class ClassFolders(ObjectPictures):
    """Pictures named <class>/<stem>.jpg with <class>/<stem>.png beside them. read: the reader of a mask's bytes."""

    def __init__(self, tree: Tree, read):
        self.tree, self.read = tree, read

    def picture(self, name: str) -> Tensor:
        return read_image(self.tree.open(name), self.tree.where(name))

    def mask(self, name: str, class_id: int) -> Tensor:
        mask = mask_of(name)
        return self.read(self.tree.open(mask), self.tree.where(mask))


def mask_of(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".png"))


def class_folders(tree: Tree, below: str = "") -> dict[str, list[str]]:
    """The pictures of each folder that holds some, in the order of their numbers; each must have its mask."""
    files = tree.list(below)
    known = set(files)
    folders: dict[str, list[str]] = {}
    for name in files:
        folder, _, file = name.rpartition("/")
        if folder and file.lower().endswith(SUFFIXES):
            if mask_of(name) not in known:
                refuse(UserError("a picture without a mask", tree.where(name), f"add {tree.where(mask_of(name))}"))
            folders.setdefault(folder, []).append(name)
    return {folder: sorted(names, key=_number) for folder, names in folders.items()}


def _number(name: str) -> tuple:
    stem = PurePosixPath(name).stem
    return (0, int(stem), stem) if stem.isdecimal() else (1, 0, stem)


def in_words(folder: str) -> str:
    """eiffel_tower -> eiffel tower."""
    return PurePosixPath(folder).name.replace("_", " ")


@dataclass(kw_only=True, eq=False, repr=False)
class FSS1000(EpisodeData):
    """FSS-1000 below `root`. lists: local folder of HSNet's list files."""

    root: str
    lists: str | None = None

    def __post_init__(self):
        tree = Tree(self.root)
        self.folders = {split: sorted(read_lines(find_list(file, self.lists, tree.down("splits"))))
                        for split, file in FILES.items()}
        self.name = f"fss1000_{self.shots}shot"
        self.classes = [in_words(folder) for split in FILES for folder in self.folders[split]]
        super().__post_init__()
        self.tree = tree.down(self.folders["test"][0])
        self._names: dict[str, Names] = {}

    def names_by_class(self, split: str) -> Names:
        if split not in self._names:
            first = sum(len(self.folders[earlier]) for earlier in list(FILES)[:list(FILES).index(split)])
            found = {folder: class_folders(self.tree, folder).get(folder) for folder in self.folders[split]}
            missing = [folder for folder, names in found.items() if not names]
            if missing:
                raise UserError(f"{len(missing)} of {len(found)} classes of {split} have no pictures ({missing[0]})", self.tree,
                                "set data.root to the extracted download (github.com/HKUSTCV/FSS-1000)")
            self._names[split] = {first + place: names for place, names in enumerate(found.values())}
        return self._names[split]

    def make_plans(self, split: str) -> list[Plan]:
        return fss_plans(self.names_by_class(split), self.shots, self.rng())[:self.episodes]

    def pictures(self, split: str) -> ClassFolders:
        return ClassFolders(self.tree, black_and_white)


@dataclass(kw_only=True, eq=False, repr=False)
class FolderEpisodes(EpisodeData):
    """A folder or .zip of one's own: <class>/<any>.jpg (or .webp, .bmp, .tif) with <class>/<the same>.png, masks of two values.

    Every picture of the classes in evaluation is a query once, its supports being drawn from the others, all different.
    train_share: share of the classes (drawn, alike for every seed) that is for training only; 0: all are for evaluation.
    """

    root: str
    train_share: float = 0.0

    def __post_init__(self):
        if not 0 <= self.train_share < 1:
            raise UserError(f"{self.train_share} is no share", "data.train_share", "give 0.5 for half of the classes")
        self.tree = Tree(self.root)
        folders = class_folders(self.tree)
        if not folders:
            raise UserError("no class folders with pictures", self.tree, "put <class>/<n>.jpg and <class>/<n>.png there")
        self.folders = [folders[folder] for folder in sorted(folders)]
        self.classes = [in_words(folder) for folder in sorted(folders)]
        if len(set(self.classes)) < len(self.classes):
            twice = next(word for word in self.classes if self.classes.count(word) > 1)
            raise UserError(f"two folders are called {twice!r}", self.tree, "set data.root to the folder right above the classes")
        self.name = f"{self.tree.root.resolve().stem}_{self.shots}shot"
        super().__post_init__()
        order = np.random.default_rng(DRAW).permutation(len(folders)).tolist()
        self.trained = order[:round(self.train_share * len(folders))]
        if len(self.trained) == len(folders):
            raise UserError(f"{len(folders)} classes, none of them left for evaluation", "data.train_share", "lower it")
        if self.trained:
            words = ", ".join(self.classes[i] for i in sorted(self.trained))
            say(f"{self.tree}: {len(self.trained)} of {len(folders)} classes are for training: {words}")

    def names_by_class(self, split: str) -> Names:
        if split == "train" and not self.trained:
            raise UserError("all classes are for evaluation", "data.train_share", "give a share for training, e.g. 0.5")
        return {i: names for i, names in enumerate(self.folders) if (i in self.trained) == (split == "train")}

    def make_plans(self, split: str) -> list[Plan]:
        return leave_one_out_plans(self.names_by_class(split), self.shots, self.rng())[:self.episodes]

    def pictures(self, split: str) -> ClassFolders:
        return ClassFolders(self.tree, read_object)
