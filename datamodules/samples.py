"""The three samples, how they are stacked, and the synthetic folder's format.

Pictures are uint8 [3, H, W] RGB until a method normalises them. Label maps are uint8 with 255 = ignore for up to 255
classes, int32 with -1 = ignore for more.
"""

import hashlib
import json
import re
from typing import NamedTuple, NotRequired, TypedDict, get_origin, get_type_hints

import torch
from torch import Tensor

from datamodules.errors import UserError


class Scene(TypedDict):
    """A picture and the class of each of its pixels."""

    image: Tensor                      # uint8 3 H W
    labels: Tensor                     # uint8 H W (255 ignored), or int32 H W (-1 ignored) for more than 255 classes
    name: str
    size: tuple[int, int]              # H, W of the file
    instances: NotRequired[Tensor]     # int32 H W: number of the segment a pixel belongs to, -1 none


class Segments(TypedDict):
    """A scene as masks, each with a class of the vocabulary."""

    image: Tensor                      # uint8 3 H W
    masks: Tensor                      # bool N H W
    classes: Tensor                    # int64 N, index into vocabulary
    vocabulary: list[str]
    name: str
    size: tuple[int, int]


class Episode(TypedDict):
    """A query picture and S examples of one class."""

    query: Tensor                      # uint8 3 h w
    query_mask: Tensor                 # h w
    supports: Tensor                   # uint8 S 3 h w
    support_masks: Tensor              # S h w
    class_id: int
    word: str
    name: str
    support_names: list[str]
    size: tuple[int, int]              # H, W of the query's file
    query_truth: Tensor                # H W, the mask at the photo's own size
    support_weights: NotRequired[Tensor]    # S, how much each support counts; 1 where it is left out


class ExampleSet(NamedTuple):
    """Pictures with masks by which a class is known together: the supports of an episode, or all that there are of a word.

    class_id: place in the data's `classes`. texts: sentences about the class that came with them.
    """

    word: str
    class_id: int
    names: tuple[str, ...]
    texts: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A name for files, alike wherever the same class is known by the same pictures."""
        digest = hashlib.sha256(json.dumps([self.word, sorted(self.names)]).encode()).hexdigest()[:12]
        return f"{re.sub(r'[^a-zA-Z0-9]+', '-', self.word)[:40]}@{digest}"


def ignore_of(classes: int) -> int:
    """The label that is no class: 255 for up to 255 classes, -1 for more."""
    return 255 if classes <= 255 else -1


def _stack(values: list[Tensor], names: list[str]) -> Tensor:
    shapes = {tuple(v.shape) for v in values}
    if len(shapes) > 1:
        raise UserError(f"shapes {sorted(shapes)} cannot be stacked", ", ".join(names), "set data.val_batch_size=1")
    return torch.stack(values)


def _columns(samples: list) -> dict[str, list]:
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def collate_scenes(samples: list[Scene]) -> dict:
    """image B 3 H W, labels B H W, name and size lists; instances, where scenes have them, B H W."""
    batch = _columns(samples)
    return batch | {key: _stack(batch[key], batch["name"]) for key in ("image", "labels", "instances") if key in batch}


def collate_segments(samples: list[Segments]) -> dict:
    """image B 3 H W; masks (N H W each), classes (N), vocabulary, name and size stay lists of B."""
    batch = _columns(samples)
    return batch | {"image": _stack(batch["image"], batch["name"])}


def collate_episodes(samples: list[Episode]) -> dict:
    """query B 3 h w, query_mask B h w, supports B S 3 h w, support_masks B S h w, class_id B, and support_weights B S where there
    are some; the rest in lists."""
    batch = _columns(samples)
    tensors = ("query", "query_mask", "supports", "support_masks", "support_weights")
    stacked = {k: _stack(batch[k], batch["name"]) for k in tensors if k in batch}
    return batch | stacked | {"class_id": torch.tensor(batch["class_id"])}


# -- folders of scenes, made by hand or by a generator -----------------------------------------------------------------
IMAGES, MASKS, CLASSES, MANIFEST = "images", "masks", "classes.txt", "manifest.jsonl"


class Made(TypedDict):
    """One line of a synthetic folder's manifest.jsonl: where images/<name>.* and masks/<name>.png come from."""

    name: str                          # stem of the picture and its mask
    source: str                        # name of the label map or picture it was made from
    word: str                          # the class's name, or "" for a whole scene
    seed: int
    prompt: str
    weights: str                       # sha256 of the generator's weights
    filter: dict[str, float]           # the filter's figures, {} without one


def manifest_line(row: Made) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_manifest(text: str, where="") -> list[Made]:
    """The rows of manifest.jsonl; a torn last line (a killed writer) is left out, any other bad line is an error."""
    kinds = {key: get_origin(kind) or kind for key, kind in get_type_hints(Made).items()}
    rows, lines = [], text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):                         # no newline after it: never finished
                break
            raise UserError(f"line {number} is not JSON ({error})", where, "remove the line") from error
        if not isinstance(row, dict) or (missing := Made.__required_keys__ - row.keys()):
            absent = sorted(missing) if isinstance(row, dict) else "everything"
            raise UserError(f"line {number} lacks {absent}", where, "write the folder with zoo.generate")
        if wrong := sorted(key for key, kind in kinds.items() if not isinstance(row[key], kind)):
            what = f"line {number}: {wrong[0]} is {row[wrong[0]]!r}"
            raise UserError(what, where, "write the folder with zoo.generate")
        rows.append(row)
    return rows


def read_classes(text: str, where="") -> tuple[list[str], list[tuple[int, int, int]] | None]:
    """classes.txt: one class a line, `name` or `name r g b`; the line number, from 0, is the label. Names, colours."""
    names, colours = [], []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text.rstrip()) if text.strip() else [], 1):
        words = line.split()
        if not words:
            raise UserError(f"line {number} is empty", where, "its number is a label: remove it or name the class")
        if control := re.search(r"[\0-\x08\x0b-\x1f\x7f-\x9f]", line):
            raise UserError(f"line {number} holds {control[0]!r}", where, "save it as UTF-8 text")
        coloured = len(words) > 3 and all(w.isdecimal() for w in words[-3:])
        if coloured and max(map(int, words[-3:])) > 255:
            raise UserError(f"line {number}: a colour goes from 0 to 255", where, f"correct {' '.join(words[-3:])}")
        names.append(" ".join(words[:-3] if coloured else words))
        colours.append(tuple(int(w) for w in words[-3:]) if coloured else None)
    if not names:
        raise UserError("no classes", where, "write one class name a line")
    if None in colours and set(colours) != {None}:
        raise UserError(f"class {names[colours.index(None)]} has no colour, others have", where, "colour all or none")
    if colours[0] is not None and len(set(colours)) < len(colours):
        twice = next(c for c in colours if colours.count(c) > 1)
        raise UserError(f"colour {twice} stands for two classes", where, "give each class its own")
    return names, None if colours[0] is None else colours


def classes_text(names: list[str], palette: list[tuple[int, int, int]]) -> str:
    """The content of a classes.txt."""
    return "".join(f"{name} {r} {g} {b}\n" for name, (r, g, b) in zip(names, palette))


def default_palette(classes: int) -> list[tuple[int, int, int]]:
    """Colours for sets that bring none: PASCAL VOC's, whose bits count up through the three channels."""
    colours = []
    for label in range(classes):
        r = g = b = 0
        for bit in range(8):
            r |= (label >> (3 * bit) & 1) << (7 - bit)
            g |= (label >> (3 * bit + 1) & 1) << (7 - bit)
            b |= (label >> (3 * bit + 2) & 1) << (7 - bit)
        colours.append((r, g, b))
    return colours
