"""MaSS13K: photographs at 4K with matting-level masks of seven classes (Xie et al., CVPR 2025).

Size       13,348 photographs of about 4096 x 3072: 11,348 train, 500 val, 1,500 test (train by difference)
Classes    others is a class like any other (finely cut things without a name), counted in the mean; 255 is ignored
Source     github.com/xiechenxi99/MaSS13K, whose README links the download
Licence    of the photographs: not stated there (the code is Apache-2.0)
Layout     annotations/{train,val,test}/<stem>.png (value = class) and images/<split>/<stem>.jpg or images_pad/<split>
           (padded pictures, which the authors' settings train on; preferred where present), also below msem/
Tiles      tiles/<split>/<stem>.zip and tiles/<split>.txt, made by `python -m datamodules.tile data.root=...`: decoding a
           whole 4K JPEG costs more than everything else of a training sample
"""

from dataclasses import dataclass

from datamodules.base import SceneData, say
from datamodules.errors import UserError
from datamodules.files import Tree
from datamodules.sources import SceneFiles, SceneSource, pair_by_stem
from datamodules.tile import FOLDER as TILES
from datamodules.tile import TiledScenes, is_tiled

CLASSES = ["others", "person", "building", "tree", "ground", "sky", "water"]
FOLDERS = ("images_pad", "images")
PALETTE = [(0, 0, 0), (255, 0, 0), (64, 34, 64), (0, 255, 0), (93, 64, 0), (0, 0, 255), (0, 255, 255)]


@dataclass(kw_only=True, eq=False, repr=False)
class Mass13kScenes(SceneData):
    """MaSS13K below `root` (a folder or a .zip): random crops for training, whole photographs for evaluation."""

    root: str

    def __post_init__(self):
        self.name, self.classes, self.palette = "mass13k", CLASSES, PALETTE
        super().__post_init__()
        self.tree = Tree(self.root).down("annotations")
        self.tiles = Tree(self.root).down(TILES)

    def make_source(self, split: str) -> SceneSource:
        """Training reads tiles where there are any; evaluation the original files, or tiles where these are missing."""
        here, tiled = self.has(split), is_tiled(self.tiles, split)
        if tiled and (split == "train" or not here):
            tiles = TiledScenes(self.tiles, split, self.source_classes, self.originals(split) if here else None)
            say(f"{self.name} {split}: tiles of {len(tiles)} photographs in {self.tiles.where(tiles.folder)}")
            return tiles
        files = self.originals(split)
        if self.tiles.has(TILES):
            say(f"{self.name} {split}: {len(files)} original files, whole")
        return files

    def originals(self, split: str) -> SceneFiles:
        """The set's own files."""
        if not self.has(split):
            tiles = f", no {TILES}/{split}.txt (its tiling has not ended)" if self.tiles.has(f"{TILES}/{split}") else ""
            raise UserError(f"no images/{split} with annotations/{split}{tiles}", self.tree,
                            "set data.root to the extracted download (github.com/xiechenxi99/MaSS13K)")
        images = next(folder for folder in FOLDERS if self.tree.has(f"{folder}/{split}"))
        pairs = pair_by_stem(self.tree, f"{images}/{split}", f"annotations/{split}")
        return SceneFiles(self.tree, pairs, self.source_classes)

    def has(self, split: str) -> bool:
        return self.tree.has(f"annotations/{split}") and any(self.tree.has(f"{folder}/{split}") for folder in FOLDERS)
