"""Look at every file of a data set: python -m datamodules.check data=<set> data.root=<place>

Also: workers=4 (processes), splits=[train,val], out=check.json, and the settings of the set (--help data=<set>).
All pictures and labels of the splits are read, in parallel and to the end, whatever is found. `labelled`, `class_map`,
`synthetic` and `segments` change nothing: the set is looked at as it lies on the disk. Exit status:

1  something is wrong: files that are missing or cannot be read, labels of another size than their picture, values that
   are no class, one picture in two splits, whatever training would refuse to begin with, a numbering that looks off by one,
   or more than one mask in a hundred without a label.
0  nothing is wrong. What is only worth a look is listed and does not change the status: single masks without a label, of
   one value, or of nothing but 0 and 255; classes that never occur; masks without a picture; pictures twice in a split.
2  the settings are unusable; nothing was looked at.
"""

import hashlib
import os
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import torch

from datamodules.episodes import EpisodeData
from datamodules.errors import UserError, door, noting
from datamodules.files import LABELS, PICTURES, Tree, make_folder, write_json
from datamodules.numbering import Values
from datamodules.pair import PairData
from datamodules.paired import PairedScenes
from datamodules.samples import ignore_of
from datamodules.settings import check_values, help_text, make, read_settings
from datamodules.sources import SceneFiles, SceneSource, settle_labels

USAGE = "python -m datamodules.check data=<set> data.root=<place> [workers=4] [splits=[train,val]] [out=check.json]"
SPLITS = ("train", "val", "test")
WRONG = {                                                    # kinds of problems, worst first, and what they are called
    "refused": "what training would refuse to begin with",
    "missing": "files that are missing",
    "picture": "pictures that cannot be read",
    "mask": "labels that cannot be read or understood",
    "crash": "samples whose reading ends the process",
    "failure": "samples whose reading fails in a way that is not foreseen",
    "size": "labels of another size than their picture",
    "range": "labels that are no class",
    "numbering": "a numbering that looks wrong",
    "unlabelled": "splits with many masks that label nothing",
    "both": "pictures in two splits",
}
SUSPECT = {
    "empty": "masks with nothing but ignored pixels",
    "white": "masks of nothing but 0 and 255, where 255 is ignored",
    "single": "masks of one value only",
    "orphan": "labels without a picture",
    "twice": "pictures twice in one split",
    "absent": "classes that never occur",
}
FEW = 0.01                             # a larger share of masks that label nothing than this is wrong
SHOWN = 3                              # files listed on the screen for each kind
TABLE = 40                             # more classes than these are listed in the JSON only
PAUSE = 10.0                           # seconds between two lines of progress where there is no terminal


# -- one sample, in a worker -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Problem:
    """One thing found. kind: a key of WRONG or SUSPECT; name: the sample's, "" for the set; what: a line of its own."""

    kind: str
    split: str
    name: str
    what: str


@dataclass
class Look:
    """What one sample shows: problems as (kind, what), the picture's digest and size, pixels by file value (where these are
    classes) and by class."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    digest: str | None = None
    size: tuple[int, int] | None = None
    values: dict[int, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    wide: bool = False                 # whether the label file holds more than 8 bit
    area: int = 0                      # pixels of the labels that were read


class Objects(SceneSource):
    """The pictures of a set of episodes, each with a class it is listed for."""

    def __init__(self, data: EpisodeData, split: str):
        self.pictures, self.words = data.pictures(split), data.classes
        self.rows = [(class_id, name) for class_id, names in data.names_by_class(split).items() for name in names]
        self.names = [f"{name} ({data.classes[class_id]})" for class_id, name in self.rows]


_walked: dict[str, SceneSource] = {}   # a worker's sources by split: set once when it starts, so tasks stay small


def _start(sources: dict[str, SceneSource]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)             # Ctrl-C reaches all processes; the first one ends the others
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")                          # decoders warn of what is reported here
    _walked.update(sources)


def _look(split: str, index: int) -> Look:
    return look(_walked[split], index)


def look(source: SceneSource, index: int) -> Look:
    """Reads one sample; whatever goes wrong is a problem of it, and never ends the walk."""
    seen = Look()
    try:
        if isinstance(source, SceneFiles):
            look_at_files(source, index, seen)
        elif isinstance(source, Objects):
            look_at_object(source, index, seen)
        else:
            look_at_scene(source, index, seen)
    except Exception as error:                               # a bug, but one file's: the others are still looked at
        seen.problems.append(("failure", f"{source.names[index]}: {type(error).__name__}: {error}"))
    return seen


def look_at_files(source: SceneFiles, index: int, seen: Look) -> None:
    here = [source.tree.has(name) for name in source.pairs[index]]
    seen.problems += [("missing", f"{where}: missing") for where, there in zip(source.files(index), here) if not there]
    if here[0]:
        try:
            seen.digest = hashlib.sha256(source.tree.open(source.pairs[index][0])).hexdigest()
            seen.size = tuple(source.picture(index).shape[-2:])
        except UserError as error:
            seen.problems.append(("picture", str(error)))
    if here[1]:
        look_at_labels(source, index, seen)


def look_at_labels(source: SceneFiles, index: int, seen: Look) -> None:
    picture, where = source.files(index)
    if PurePosixPath(picture).stem != PurePosixPath(where).stem:
        where = f"{where} ({source.names[index]})"           # one file labels many pictures
    kind = "mask"
    try:
        if is_plain(source):
            labels, kind = source.raw(index), "range"
            seen.values, seen.wide = counted(labels), labels.dtype != torch.uint8
            seen.labels = settled(source, seen.values, where)
        else:
            labels = source.read_labels(index)
            seen.labels = counted(labels)
    except UserError as error:
        seen.problems.append((kind, str(error)))
    if seen.values or seen.labels:
        compare_sizes(labels, where, seen)
    if seen.labels:
        seen.area = labels.numel()
        seen.problems += odd_values(seen, source, where)


def look_at_object(source: Objects, index: int, seen: Look) -> None:
    (class_id, name), where = source.rows[index], source.names[index]
    try:
        picture = source.pictures.picture(name)
        seen.digest, seen.size = digest(picture), tuple(picture.shape[-2:])
    except UserError as error:
        seen.problems.append(("picture", str(error)))
    try:
        mask = source.pictures.mask(name, class_id)
    except UserError as error:
        seen.problems.append(("mask", str(error)))
        return
    compare_sizes(mask, where, seen)
    found, seen.area = counted(mask), mask.numel()
    if set(found) - {0, 1, 255}:
        seen.problems.append(("range", f"{where}: a mask of one object holds {listed(found)}"))
    elif 1 not in found:
        seen.problems.append(("empty", f"{where}: no pixel of {source.words[class_id]}"))
    seen.labels = {class_id: found.get(1, 0), -1: found.get(255, 0)}


def look_at_scene(source: SceneSource, index: int, seen: Look) -> None:
    """A source that is no pair of files: pictures and labels come together or not at all."""
    try:
        scene = source.read(index)
    except UserError as error:
        seen.problems.append(("picture", str(error)))
        return
    seen.digest, seen.size = digest(scene["image"]), tuple(scene["image"].shape[-2:])
    compare_sizes(scene["labels"], scene["name"], seen)
    seen.labels, seen.area = counted(scene["labels"]), scene["labels"].numel()


def digest(picture: torch.Tensor) -> str:
    return hashlib.sha256(picture.contiguous().numpy()).hexdigest()


def compare_sizes(labels: torch.Tensor, where: str, seen: Look) -> None:
    if seen.size is not None and tuple(labels.shape) != seen.size:
        (rows, columns), (height, width) = labels.shape, seen.size
        seen.problems.append(("size", f"{where}: labels of {columns}x{rows} for a picture of {width}x{height}"))


def counted(values: torch.Tensor) -> dict[int, int]:
    """How often each value (-1 or more) occurs."""
    if values.dtype != torch.uint8:
        values = values + 1
    counts = torch.bincount(values.flatten())
    first = 0 if values.dtype == torch.uint8 else -1
    return {int(value) + first: int(counts[value]) for value in counts.nonzero()}


def is_plain(source: SceneSource) -> bool:
    """Whether a label file's own values are its classes, but for a shift and what is ignored."""
    return isinstance(source, SceneFiles) and type(source).read_labels is SceneFiles.read_labels


def settled(source: SceneFiles, values: dict[int, int], where: str) -> dict[int, int]:
    """Pixels by class of a label file with these values."""
    raw = torch.tensor(list(values), dtype=torch.int32)
    labels = settle_labels(raw, source.classes, where, source.label_shift, source.white)
    found = Counter()
    for label, pixels in zip(labels.tolist(), values.values()):
        found[label] += pixels
    return dict(found)


def odd_values(seen: Look, source: SceneFiles, where: str) -> list[tuple[str, str]]:
    """What a mask that can be read makes one wonder about, at most one thing."""
    ignore, values = ignore_of(source.classes), seen.values or seen.labels
    if set(seen.labels) == {ignore}:
        return [("empty", f"{where}: every pixel is ignored (its values: {listed(values)})")]
    if set(seen.values) == {0, 255} and source.white is None and ignore == 255:
        return [("white", f"{where}: its values are 0 and 255, and 255 is ignored")]
    if len(values) == 1:
        return [("single", f"{where}: every pixel has the value {listed(values)}")]
    return []


def listed(values: Iterable) -> str:
    values = list(values)
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


# -- all samples -------------------------------------------------------------------------------------------------------
Key = tuple[str, int]                  # split and number of a sample


def walk(sources: dict[str, SceneSource], workers: int) -> Iterator[tuple[Key, Look]]:
    """Every sample's look, as it comes. A sample whose reading ends its process is found by reading the suspects alone."""
    cv2.setNumThreads(1)                                     # a forked worker hangs in what is left of OpenCV's threads
    todo = deque((split, index) for split, source in sources.items() for index in range(len(source)))
    while todo:
        suspects = []
        yield from walk_until_broken(sources, workers, todo, suspects)
        for key in suspects:
            alone = []
            yield from walk_until_broken(sources, 1, deque([key]), alone)
            if alone:
                mend = "a decoder that crashes, or too little memory; replace the file, or remove it from the set"
                yield key, Look([("crash", f"{place(sources, key)}: reading it ends the process ({mend})")])


def walk_until_broken(sources: dict, workers: int, todo: deque, suspects: list[Key]) -> Iterator[tuple[Key, Look]]:
    """Takes samples from `todo` until it is empty or a worker dies; `suspects` are then those that were being read."""
    pool, running = ProcessPoolExecutor(workers, initializer=_start, initargs=(sources,)), {}
    try:
        while running or (todo and not suspects):
            while todo and not suspects and len(running) < 2 * workers:
                key = todo.popleft()
                try:
                    running[pool.submit(_look, *key)] = key
                except BrokenProcessPool:
                    suspects.append(key)
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(done)
                try:
                    yield key, done.result()
                except BrokenProcessPool:
                    suspects.append(key)
    finally:
        pool.shutdown(cancel_futures=True)


def place(sources: dict[str, SceneSource], key: Key) -> str:
    """Where a sample lies, for people."""
    source = sources[key[0]]
    return " and ".join(source.files(key[1])) if isinstance(source, SceneFiles) else source.names[key[1]]


# -- the whole set -----------------------------------------------------------------------------------------------------
@dataclass
class Tally:
    """What a split adds up to. pixels, pictures: [K], by class; values: masks in which a file value occurs; files, wide: masks
    whose values are known, and those of more than 8 bit; masks: those whose classes are known."""

    pixels: np.ndarray
    pictures: np.ndarray
    ignored: int = 0
    area: int = 0
    masks: int = 0
    files: int = 0
    wide: int = 0
    values: Counter = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)           # smallest and largest
    digests: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, index: int, seen: Look) -> None:
        if seen.digest:
            self.digests[seen.digest].append(index)
        if seen.size:
            area = lambda size: size[0] * size[1]
            self.sizes = [f([*self.sizes, seen.size], key=area) for f in (min, max)]
        self.values.update(dict.fromkeys(seen.values, 1))
        self.files += bool(seen.values)
        self.wide += seen.wide
        self.masks += bool(seen.labels)
        self.area += seen.area
        for label, pixels in seen.labels.items():
            if 0 <= label < len(self.pixels):
                self.pixels[label] += pixels
                self.pictures[label] += pixels > 0
            else:
                self.ignored += pixels


def of_the_set(data, sources: dict[str, SceneSource], tallies: dict[str, Tally], problems: list[Problem]) -> list[Problem]:
    """Problems that show only when all samples have been seen."""
    found = many_unlabelled(tallies, problems) + duplicates(sources, tallies)
    if any(tally.files for tally in tallies.values()):
        found += [Problem(kind, "", "", line) for kind, line in numbering(data, sources, tallies)]
    return found + absent(sources, tallies, data.classes) + orphans(sources)


def numbering(data, sources: dict[str, SceneSource], tallies: dict[str, Tally]) -> list[tuple[str, str]]:
    """What the values of the label files say against the way they are read, as (kind, what)."""
    source = next(source for source in sources.values() if is_plain(source))
    known = (data.void, data.rare) if isinstance(data, PairedScenes) else (None, None)
    values = Values(sum((tally.values for tally in tallies.values()), Counter()), sum(tally.files for tally in tallies.values()),
                    data.classes, source.label_shift, source.white, *known)
    found = []
    if len(data.classes) > 255 and not any(tally.wide for tally in tallies.values()):
        line = f"8 bit masks for {len(data.classes)} classes: values above 255 are lost, and 255 is {data.classes[255]}"
        found.append(("numbering", line))
    if line := values.verdict():
        found.append(("numbering", line))
    elif source.label_shift == 0 and not values.masks[0]:
        found.append(("absent", f"0 ({data.classes[0]}) is in no mask; if it should be in some, the set may count from 1 "
                                "(data.label_shift=-1): the values alone cannot tell"))
    return found


def many_unlabelled(tallies: dict[str, Tally], problems: list[Problem]) -> list[Problem]:
    counts, found = Counter((problem.kind, problem.split) for problem in problems), []
    for split, tally in tallies.items():
        empty, white, single = (counts[kind, split] for kind in ("empty", "white", "single"))
        said = []
        if empty > FEW * tally.masks:
            said.append(f"{empty} of its {tally.masks} masks hold nothing but ignored pixels")
        if white > FEW * tally.masks:
            said.append(f"{white} of its {tally.masks} masks hold nothing but 0 and 255, and 255 is ignored; if it is a class, "
                        "write its number in its place (data=folder: data.white=1)")
        if single == tally.masks > 1:
            said.append(f"each of its {single} masks holds one value only")
        found += [Problem("unlabelled", split, "", f"{split}: {line}") for line in said]
    return found


def duplicates(sources: dict[str, SceneSource], tallies: dict[str, Tally]) -> list[Problem]:
    """Pictures whose files are equal byte for byte (whose pixels are, in sources without files)."""
    keys = defaultdict(list)
    for split, tally in tallies.items():
        for digest, indices in tally.digests.items():
            keys[digest] += [(split, index) for index in sorted(indices)]
    found = []
    for equal in keys.values():
        places = dict.fromkeys((split, picture_of(sources[split], index)) for split, index in equal)
        if len(places) > 1:
            split, index = equal[0]
            kind = "both" if len({split for split, _ in places}) > 1 else "twice"
            what = " = ".join(f"{picture} ({split})" for split, picture in places)
            found.append(Problem(kind, split, sources[split].names[index], what))
    return found


def picture_of(source: SceneSource, index: int) -> str:
    """Where a sample's picture lies, for people."""
    if isinstance(source, Objects):
        return source.rows[index][1]
    return source.files(index)[0] if isinstance(source, SceneFiles) else source.names[index]


def absent(sources: dict[str, SceneSource], tallies: dict[str, Tally], classes: list[str]) -> list[Problem]:
    """Classes that a split lacks; those of episodes are the split's own."""
    found, known = [], {split: tally for split, tally in tallies.items() if tally.masks}
    for split, tally in known.items():
        source = sources[split]
        wanted = {class_id for class_id, _ in source.rows} if isinstance(source, Objects) else set(range(len(classes)))
        never = [classes[label] for label in sorted(wanted) if not tally.pictures[label]]
        if never:
            found.append(Problem("absent", split, "", f"{len(never)} of {len(wanted)} never in {split}: {listed(never)}"))
        only = (tally.pictures > 0) & (known["train"].pictures == 0) if "train" in known else np.zeros(len(classes), bool)
        if only.any() and not isinstance(source, Objects):
            names = listed(classes[label] for label in np.flatnonzero(only))
            found.append(Problem("absent", split, "", f"in {split} and never in train: {names}"))
    return found


def orphans(sources: dict[str, SceneSource]) -> list[Problem]:
    """Label files in the folders of the pairs that have no picture, where a picture and its labels share their stem."""
    found, folders, known = [], {}, set()
    for split, source in sources.items():
        paths = [tuple(map(PurePosixPath, pair)) for pair in source.pairs] if isinstance(source, SceneFiles) else []
        if all(picture.stem == mask.stem for picture, mask in paths):
            folders |= {str(mask.parent): (split, source.tree, str(picture.parent)) for picture, mask in paths}
            known |= {str(mask) for _, mask in paths}
    for masks, (split, tree, images) in folders.items():
        stems = {PurePosixPath(name).stem for name in inside(tree, images, PICTURES)}
        lost = [name for name in inside(tree, masks, LABELS) if name not in known and PurePosixPath(name).stem not in stems]
        found += [Problem("orphan", split, PurePosixPath(name).stem, f"{tree.where(name)}: no picture") for name in lost]
    return found


def inside(tree: Tree, folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files right in a folder."""
    return [name for name in tree.list("" if folder == "." else folder, suffixes) if str(PurePosixPath(name).parent) == folder]


# -- the command -------------------------------------------------------------------------------------------------------
def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(help_text(__doc__, arguments))
        return 0
    return run(read_settings("check", arguments, USAGE))


def run(config: dict) -> int:
    """Looks at the set, prints what is found and writes all of it to `out`. Returns the exit status, 0 or 1."""
    workers, out = config["workers"], Path(str(config["out"]))
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if type(workers) is not int or workers < 1:
        raise UserError(f"{workers!r} processes", "workers", "give 1 or more")
    splits = asked(config["splits"])
    if out.suffix != ".json":
        raise UserError("what is found is written as JSON", f"out={out}", "end the name in .json")
    make_folder(out.parent)                                  # before the walk, not after it
    whole = {"labelled": None, "class_map": None, "synthetic": None, "segments": False}
    with noting() as noted:
        settings = config["data"] | {key: value for key, value in whole.items() if key in config["data"]}
    check_values(settings, dict, "data")
    data = make(settings)
    sources, problems = make_sources(data, splits)
    problems += [Problem("refused", "", "", str(error)) for error in noted]

    classes = data.classes
    tallies = {split: Tally(*np.zeros((2, len(classes)), np.int64)) for split in sources}
    total, count = sum(map(len, sources.values())), 0
    with Progress(total) as progress:
        for (split, index), seen in walk(sources, min(workers, total)):
            tallies[split].add(index, seen)
            problems += [Problem(kind, split, sources[split].names[index], what) for kind, what in seen.problems]
            count += 1
            progress.show(count, len(problems))
    problems += of_the_set(data, sources, tallies, problems)
    order = [*WRONG, *SUSPECT]
    problems.sort(key=lambda problem: (order.index(problem.kind), problem.split, problem.what))
    print_summary(sources, tallies, classes)
    print_problems(problems, str(out))
    write_json(out, report(config, sources, tallies, classes, problems))
    print(f"report: {out}")
    return int(any(problem.kind in WRONG for problem in problems))


def asked(splits) -> list[str]:
    splits = [splits] if isinstance(splits, str) else splits
    wrong = [split for split in splits or [] if split not in SPLITS]
    if wrong or not splits:
        raise UserError(f"no split {wrong[0]}" if wrong else "no split is named", "splits", f"give some of [{','.join(SPLITS)}]")
    return list(dict.fromkeys(splits))


def make_sources(data, splits: list[str]) -> tuple[dict[str, SceneSource], list[Problem]]:
    """The whole splits, and what training would refuse of them; that none of them can be made is an error."""
    sources, problems, errors = {}, [], []
    for split in splits[:1] if isinstance(data, PairData) else splits:                # each split of pairs is all of them
        with noting() as noted:
            try:
                sources[split] = Objects(data, split) if isinstance(data, EpisodeData) else data.make_source(split)
            except UserError as error:
                errors.append(error)
                noted.append(error)
        problems += [Problem("refused", split, "", f"{split}: {error}") for error in noted]
    if not sources:
        raise errors[0]
    return sources, problems


# -- what is shown and written -----------------------------------------------------------------------------------------
class Progress:
    """A bar on a terminal; elsewhere a line every few seconds."""

    def __init__(self, total: int):
        from rich import progress

        parts = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn(), "{task.description}")
        self.bar = progress.Progress(*parts, auto_refresh=False, transient=True)      # no thread beside the processes
        self.task = self.bar.add_task("", total=total)
        self.total, self.shown, self.terminal = total, time.monotonic(), self.bar.console.is_terminal

    def __enter__(self):
        if self.terminal:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.terminal:
            self.bar.stop()

    def show(self, count: int, problems: int) -> None:
        now = time.monotonic()
        if now - self.shown < (0.1 if self.terminal else PAUSE):
            return
        self.shown, found = now, f"{problems} found" if problems else ""
        if self.terminal:
            self.bar.update(self.task, completed=count, description=found, refresh=True)
        else:
            print(f"looked at {count} of {self.total} samples" + (f", {found}" if found else ""), flush=True)


def print_summary(sources: dict[str, SceneSource], tallies: dict[str, Tally], classes: list[str]) -> None:
    """Sizes of the splits, and of up to TABLE classes the share of pixels and the number of pictures."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 100, highlight=False, markup=False)
    table = Table("split", *(("samples", "labels read", "picture sizes", "ignored", "classes")))
    for split, tally in tallies.items():
        sizes = " to ".join(dict.fromkeys(f"{width}x{height}" for height, width in tally.sizes))
        ignored = f"{100 * tally.ignored / max(tally.area, 1):.1f} %"
        table.add_row(split, str(len(sources[split])), str(tally.masks), sizes, ignored,
                      f"{np.count_nonzero(tally.pictures)} of {len(classes)}")
    console.print(table)
    if len(classes) <= TABLE:
        table = Table("class", *(f"{split}: {what}" for split in tallies for what in ("pixels", "pictures")))
        shares = [tally.pixels / max(tally.pixels.sum(), 1) for tally in tallies.values()]
        for label, name in enumerate(classes):
            cells = [(f"{100 * share[label]:.2f} %", str(t.pictures[label])) for share, t in zip(shares, tallies.values())]
            table.add_row(f"{label} {name}", *(cell for pair in cells for cell in pair))
        console.print(table)


def print_problems(problems: list[Problem], out: str) -> None:
    for title, kinds in (("WRONG", WRONG), ("worth a look", SUSPECT)):
        found = {kind: [problem.what for problem in problems if problem.kind == kind] for kind in kinds}
        for kind, lines in ((kind, lines) for kind, lines in found.items() if lines):
            print(f"{title}: {kinds[kind]} ({len(lines)})")
            for line in lines[:SHOWN]:
                print(f"  {line}")
            if len(lines) > SHOWN:
                print(f"  ... and {len(lines) - SHOWN} more, see {out}")
    if not any(problem.kind in WRONG for problem in problems):
        print("nothing wrong was found")


def report(config: dict, sources: dict[str, SceneSource], tallies: dict[str, Tally], classes: list[str],
           problems: list[Problem]) -> dict:
    """Everything, as it is written to `out`. pixels, pictures: in the order of classes; values: masks with each file value."""
    splits = {
        split: {"samples": len(sources[split]), "labels_read": tally.masks, "sizes": tally.sizes,
                "ignored_pixels": tally.ignored, "pixels": tally.pixels.tolist(), "pictures": tally.pictures.tolist(),
                "values": dict(sorted(tally.values.items()))}
        for split, tally in tallies.items()
    }
    named = lambda kinds: [asdict(problem) for problem in problems if problem.kind in kinds]
    return {"data": config["data"], "classes": classes, "splits": splits, "wrong": named(WRONG), "suspect": named(SUSPECT)}


if __name__ == "__main__":
    door(lambda: sys.exit(main(sys.argv[1:])))
