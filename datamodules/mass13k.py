"""MaSS13K: photographs at 4K with matting-level masks of seven classes (Xie et al., CVPR 2025).

Size       13,348 photographs of about 4096 x 3072: 11,348 train, 500 val, 1,500 test (train by difference)
Classes    others is a class like any other (finely cut things without a name), counted in the mean; 255 is ignored
Source     github.com/xiechenxi99/MaSS13K, whose README links the download
Licence    of the photographs: not stated there (the code is Apache-2.0)
Layout     annotations/{train,val,test}/<stem>.png (value = class) and images/<split>/<stem>.jpg or images_pad/<split>
           (padded pictures, which the authors' settings train on; preferred where present), also below msem/
Decoding a 4K JPEG costs more than everything else of a sample: see `python -m datamodules.tile` for long trainings.
"""

from datamodules.base import SceneData, SceneFiles, pair_by_stem
from datamodules.errors import UserError
from datamodules.files import Tree
from datamodules.transforms import Range, Size

CLASSES = ["others", "person", "building", "tree", "ground", "sky", "water"]
PALETTE = [(0, 0, 0), (255, 0, 0), (64, 34, 64), (0, 255, 0), (93, 64, 0), (0, 0, 255), (0, 255, 255)]


class Mass13kScenes(SceneData):
    """MaSS13K below `root` (a folder or a .zip): random crops for training, whole photographs for evaluation."""

    def __init__(self, root: str, crop: Size = 1024, batch_size: int = 2, val_batch_size: int = 1, workers: int = 4,
                 seed: int = 0, scale: Range = (0.5, 2.0), flip: float = 0.5, colour: float = 0.5,
                 cat_max_ratio: float = 0.75, labelled: int | str | None = None):
        super().__init__("mass13k", CLASSES, PALETTE, crop, batch_size, val_batch_size, workers, seed, scale, flip,
                         colour, cat_max_ratio, labelled)
        self.tree = Tree(root).down("annotations")

    def make_source(self, split: str) -> SceneFiles:
        images = [f"{folder}/{split}" for folder in ("images_pad", "images") if self.tree.has(f"{folder}/{split}")]
        if not images or not self.tree.has(f"annotations/{split}"):
            raise UserError(f"no images/{split} with annotations/{split}", self.tree,
                            "set data.root to the extracted download (github.com/xiechenxi99/MaSS13K)")
        return SceneFiles(self.tree, pair_by_stem(self.tree, images[0], f"annotations/{split}"), self.num_classes)
