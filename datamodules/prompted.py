"""Your own examples: a few pictures with masks of each class, in the layout of AlignDiff's released code.

    <root>/<class>/<n>.jpg|webp|... + <n>.png         dataset.json: sentences about the classes (it may be left out)
Masks are grey, 0..255, with soft borders if you like; pairs belong together by their names. A pair that cannot be used is passed
over and said. dataset.json: {"prompt_dataset": [{"type": "text" | "NM_embedding", "category": ..., "text": ...,
"D_good_dir": <folder of the examples>}, ...]}; folders are relative to it, and the category's words must occur in the text.
"""

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

import torch
from torch import Tensor

from datamodules.base import SceneData, say
from datamodules.errors import UserError
from datamodules.files import PICTURES, Tree, read_image, read_labels
from datamodules.pair import BACKGROUND, same_size
from datamodules.samples import ExampleSet, Scene, default_palette
from datamodules.sources import SceneSource

LIST = "dataset.json"
TEXT, EMBEDDING = TYPES = ("text", "NM_embedding")
SUPPORT = 0.5                            # grey from which a pixel is the object, where two values are wanted
SUFFIXES = tuple(suffix for suffix in PICTURES if suffix != ".png")


class Examples(SceneSource):
    """The pairs of all folders that can be used. pairs: (class id, picture's file, mask's file)."""

    def __init__(self, tree: Tree, pairs: list[tuple[int, str, str]]):
        self.tree, self.pairs = tree, []
        for pair in pairs:
            try:
                self.example(*pair)
                self.pairs.append(pair)
            except UserError as error:
                say(f"passed over: {error}")
        if not self.pairs:
            raise UserError("no pair of a picture and a mask can be used", tree, "see the lines above")
        self.names = [str(PurePosixPath(picture).with_suffix("")) for _, picture, _ in self.pairs]

    def example(self, class_id: int, picture: str, mask: str) -> tuple[Tensor, Tensor]:
        """uint8 3 H W, and grey fp32 H W in 0..1."""
        image = read_image(self.tree.open(picture), self.tree.where(picture))
        where = self.tree.where(mask)
        if not self.tree.has(mask):
            raise UserError("a picture without a mask", self.tree.where(picture), f"add {where}")
        raw = read_labels(self.tree.open(mask), where)
        same_size(image, raw, where)
        grey = raw.float() / (255 if raw.max() > 1 else 1)
        if not (grey > SUPPORT).any():
            raise UserError("an empty mask: it marks no pixel", where, "mark the object, or leave the picture out")
        if (grey > SUPPORT).all():
            raise UserError("a full mask: it marks every pixel", where, "leave the background unmarked, or the picture out")
        return image, grey.clamp(max=1)

    def read(self, index: int) -> Scene:
        class_id, *files = self.pairs[index]
        image, grey = self.example(class_id, *files)
        labels = ((grey > SUPPORT) * class_id).to(torch.uint8)
        return {"image": image, "labels": labels, "name": self.names[index], "size": tuple(image.shape[-2:])}


@dataclass(kw_only=True, eq=False, repr=False)
class PromptedFolders(SceneData):
    """Class folders below `root` (a folder or .zip). Every split is all pairs, by class and in the order of their numbers."""

    root: str

    def __post_init__(self):
        tree = Tree(self.root)
        self.tree = tree.down(LIST)
        self.folders, self.texts = self._listed() if self.tree.has(LIST) else (self._found(), {})
        words = list(self.folders)
        if BACKGROUND in words or not words:
            what = "no class folders with pictures" if not words else f"{BACKGROUND!r} is not an object"
            raise UserError(what, self.tree, "put <class>/<n>.jpg and <class>/<n>.png there")
        self.name, self.classes = self.tree.root.resolve().stem, [BACKGROUND, *words]
        self.palette = default_palette(len(self.classes))
        super().__post_init__()

    def _found(self) -> dict[str, str]:
        """Folders by their words."""
        folders = {str(PurePosixPath(file).parent) for file in self.tree.list(suffixes=SUFFIXES)} - {"."}
        return {PurePosixPath(folder).name.replace("_", " "): folder for folder in sorted(folders)}

    def _listed(self) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Folders and sentences by word, as dataset.json says."""
        where = self.tree.where(LIST)
        try:
            rows = json.loads(self.tree.text(LIST))["prompt_dataset"]
            rows = [(row["type"], row["category"], row["D_good_dir"], row.get("text", "")) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"not a prompt_dataset ({type(error).__name__} {error})"
            raise UserError(what, where, "see datamodules/prompted.py") from error
        folders, texts = {}, {}
        for kind, word, folder, text in rows:
            if kind not in TYPES:
                raise UserError(f"type {kind!r}", where, f"give {' or '.join(TYPES)}")
            if not all(isinstance(value, str) for value in (word, folder, text)):
                raise UserError(f"category {word!r} with {folder!r}, {text!r}", where, "write them as strings")
            folder = str(PurePosixPath(folder))
            if folders.setdefault(word, folder) != folder:
                raise UserError(f"two folders for {word!r} ({folders[word]}, {folder})", where, "put its pairs in one")
            if kind == TEXT:
                if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text, re.IGNORECASE):
                    raise UserError(f"{word!r} is no word of {text!r}", where, "name the category in its text as it is written")
                texts.setdefault(word, []).append(text)
        return folders, texts

    def make_source(self, split: str) -> Examples:
        pairs = []
        for class_id, (word, folder) in enumerate(self.folders.items(), 1):
            pictures = sorted(self.tree.list(folder, SUFFIXES), key=_number)
            if not pictures:
                raise UserError(f"no pictures of {word}", self.tree.where(folder), "put <n>.jpg and <n>.png there")
            pairs += [(class_id, picture, str(PurePosixPath(picture).with_suffix(".png"))) for picture in pictures]
        return Examples(self.tree, pairs)

    def source(self, split: str) -> Examples:
        return super().source("train")                       # one source for all splits: what is passed over is said once

    def example_sets(self, split: str) -> list[ExampleSet]:
        """All pairs of each word."""
        source, found = self.source("train"), []
        for class_id, word in enumerate(self.classes[1:], 1):
            names = tuple(name for name, pair in zip(source.names, source.pairs) if pair[0] == class_id)
            if names:
                found.append(ExampleSet(word, class_id, names, tuple(self.texts.get(word, ()))))
            else:
                say(f"passed over: {word}, of which no pair can be used")
        return found

    def example(self, split: str, name: str, class_id: int) -> tuple[Tensor, Tensor]:
        source = self.source("train")
        return source.example(*source.pairs[source.names.index(name)])


def _number(file: str) -> tuple:
    stem = PurePosixPath(file).stem
    return (0, int(stem), stem) if stem.isdecimal() else (1, 0, stem)
