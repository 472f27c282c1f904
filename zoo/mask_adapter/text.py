"""Class names to rows of text: synonyms, 14 sentences each, and a cache on the disk.

The sentences are those of ViLD as FC-CLIP uses them. A class may have several names, and is as likely as its likeliest name.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from datamodules.errors import UserError
from datamodules.files import write_bytes
from zoo.mask_adapter.clip import FrozenCLIP

GENERAL = ("a photo of a {}.", "This is a photo of a {}", "There is a {} in the scene", "There is the {} in the scene",
           "a photo of a {} in the scene")
SIZED = ("a photo of a {size} {{}}.", "This is a photo of a {size} {{}}.", "There is a {size} {{}} in the scene.")
TEMPLATES = (*GENERAL, *(frame.format(size=size) for size in ("small", "medium", "large") for frame in SIZED))
BLOCK = 256                              # names of one file of the cache: what an interrupted run does not do again
NAMES = 32                               # encoded at once
NO_CLASS = "invalid_class_id"            # stands in published lists for numbers that are no class


@dataclass
class Text:
    """Unit vectors of T names, class by class, and how many names each class has."""

    rows: Tensor                                # T D
    counts: list[int]

    def to(self, device: torch.device | str) -> "Text":
        return Text(self.rows.to(device), self.counts)


# -- lists of classes --------------------------------------------------------------------------------------------------
def read_classes(classes: "list[str] | str | Path") -> list[list[str]]:
    """The names of each class. A string of a list is a class, its synonyms parted by commas; a string alone is a file.

    The file has a class in each line: `name,synonym,...`, also with `number:` in front as in published lists.
    """
    if isinstance(classes, (str, Path)):
        where, lines = classes, _lines(classes)
    else:
        where, lines = "classes", classes
    if not lines:
        raise UserError("no classes", where, 'name at least one, as in classes=["cat","sofa,couch"]')
    found = []
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str):
            raise UserError(f"class {number} is {line!r}, not text", where, "put it in quotes")
        names = [name.strip() for name in line.split(",")]
        if "" in names:
            raise UserError(f"class {number} has an empty name ({line!r})", where, "write name,synonym,...")
        found.append(names)
    return found


def _lines(path: "str | Path") -> list[str]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        mend = 'give a text file, one class a line, or a list as in classes=["cat","sofa"]'
        raise UserError(f"no such list of classes ({error.strerror})", path, mend) from error
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text (byte {error.start})", path, "save it as UTF-8") from error
    lines = [re.sub(r"^\s*\d+\s*:", "", line) for line in text.splitlines() if line.strip()]
    return [line for line in lines if line.strip() != NO_CLASS]


def notes(classes: list[list[str]], clip: FrozenCLIP) -> list[str]:
    """What a user should know of these classes, a line each; usually nothing."""
    said, first = [], {}
    for number, names in enumerate(classes, 1):
        for name in names:
            if first.setdefault(name, number) != number:
                said.append(f"{name!r} names class {first[name]} and class {number}: where it is the best name, class "
                            f"{first[name]} is the answer")
    context = clip.model.context_length
    for name in first:
        if len(name) > context // 2 and clip.token_count(TEMPLATES[0].format(name)) > context:
            said.append(f"{name[:40]!r}... is too long for CLIP ({clip.token_count(name) - 2} tokens, a sentence has {context}): "
                        "its end is cut off")
    return said


def seen_classes(classes: list[list[str]], trained: list[list[str]]) -> Tensor:
    """C bool: whether any name of a class is, letter by letter, a name of a class of the training."""
    known = {name for names in trained for name in names}
    return torch.tensor([not known.isdisjoint(names) for names in classes])


# -- names to rows -----------------------------------------------------------------------------------------------------
def encode(clip: FrozenCLIP, classes: list[list[str]], cached: bool = True) -> Text:
    """The rows of these classes, on the CPU. cached: kept on the disk, below ZOO_CACHE or ~/.cache/segmentation-zoo.

    The cache is keyed by the CLIP's weights and by the sentences, so no other model's rows are ever taken for this one's.
    """
    names = list(dict.fromkeys(name for synonyms in classes for name in synonyms))
    blocks = [names[i : i + BLOCK] for i in range(0, len(names), BLOCK)]
    shown = tqdm(blocks, desc="text", leave=False, disable=len(blocks) < 2)
    rows = [_kept(clip, block) if cached else name_rows(clip, block) for block in shown]
    place = {name: i for i, name in enumerate(names)}
    order = [place[name] for synonyms in classes for name in synonyms]
    return Text(torch.cat(rows)[order], [len(synonyms) for synonyms in classes])


def _kept(clip: FrozenCLIP, names: list[str]) -> Tensor:
    """Rows of up to BLOCK names, from the cache or for it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    folder = Path(os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "segmentation-zoo") / "text"
    prompts = hashlib.sha256("\0".join([*TEMPLATES, "", *names]).encode()).hexdigest()
    path = folder / f"{clip.sha256[:20]}-{prompts[:20]}.safetensors"
    try:
        kept = load_file(path)["rows"]
        if kept.shape == (len(names), clip.width):
            return kept
    except (OSError, SafetensorError, KeyError):             # not there, or damaged: made anew
        pass
    rows = name_rows(clip, names)
    write_bytes(path, save({"rows": rows}))
    return rows


@torch.no_grad()
def name_rows(clip: FrozenCLIP, names: list[str]) -> Tensor:
    """n D: of each name the 14 sentences' unit vectors, their mean, brought to unit length again."""
    rows = []
    for start in range(0, len(names), NAMES):
        part = names[start : start + NAMES]
        raw = clip.encode_text([template.format(name) for name in part for template in TEMPLATES])
        rows.append(averaged(raw.float().view(len(part), len(TEMPLATES), -1)).cpu())
    return torch.cat(rows)


def averaged(raw: Tensor) -> Tensor:
    """... 14 D -> ... D."""
    return F.normalize(F.normalize(raw, dim=-1).mean(-2), dim=-1)
