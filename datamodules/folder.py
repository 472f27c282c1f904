"""Your own pictures: a folder or a .zip with images/, masks/ and classes.txt.

    images/<any>.jpg|png|webp|bmp|tif      masks/<the same>.png|tif|bmp      classes.txt: `name` or `name r g b` a line
Masks hold class numbers (a line's number in classes.txt, from 0; 255 is ignored), or are colour pictures in the colours
of classes.txt (other colours are ignored). Splits: images/{train,val,test}/ with masks/{train,val,test}/; where there
is no val, a share of the pictures is drawn for it, the same ones for every seed.
"""

import numpy as np

from datamodules.base import SceneData, SceneFiles, pair_by_stem, say
from datamodules.errors import UserError
from datamodules.files import Tree, read_labels
from datamodules.samples import CLASSES, IMAGES, MASKS, default_palette, read_classes
from datamodules.transforms import Range, Size

LOOKED_AT = 8                          # masks looked at for black and white, which raises no error later
DRAW = (0, 3, 1)                       # seeds the draw of the validation pictures


class FolderScenes(SceneData):
    """A folder of scenes.

    label_shift is added to the masks' values (-1: the set counts from 1, and 0 is ignored). white is the class that
    mask value 255 stands for; white=255 says that it is ignored, in a set whose masks hold nothing but 0 and 255.
    val_share: what is drawn for validation where there is no images/val.
    """

    def __init__(self, root: str, crop: Size, batch_size: int, val_batch_size: int = 1, workers: int = 0,
                 seed: int = 0, scale: Range = (0.5, 2.0), flip: float = 0.5, colour: float = 0.5,
                 cat_max_ratio: float = 0.75, labelled: int | str | None = None, label_shift: int = 0,
                 white: int | None = None, val_share: float = 0.2):
        self.tree = Tree(root).down(IMAGES)
        if not self.tree.has(CLASSES):
            raise UserError("no classes.txt", self.tree, "write one class a line; its number, from 0, is the label")
        names, self.colours = read_classes(self.tree.text(CLASSES), self.tree.where(CLASSES))
        super().__init__(self.tree.root.resolve().stem, names, self.colours or default_palette(len(names)), crop,
                         batch_size, val_batch_size, workers, seed, scale, flip, colour, cat_max_ratio, labelled)
        if white not in (None, 255, *range(len(names))):
            raise UserError(f"no class {white}", "data.white", f"give 0 to {len(names) - 1}, or 255 for ignored")
        if not 0 < val_share < 1:
            raise UserError(f"{val_share} is not between 0 and 1", "data.val_share", "0.2 draws a fifth of the set")
        self.label_shift, self.white, self.val_share = label_shift, white, val_share

    def make_source(self, split: str) -> SceneFiles:
        pairs = self.pairs(split)
        if self.white is None:
            self.refuse_black_and_white(pairs)
        white = None if self.white == 255 else self.white
        return SceneFiles(self.tree, pairs, self.num_classes, self.label_shift, white, self.colours)

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """The files of a split: its folder's, or drawn ones."""
        folders = [s for s in ("train", "val", "test") if self.tree.has(f"{IMAGES}/{s}")]
        if split in folders:
            pairs = pair_by_stem(self.tree, f"{IMAGES}/{split}", f"{MASKS}/{split}")
            return self.draw(split, pairs) if split == "train" and "val" not in folders else pairs
        if split == "test" or (folders and "train" not in folders):
            raise UserError(f"no {IMAGES}/{split}", self.tree, "add it, or evaluate with split=val")
        below = "/train" if folders else ""
        return self.draw(split, pair_by_stem(self.tree, IMAGES + below, MASKS + below))

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
        for _, mask in pairs[::max(1, len(pairs) // LOOKED_AT)][:LOOKED_AT]:
            labels = read_labels(self.tree.open(mask), self.tree.where(mask), self.colours)
            values.update(labels.unique().tolist())
        if values and values <= {0, 255} and 255 in values:
            raise UserError("masks hold only 0 and 255, and 255 means ignored", self.tree.where(pairs[0][1]),
                            "add data.white=1 if 255 is class 1, or data.white=255 if it is to be ignored")
