"""PASCAL-Context (VOC 2010's pictures, all of it labelled; Mottaghi et al., CVPR 2014) and PAS-20: the PASCAL benchmarks of
open-vocabulary segmentation, in the trees that the common converters make (FC-CLIP's and ODISE's datasets/prepare_pascal_*).

PC-59      59 frequent classes, 4,998 train, 5,105 val pictures; 8 bit, 0..58, 255 ignored
PC-459     459 classes, the same pictures; 16 bit .tif, 0..458, 65535 ignored
PAS-20     VOC 2012's 20 classes, its 1,464 train and 1,449 val pictures; 8 bit, 0..19, 255 ignored. Background is ignored;
           data.background=true makes it a class (PAS-21)
Source     cs.stanford.edu/~roozbeh/pascal-context (labels), host.robots.ox.ac.uk/pascal/VOC/voc2010 and voc2012 (pictures)
Licence    annotations: free for research; the pictures are Flickr's, under its terms of use
Layout     pascal_ctx_d2/{images,annotations_ctx59,annotations_ctx459}/{training,validation}
           pascal_voc_d2/{images,annotations_pascal20,annotations_pascal21}/{training,validation}; PAS-20 also takes VOC 2012 as
           it is published (voc.py) and shifts its masks itself
Names      of the 459: not in the tree, data.vocabulary=published (vocabulary.py) or a file
"""

from dataclasses import dataclass

from datamodules.files import Tree
from datamodules.paired import Layout, PairedScenes, colours_from
from datamodules.voc import CLASSES as VOC
from datamodules.voc import MASKS, PICTURE_FOLDER, listed_pairs, read_list, voc_tree

CONTEXT = ["aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
           "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence",
           "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person",
           "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa",
           "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood"]
WHENCE = ("convert PASCAL-Context (cs.stanford.edu/~roozbeh/pascal-context) with FC-CLIP's datasets/prepare_pascal_ctx_{} to "
          "pascal_ctx_d2/{{images,{}}}/{{training,validation}}")


@dataclass(kw_only=True, eq=False, repr=False)
class PC59Scenes(PairedScenes):
    """PASCAL-Context, 59 classes."""

    title, plain, count, colours, published = "pc59", CONTEXT, len(CONTEXT), colours_from(1, len(CONTEXT)), "pascal_ctx_59"
    layouts = (Layout("images", "annotations_ctx59", 0),)
    whence = WHENCE.format("sem_seg.py", "annotations_ctx59")
    rare = True


@dataclass(kw_only=True, eq=False, repr=False)
class PC459Scenes(PairedScenes):
    """PASCAL-Context, 459 classes."""

    title, plain, count, colours, published = "pc459", None, 459, colours_from(1, 459), "pascal_ctx_459"
    layouts = (Layout("images", "annotations_ctx459", 0),)
    whence = WHENCE.format("full_sem_seg.py", "annotations_ctx459")
    rare = True


@dataclass(kw_only=True, eq=False, repr=False)
class PAS20Scenes(PairedScenes):
    """VOC 2012 without its background. background: with it."""

    background: bool = False

    whence = ("give VOC2012 as it is published (data=voc data.download=true fetches it), or pascal_voc_d2/{images,"
              "annotations_pascal20}/{training,validation} (FC-CLIP's datasets/prepare_pascal_voc_sem_seg.py)")
    void = True

    def __post_init__(self):
        first = int(not self.background)                     # of VOC's classes
        self.title, self.published = ("pas20", "pascal_voc_20") if first else ("pas21", "pascal_voc_21")
        self.plain, self.count, self.rare = VOC[first:], len(VOC) - first, bool(first)
        self.colours = colours_from(first, self.count)
        self.layouts = (Layout("images", f"annotations_{self.title.replace('pas', 'pascal')}", 0),
                        Layout(PICTURE_FOLDER, MASKS, -first))
        super().__post_init__()

    def locate(self, layout: Layout) -> Tree:
        return voc_tree(self.root) if layout.images == PICTURE_FOLDER else super().locate(layout)

    def pairs(self, split: str) -> list[tuple[str, str]]:
        if self.layout.images == PICTURE_FOLDER:
            return listed_pairs(self.tree, read_list(self.tree, f"{split}.txt"), MASKS)
        return super().pairs(split)
