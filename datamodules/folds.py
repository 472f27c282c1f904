"""Few-shot benchmarks whose classes are cut into folds: one fold's classes are tested, training sees the others.

PASCAL-5i   20 classes, fold f = 5f..5f+4. Pictures and masks of VOC 2012 (datamodules/voc.py) with SegmentationClassAug, which
            HSNet reads throughout; a mask that is not there is taken from SegmentationClass. 255 is ignored in queries, and
            background in supports. 1,000 episodes
COCO-20i    80 classes, fold f = f, f + 4, f + 8, ... Pictures of COCO **2014**, training train2014, test val2014; masks
            annotations/{train,val}2014/*.png (HSNet's), or drawn from the outlines (datamodules/coco.py). 1,000 episodes
LVIS-92i    10 folds of the classes of LVIS v1 val with more pictures than shots: so the classes depend on the shots, and a
            model is to be trained and tested with the same data.shots. The benchmark's class order lies in a pickle that is not
            public; ours is by category id, so **figures are not comparable with published ones**. 2,300 episodes
Lists       of the first two: HSNet's (episodes.py, find_list). Those of COCO's training take 16 MB
Validation  is the test, as the published protocols have it; data.val_episodes shortens it while training
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.coco import THINGS, ObjectMasks
from datamodules.episodes import (
    IGNORE,
    EpisodeData,
    Names,
    ObjectPictures,
    Plan,
    by_class,
    coco_plans,
    find_list,
    lvis_plans,
    pascal_plans,
    read_lines,
    refuse_fold,
)
from datamodules.errors import UserError
from datamodules.files import Tree, load_plain_pickle, read_image, read_labels
from datamodules.lvis import Lvis
from datamodules.samples import default_palette
from datamodules.voc import AUGMENTED, MASKS, PICTURE_FOLDER, voc_tree
from datamodules.voc import CLASSES as VOC_CLASSES

COCO_CLASSES = list(THINGS.values())


def of_class(labels: Tensor, class_id: int) -> Tensor:
    """A label map (0 background, class id + 1, 255) -> 0, 1 and 255 [H, W] uint8."""
    mask = (labels == class_id + 1).to(torch.uint8)
    mask[labels == IGNORE] = IGNORE
    return mask


# -- PASCAL-5i ---------------------------------------------------------------------------------------------------------
class VOCPictures(ObjectPictures):
    """Pictures by VOC's stems."""

    def __init__(self, tree: Tree):
        self.tree, self.palette = tree, default_palette(len(VOC_CLASSES))

    def picture(self, name: str) -> Tensor:
        file = f"{PICTURE_FOLDER}/{name}.jpg"
        return read_image(self.tree.open(file), self.tree.where(file))

    def mask(self, name: str, class_id: int) -> Tensor:
        files = [f"{folder}/{name}.png" for folder in (AUGMENTED, MASKS)]
        file = next((file for file in files if self.tree.has(file)), None)
        if file is None:
            raise UserError("no mask", self.tree.where(files[0]), f"unpack {AUGMENTED}.zip (SBD's masks, see datamodules/voc.py)")
        return of_class(read_labels(self.tree.open(file), self.tree.where(file), self.palette), class_id)


def read_pascal_list(path: Path) -> list[tuple[str, int]]:
    """Lines `2007_000033__01` (stem, class from 1) as (stem, class id from 0)."""
    lines = []
    for line in read_lines(path):
        found = re.fullmatch(r"(\S+)__(\d+)", line)
        if not found or not 1 <= int(found[2]) < len(VOC_CLASSES):
            raise UserError(f"a line {line[:40]!r}, not like 2007_000033__01", path, "download it again")
        lines.append((found[1], int(found[2]) - 1))
    return lines


@dataclass(kw_only=True, eq=False, repr=False)
class Pascal5i(EpisodeData):
    """PASCAL-5i below `root`, VOC 2012. lists: local folder of HSNet's list files."""

    root: str
    fold: int = 0
    episodes: int = 1000
    lists: str | None = None

    def __post_init__(self):
        refuse_fold(self.fold, 4)
        self.name, self.classes = f"pascal5i_fold{self.fold}_{self.shots}shot", VOC_CLASSES[1:]
        super().__post_init__()
        self.tree = voc_tree(self.root)

    def lines(self, split: str) -> list[tuple[str, int]]:
        """The list of the fold, or for training those of the other folds in their order."""
        files = [f"pascal/val/fold{self.fold}.txt"]
        if split == "train":
            files = [f"pascal/trn/fold{fold}.txt" for fold in range(4) if fold != self.fold]
        lines = [line for file in files for line in read_pascal_list(find_list(file, self.lists, self.tree))]
        refuse_classes({class_id for _, class_id in lines}, range(5 * self.fold, 5 * self.fold + 5), split, files[0])
        return lines

    def names_by_class(self, split: str) -> Names:
        return by_class(self.lines(split))

    def make_plans(self, split: str) -> list[Plan]:
        return pascal_plans(self.lines(split), self.shots, self.episodes, self.rng())

    def pictures(self, split: str) -> VOCPictures:
        if not self.tree.has(PICTURE_FOLDER):
            raise UserError(f"no {PICTURE_FOLDER}", self.tree, "set data.root to VOC 2012 (see datamodules/voc.py)")
        return VOCPictures(self.tree)


def refuse_classes(found: set[int], tested: range, split: str, file: str) -> None:
    """A list may only name classes of its side of the fold."""
    wrong = [class_id for class_id in sorted(found) if (class_id in tested) == (split == "train")]
    if wrong:
        raise UserError(f"class {wrong[0]} is on the other side of the fold", file, "the lists do not belong together")


# -- COCO-20i ----------------------------------------------------------------------------------------------------------
class CocoPictures(ObjectPictures):
    """Pictures by HSNet's names, val2014/COCO_val2014_000000429717.jpg."""

    def __init__(self, tree: Tree, folder: str):
        self.maps = ObjectMasks(tree)
        self.maps.prepare(folder)

    def picture(self, name: str) -> Tensor:
        return self.maps.picture(name)

    def mask(self, name: str, class_id: int) -> Tensor:
        return of_class(self.maps.read(name), class_id)


def read_coco_list(path: Path) -> Names:
    """A pickle of {class id: names}; classes without any are left out."""
    table = load_plain_pickle(path)
    right = isinstance(table, dict) and all(isinstance(names, list) and type(key) is int for key, names in table.items())
    if not right or not all(isinstance(name, str) for names in table.values() for name in names[:1]):
        raise UserError("not a dict of lists of names by class", path, "download it again")
    if wrong := [key for key in table if not 0 <= key < len(COCO_CLASSES)]:
        raise UserError(f"class {wrong[0]}, but 80 classes (0..79)", path, "download it again")
    return {key: names for key, names in table.items() if names}


@dataclass(kw_only=True, eq=False, repr=False)
class Coco20i(EpisodeData):
    """COCO-20i below `root`, COCO 2014. lists: local folder of HSNet's list files."""

    root: str
    fold: int = 0
    episodes: int = 1000
    lists: str | None = None

    def __post_init__(self):
        refuse_fold(self.fold, 4)
        self.name, self.classes = f"coco20i_fold{self.fold}_{self.shots}shot", COCO_CLASSES
        super().__post_init__()
        self.tree = Tree(self.root).down("val2014")
        self._names: dict[str, Names] = {}

    def names_by_class(self, split: str) -> Names:
        side = "trn" if split == "train" else "val"
        if side not in self._names:
            path = find_list(f"coco/{side}/fold{self.fold}.pkl", self.lists, self.tree)
            names = read_coco_list(path)
            refuse_classes(set(names), range(self.fold, len(COCO_CLASSES), 4), split, str(path))
            self._names[side] = names
        return self._names[side]

    def make_plans(self, split: str) -> list[Plan]:
        return coco_plans(self.names_by_class(split), self.shots, self.episodes, self.rng())

    def pictures(self, split: str) -> CocoPictures:
        folder = "train2014" if split == "train" else "val2014"
        if not self.tree.has(folder):
            raise UserError(f"no {folder}", self.tree, f"set data.root to COCO 2014 (images.cocodataset.org/zips/{folder}.zip)")
        return CocoPictures(self.tree, folder)


# -- LVIS-92i ----------------------------------------------------------------------------------------------------------
class LvisPictures(ObjectPictures):
    """Pictures by the numbers LVIS gives them; the mask of a class is the union of its outlines."""

    def __init__(self, lvis: Lvis):
        self.lvis, self.categories = lvis, list(lvis.categories)

    def picture(self, name: str) -> Tensor:
        return self.lvis.picture(int(name))

    def mask(self, name: str, class_id: int) -> Tensor:
        return self.lvis.mask(int(name), self.categories[class_id]).to(torch.uint8)


@dataclass(kw_only=True, eq=False, repr=False)
class Lvis92i(EpisodeData):
    """LVIS-92i, in an order of its classes that is ours, below `root`: LVIS v1's JSON files with COCO 2017's pictures."""

    root: str
    fold: int = 0
    episodes: int = 2300

    def __post_init__(self):
        refuse_fold(self.fold, 10)
        self.tree, self._lvis = Tree(self.root), {}
        self.name = f"lvis92i_fold{self.fold}_{self.shots}shot"
        self.classes = [name.replace("_", " ") for name in self.lvis("val").categories.values()]
        super().__post_init__()

    def lvis(self, side: str) -> Lvis:
        if side not in self._lvis:
            self._lvis[side] = Lvis(self.tree, side)
        return self._lvis[side]

    def tested(self) -> list[int]:
        """Class ids of the fold: every tenth of those with more pictures in val than shots."""
        images = list(self.lvis("val").images.values())
        kept = [class_id for class_id, pictures in enumerate(images) if len(pictures) > self.shots]
        if len(kept) < 10:
            raise UserError(f"only {len(kept)} classes have more than {self.shots} pictures, ten folds need 10", self.tree,
                            "lower data.shots")
        return [kept[self.fold + 10 * place] for place in range(len(kept) // 10)]

    def names_by_class(self, split: str) -> Names:
        tested, side = self.tested(), "train" if split == "train" else "val"
        images = list(self.lvis(side).images.values())
        if side == "train":
            classes = [i for i, pictures in enumerate(images) if i not in tested and len(pictures) > self.train_shots[1]]
        else:
            classes = tested
        return {class_id: [str(number) for number in images[class_id]] for class_id in classes}

    def make_plans(self, split: str) -> list[Plan]:
        return lvis_plans(self.names_by_class(split), self.shots, self.episodes, self.rng())

    def pictures(self, split: str) -> LvisPictures:
        return LvisPictures(self.lvis("train" if split == "train" else "val"))
