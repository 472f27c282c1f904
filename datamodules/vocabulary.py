"""Class lists with synonyms: each class of a set has one or more names, of which the first is the one that is shown.

The published lists are those of FC-CLIP (Apache-2.0), the ones open-vocabulary results are reported with. They are read from
a local folder (`data.lists`, also below openvocab/) or downloaded once; either way their sha256 is checked. Names repeat
across classes (ADE20K's 847 have three kinds of "pot"): a class is known by its number, never by its name.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from datamodules.base import say
from datamodules.errors import UserError
from datamodules.files import download, sha256_of
from datamodules.scarce import cache

REPOSITORY = "bytedance/fc-clip"
COMMIT = "2b0bbe213070d44da9182530fa2e826fef03f974"
BELOW = "fcclip/data/datasets"
PUBLISHED = "published"                # data.vocabulary: the set's own list of these
NO_CLASS = "invalid_class_id"          # stands in the lists for numbers that are no class


@dataclass(frozen=True)
class ClassList:
    """A published file; `skipped` classes at its beginning are not the set's."""

    file: str
    sha256: str
    skipped: int = 0


PASCAL_VOC = "9acddc0dc82ebb9167e23ac93b197c91794603ec320f5e30053f983d4fa23c21"
LISTS = {
    "ade20k_150": ClassList("ade20k_150_with_prompt_eng.txt",
                            "3204c154e2c524ce2575f873838893fc25d68c5c4f7973f2d4ee76d7e24bb781"),
    "ade20k_847": ClassList("ade20k_847_with_prompt_eng.txt",
                            "173d44806d8b3ca94cfb8947f459e6ecdb90770387b3a4116fdd78e8e111d732"),
    "pascal_ctx_59": ClassList("pascal_ctx_59_with_prompt_eng.txt",
                               "0bf48d67f93b15d331cbf36e112777cc3a407084e94e395b98fad8c67e50149a"),
    "pascal_ctx_459": ClassList("pascal_ctx_459_with_prompt_eng.txt",
                                "574ae7e3dc9decff20366696309c36d40502cda90204f7e94c96251559be5197"),
    "pascal_voc_21": ClassList("pascal_voc_21_with_prompt_eng.txt", PASCAL_VOC),
    "pascal_voc_20": ClassList("pascal_voc_21_with_prompt_eng.txt", PASCAL_VOC, skipped=1),      # without background
    "coco_panoptic": ClassList("coco_panoptic_with_prompt_eng.txt",
                               "560169ea22202460c3b9427df387f8d1778e94dadecd38554da683e2097cda9f"),
    "coco_stuff": ClassList("coco_stuff_with_prompt_eng.txt",
                            "af860dc8362af7c7fed556b79014cfbf775b7ece2279b11317a16260cdca9bcb"),
    "lvis_1203": ClassList("lvis_1203_with_prompt_eng.txt",
                           "7108477b1bdfca7c95d17f7b9e992250be9a6bd6dc704fcb4592484ac626dffd"),
}


def read_vocabulary(text: str, where: object = "") -> list[list[str]]:
    """The names of each class, in the order of the lines: `number:name,synonym,...` or, in lists of one's own, without numbers.

    Numbers ascend and may have gaps; lines named `invalid_class_id` are no classes.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError("no classes", where, "write one class a line: name,synonym,...")
    numbered = [re.match(r"\s*(\d+)\s*:", line) for _, line in lines]
    if any(numbered) and not all(numbered):
        at = next(number for (number, _), found in zip(lines, numbered) if not found)
        raise UserError(f"line {at} has no `number:`, others have", where, "number all lines or none")
    classes, last = [], -1
    for (at, line), found in zip(lines, numbered):
        if found:
            if int(found[1]) <= last:
                raise UserError(f"line {at} is class {found[1]} after {last}", where, "the numbers must ascend")
            last, line = int(found[1]), line[found.end():]
        names = [name.strip() for name in line.split(",")]
        if "" in names:
            raise UserError(f"line {at} has an empty name", where, "write name,synonym,...")
        if names != [NO_CLASS]:
            classes.append(names)
    return classes


def published(name: str, folder: str | None) -> list[list[str]]:
    """A published list by its name in LISTS; folder: `data.lists`."""
    listed = LISTS[name]
    path = _local(listed, Path(folder)) if folder else download(
        f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/{BELOW}/{listed.file}",
        cache() / "lists" / "openvocab" / listed.file, listed.sha256)
    return read_vocabulary(path.read_text(encoding="utf-8"), path)[listed.skipped:]


def _local(listed: ClassList, folder: Path) -> Path:
    found = [path for path in (folder / listed.file, folder / "openvocab" / listed.file) if path.is_file()]
    if not found:
        raise UserError(f"no {listed.file}", folder, f"put it there (github.com/{REPOSITORY}, {BELOW}), or leave out data.lists")
    if sha256_of(found[0]) != listed.sha256:
        raise UserError("not the published list (its sha256 differs)", found[0],
                        f"fetch it again, or give it as a list of your own: data.vocabulary={found[0]}")
    return found[0]


def own(path: str) -> list[list[str]]:
    """A list of the user's."""
    try:
        return read_vocabulary(Path(path).read_text(encoding="utf-8-sig"), path)
    except OSError as error:
        mend = f"set data.vocabulary to `{PUBLISHED}` or a text file"
        raise UserError(f"no such list ({error.strerror})", path, mend) from error
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text (byte {error.start})", path, "save it as UTF-8") from error


def names_of(vocabulary: str | None, name: str, plain: list[str] | None, classes: int, folder: str | None) -> list[list[str]]:
    """The names of a set's classes. vocabulary: None for its plain ones, `published` for the list `name`, or a file.

    A set without plain names (plain=None) numbers its classes. Where the published list cannot be had, the plain names stand
    in for it and this is said; a set without them needs the list.
    """
    if vocabulary is None:
        if plain is None:
            say(f"the classes are called by their numbers; data.vocabulary={PUBLISHED} gives them names")
        return [[word] for word in plain or [f"class {number}" for number in range(classes)]]
    if vocabulary != PUBLISHED:
        found, where = own(vocabulary), vocabulary
    else:
        try:
            found, where = published(name, folder), name
        except UserError as error:
            if folder:
                raise
            if plain is None:
                mend = f"{error.mend}; or give data.lists=<a folder that holds it>, or data.vocabulary=null for numbers"
                raise UserError(error.what, error.where, mend) from error
            say(f"no synonyms: the published list {name} cannot be had ({error}); classes go by the set's plain names")
            return [[word] for word in plain]
    if len(found) != classes:
        raise UserError(f"{len(found)} classes instead of {classes}", where, "one line for each of the set's classes")
    return found
