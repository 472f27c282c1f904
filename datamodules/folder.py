"""Your own pictures: a folder or a .zip with images/, masks/ and classes.txt.

    images/<any>.jpg|png|webp|bmp|tif      masks/<the same>.png|tif|bmp      classes.txt: `name` or `name r g b` a line
Masks hold class numbers (a line's number in classes.txt, from 0; 255 is ignored), or are colour pictures in the colours
of classes.txt (other colours are ignored). Splits: images/{train,val,test}/ with masks/{train,val,test}/; where there
is no val, a share of the pictures is drawn for it, the same ones for every seed.

Polygons do as well (polygons.py): masks/<the same>.json of LabelMe, or, where there is no masks/, one COCO JSON for all
pictures, annotations.json; with splits also masks/<split>.json in place of masks/<split>/. Labels are found by their names
in classes.txt. LabelMe's later shapes lie on top, of COCO's the smaller ones; COCO's crowds are ignored. Pixels of no shape
are of the class `background` if there is one, else ignored.
"""

from dataclasses import dataclass

import numpy as np

from datamodules.base import SceneData, say
from datamodules.errors import UserError, refuse
from datamodules.files import PICTURES, Tree, read_labels
from datamodules.polygons import CocoJson, LabelmeFiles, coco_source, pair_outlines
from datamodules.samples import CLASSES, IMAGES, MASKS, default_palette, read_classes
from datamodules.sources import SceneFiles

ANNOTATIONS = "annotations.json"       # COCO's, for all pictures
LOOKED_AT = 8                          # masks looked at for black and white, which raises no error later
DRAW = (0, 3, 1)                       # seeds the draw of the validation pictures


@dataclass(kw_only=True, eq=False, repr=False)
class FolderScenes(SceneData):
    """A folder of scenes.

    label_shift is added to the masks' values (-1: the set counts from 1, and 0 is ignored). white is the class that
    mask value 255 stands for; white=255 says that it is ignored, in a set whose masks hold nothing but 0 and 255.
    val_share: what is drawn for validation where there is no images/val.
    """

    root: str
    label_shift: int = 0
    white: int | None = None
    val_share: float = 0.2

    def __post_init__(self):
        self.tree = Tree(self.root).down(IMAGES)
        if not self.tree.has(CLASSES):
            raise UserError("no classes.txt", self.tree, "write one class a line; its number, from 0, is the label")
        self.classes, self.colours = read_classes(self.tree.text(CLASSES), self.tree.where(CLASSES))
        self.name, self.palette = self.tree.root.resolve().stem, self.colours or default_palette(len(self.classes))
        self.names, self._coco = list(self.classes), {}      # before any class_map; the COCO JSON that were read
        last = len(self.classes) - 1
        if self.white not in (None, 255, *range(last + 1)):
            raise UserError(f"no class {self.white}", "data.white", f"give 0 to {last}, or 255 for ignored")
        if not 0 < self.val_share < 1:
            raise UserError(f"{self.val_share} is not between 0 and 1", "data.val_share", "0.2 draws a fifth of the set")
        super().__post_init__()

    def make_source(self, split: str) -> SceneFiles:
        pairs = self.pairs(split)
        if pairs[0][1] in self._coco:
            return coco_source(self.tree, pairs, self._coco[pairs[0][1]], self.names)
        if self.white is None:
            try:
                self.refuse_black_and_white(pairs)
            except UserError as error:
                refuse(error)
        white = None if self.white == 255 else self.white
        if any(label.endswith(".json") for _, label in pairs):
            return LabelmeFiles(self.tree, pairs, self.names, self.label_shift, white, self.colours)
        return SceneFiles(self.tree, pairs, self.source_classes, self.label_shift, white, self.colours)

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """The files of a split: its folder's, or drawn ones."""
        folders = [s for s in ("train", "val", "test") if self.tree.has(f"{IMAGES}/{s}")]
        if split in folders:
            pairs = self.pair(f"{IMAGES}/{split}", f"{MASKS}/{split}")
            return self.draw(split, pairs) if split == "train" and "val" not in folders else pairs
        if split == "test" or (folders and "train" not in folders):
            raise UserError(f"no {IMAGES}/{split}", self.tree, "add it, or evaluate with split=val")
        below = "/train" if folders else ""
        return self.draw(split, self.pair(IMAGES + below, MASKS + below))

    def pair(self, images: str, masks: str) -> list[tuple[str, str]]:
        """Each picture below `images` with its label file below `masks`, or with the COCO JSON for all of them."""
        single = f"{masks}.json" if masks != MASKS else ANNOTATIONS
        name = next((name for name in (single, ANNOTATIONS) if self.tree.has(name)), None)
        pictures = self.tree.list(images, PICTURES)
        if name is None or self.tree.has(masks) or not pictures:
            return pair_outlines(self.tree, images, masks)
        if name not in self._coco:
            self._coco[name] = CocoJson(self.tree, name)
        return [(picture, name) for picture in pictures]

    def draw(self, split: str, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        count = max(1, round(self.val_share * len(pairs)))
        if count >= len(pairs):
            raise UserError(f"{len(pairs)} picture(s), {count} drawn for validation: none is left for training",
                            self.tree, f"add pictures, or an {IMAGES}/val")
        drawn = set(np.random.default_rng(DRAW).permutation(len(pairs))[:count].tolist())
        if split == "train":
            say(f"{self.tree}: no {IMAGES}/val, so {count} of {len(pairs)} pictures are drawn for validation")
        return [pair for i, pair in enumerate(pairs) if (i in drawn) == (split == "val")]

    def refuse_black_and_white(self, pairs: list[tuple[str, str]]) -> None:
        values = set()
        pairs = [pair for pair in pairs if not pair[1].endswith(".json")]
        for _, mask in pairs[::max(1, len(pairs) // LOOKED_AT)][:LOOKED_AT]:
            labels = read_labels(self.tree.open(mask), self.tree.where(mask), self.colours)
            values.update(labels.unique().tolist())
        if values and values <= {0, 255} and 255 in values:
            raise UserError("masks hold only 0 and 255, and 255 means ignored", self.tree.where(pairs[0][1]),
                            "add data.white=1 if 255 is class 1, or data.white=255 if it is to be ignored")
