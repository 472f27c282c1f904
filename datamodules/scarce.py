"""Few labels: published lists of labelled pictures, seeded draws, and own classes made of a set's.

The lists are UniMatch's (VOC 92, 183, 366, 732 and 1,464; COCO 232 to 3,697; ADE20K 316 and 631), named in lists.yaml by
repository, commit and sha256. They are read from a local folder (`data.lists`) or downloaded once. Any other number of
scenes is drawn with the seed; no list of 200 ADE20K pictures (MatchMask's setting) is published.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from datamodules.errors import UserError
from datamodules.files import download
from datamodules.samples import default_palette, ignore_of

LISTS = Path(__file__).with_name("lists.yaml")
REST = "rest"                          # in a class map: all classes that are not named


# -- which scenes are labelled -----------------------------------------------------------------------------------------
def chosen(names: list[str], labelled: int | str, seed: int, data: str, lists: str | None) -> tuple[list[int], str]:
    """Ascending indices of the labelled ones among a set's scenes, and a line that says how they were chosen.

    labelled: a number, for which the published list of the set `data` is taken or, where there is none, a draw with the
    seed; or a file whose lines begin with a picture's name (any folder and suffix).
    """
    if isinstance(labelled, str):
        return _listed(names, Path(labelled), labelled)
    row = published(data, labelled)
    if row is not None:
        return _listed(names, find_list(row["file"], lists), f"UniMatch's list of {labelled}", labelled)
    if not 0 < labelled <= len(names):
        raise UserError(f"{labelled} scenes of {len(names)}", "data.labelled", f"give 1 to {len(names)}")
    indices = np.random.default_rng((seed, 2, 1)).permutation(len(names))[:labelled]
    return sorted(indices.tolist()), f"training on {labelled} of {len(names)} scenes, drawn with seed {seed}"


def _listed(names: list[str], path: Path, said: str, lines: int | None = None) -> tuple[list[int], str]:
    wanted = read_list(path)
    if lines is not None and len(wanted) != lines:
        raise UserError(f"{len(wanted)} lines instead of {lines}", path, "this is another list: download it again")
    place = {name: index for index, name in enumerate(names)}
    absent = [name for name in wanted if name not in place]
    if len(absent) == len(wanted):
        raise UserError(f"none of its {len(wanted)} names is in the set ({wanted[0]})", path, "correct the list or data.root")
    line = f"training on {len(wanted) - len(absent)} of {len(names)} scenes ({said})"
    if absent:
        more = ", ..." if len(absent) > 3 else ""
        line += f"; {len(absent)} of its {len(wanted)} are not on disk: {', '.join(absent[:3])}{more}"
    return sorted({place[name] for name in wanted if name in place}), line


def read_list(path: Path) -> list[str]:
    """Stems of the pictures a list's lines begin with, each once, in its order."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("no such list", path, "set data.labelled to a number or a text file of names") from error
    names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    if not names:
        raise UserError("the list is empty", path, "write one picture's name a line")
    return list(dict.fromkeys(names))


def published(data: str, count: int) -> dict | None:
    """The row of lists.yaml for `count` labelled scenes of a set: {count, file}."""
    return next((row for row in yaml.safe_load(LISTS.read_text())["labelled"].get(data, []) if row["count"] == count), None)


def find_list(file: str, folder: str | None) -> Path:
    """A list of lists.yaml by name ("pascal/183/labeled.txt"): in `folder`, also below unimatch/, or downloaded."""
    if folder is not None:
        found = [Path(folder) / below / file for below in ("", "unimatch") if (Path(folder) / below / file).exists()]
        if not found:
            raise UserError(f"no {file}", folder, "give the folder of UniMatch's splits as data.lists, or leave it out")
        return found[0]
    table = yaml.safe_load(LISTS.read_text())
    source = table["files"][file]
    url = f"https://raw.githubusercontent.com/{source['repository']}/{source['commit']}/{source['path']}"
    return download(url, cache() / "lists" / "unimatch" / file, source["sha256"], source["bytes"])


def cache() -> Path:
    """Where downloads are kept: ZOO_CACHE, or ~/.cache/segmentation-zoo."""
    return Path(os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "segmentation-zoo")


# -- own classes -------------------------------------------------------------------------------------------------------
@dataclass
class ClassMap:
    """classes, palette: the own ones. table: the own id, or the ignored value, for each of the set's ids."""

    classes: list[str]
    palette: list[tuple[int, int, int]]
    table: np.ndarray


def read_class_map(path: str, classes: list[str]) -> ClassMap:
    """A yaml of `own class: [names or ids of the set's]`, in the order of the own ids. One may be `rest`: what no other
    names. Classes of the set that are not named are ignored."""
    try:
        rows = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("no such file", path, "set data.class_map to a yaml file of `own class: [classes]`") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not readable as yaml ({str(error).splitlines()[0]})", path, "write `own class: [classes]`") from error
    if not isinstance(rows, dict) or not rows:
        raise UserError("not a map of classes", path, "write lines of `own class: [names or ids of the set's classes]`")
    own = [str(name) for name in rows]
    ignore = ignore_of(len(own))
    table = np.full(len(classes), ignore)
    taken: dict[int, str] = {}
    for number, (name, members) in enumerate(rows.items()):
        if members == REST:
            continue
        for member in members if isinstance(members, list) else [members]:
            label = _class_of(member, classes, path)
            if label in taken:
                raise UserError(f"{classes[label]} is in {taken[label]} and in {name}", path, "name it once")
            table[label], taken[label] = number, str(name)
    rest = [number for number, members in enumerate(rows.values()) if members == REST]
    if len(rest) > 1:
        raise UserError(f"{own[rest[0]]} and {own[rest[1]]} both take the rest", path, "one class may")
    if rest:
        table[[label for label in range(len(classes)) if label not in taken]] = rest[0]
    return ClassMap(own, default_palette(len(own)), table)


def _class_of(member, classes: list[str], path: str) -> int:
    if isinstance(member, int) and not isinstance(member, bool):
        if not 0 <= member < len(classes):
            raise UserError(f"no class {member}", path, f"ids go from 0 to {len(classes) - 1}")
        return member
    if classes.count(member) > 1:
        ids = [str(i) for i, name in enumerate(classes) if name == member]
        raise UserError(f"{member} is the name of {len(ids)} classes", path, f"give the id ({', '.join(ids)})")
    if member not in classes:
        close = next((name for name in classes if str(member).lower() in name.lower()), classes[0])
        raise UserError(f"the set has no class {member!r}", path, f"give a name as the set writes it ({close}, ...) or an id")
    return classes.index(member)
