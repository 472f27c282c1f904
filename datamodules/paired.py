"""Published sets in two folders that mirror each other, one of pictures, one of masks: what they have in common."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

from datamodules.base import SceneData
from datamodules.errors import UserError, refuse
from datamodules.files import LABELS, Tree
from datamodules.samples import default_palette
from datamodules.shifts import look_at_masks
from datamodules.sources import SceneFiles, pair_by_stem
from datamodules.vocabulary import names_of

FOLDERS = {"train": "training", "val": "validation"}


class Layout(NamedTuple):
    """Folders of a tree, and what is added to the values of the masks as they are published in it."""

    images: str
    labels: str
    shift: int


@dataclass(kw_only=True, eq=False, repr=False)
class PairedScenes(SceneData):
    """A set below `root` (a folder or a .zip), in the first of its layouts that is there.

    label_shift: added to the masks' values; by default what the layout's published files need. vocabulary: names and synonyms
    of the classes, `published` or a file (vocabulary.py); by default the set's plain names. `synonyms` are the names of each
    class, `classes` the first ones, which may repeat.
    """

    root: str
    label_shift: int | None = None
    vocabulary: str | None = None

    title: ClassVar[str]                                     # the set's name, in folders and tables
    plain: ClassVar[list[str] | None]                        # None: the classes have numbers
    count: ClassVar[int]
    colours: ClassVar[list[tuple[int, int, int]]]
    published: ClassVar[str]                                 # its list in vocabulary.py
    layouts: ClassVar[tuple[Layout, ...]]
    whence: ClassVar[str]                                    # how to come by the tree, for error lines
    void: ClassVar[bool] = False                             # see shifts.py
    rare: ClassVar[bool] = False
    drawn: ClassVar[bool] = False                            # masks may be pictures in `colours`

    def __post_init__(self):
        self.tree, self.layout = self.find()
        if self.label_shift is None:
            self.label_shift = self.layout.shift
        self.synonyms = names_of(self.vocabulary, self.published, self.plain, self.count, self.lists)
        self.name, self.classes, self.palette = self.title, [names[0] for names in self.synonyms], self.colours
        super().__post_init__()
        if self.mapping:
            self.synonyms = [[name] for name in self.classes]

    def prepare(self) -> None:
        """What is to be done before the tree is looked for."""

    def find(self) -> tuple[Tree, Layout]:
        self.prepare()
        if not Path(self.root).exists():
            raise UserError("no such folder or .zip", self.root, f"set data.root; {self.whence}")
        for layout in self.layouts:
            tree = self.locate(layout)
            if tree.has(layout.images) and tree.has(layout.labels):
                return tree, layout
        wanted = " or ".join(f"{layout.images} with {layout.labels}" for layout in self.layouts)
        raise UserError(f"no folders {wanted}", self.root, self.whence)

    def locate(self, layout: Layout) -> Tree:
        """Where a layout's folders would be."""
        return Tree(self.root).down(layout.labels)

    def make_source(self, split: str) -> SceneFiles:
        if split not in FOLDERS:
            raise UserError(f"{self.title} has no {split} split with public masks", self.tree, "evaluate with split=val")
        palette = self.colours if self.drawn else None
        source = SceneFiles(self.tree, self.pairs(split), self.source_classes, self.label_shift, palette=palette)
        try:
            look_at_masks(source, self.void, self.rare)
        except UserError as error:
            refuse(error)
        return source

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """The files of train or val; masks without a picture are those of an archive that was not unpacked to its end."""
        images, labels = f"{self.layout.images}/{FOLDERS[split]}", f"{self.layout.labels}/{FOLDERS[split]}"
        for folder in (images, labels):
            if not self.tree.has(folder):
                raise UserError(f"no {folder}", self.tree, self.whence)
        pairs = pair_by_stem(self.tree, images, labels)
        known = {mask for _, mask in pairs}
        alone = [name for name in self.tree.list(labels, LABELS) if name not in known]
        if alone:
            name = PurePosixPath(alone[0]).stem
            refuse(UserError(f"{len(alone)} of {len(alone) + len(pairs)} masks have no picture in {images} ({name})",
                             self.tree.where(labels), "unpack the archive again, to its end"))
        return pairs


def colours_from(first: int, classes: int) -> list[tuple[int, int, int]]:
    """Colours of sets that bring none: VOC's from number `first` on. 1 leaves out black, which looks like nothing."""
    return default_palette(first + classes)[first:]
