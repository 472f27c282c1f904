"""Few-shot episodes: a query picture and S pictures of the same class with their masks (datamodules/samples.py, Episode).

Three things meet here: *pictures* of objects, read by name (`ObjectPictures`, one class a data set); *plans*, which say what
each episode of an evaluation is made of; and `EpisodeData`, which makes both into loaders.

The plans of COCO-20i, PASCAL-5i and FSS-1000 are HSNet's (Min et al., ICCV 2021), on which published figures stand: they come
out of one `np.random.RandomState`, drawn from in one order. Supports may then occur twice in an episode.
Training draws its own: the class evenly over the training classes, then a query and supports evenly over the class's pictures,
all different, as functions of (seed, visit). Objects of other classes are background, also those of the classes held out for
the test, as in the published protocols. A picture on which nothing of the object is left at `size` is passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from datamodules.base import StreamData, Whole, guarded, say
from datamodules.errors import UserError
from datamodules.files import Tree, download, offline
from datamodules.pair import same_size
from datamodules.samples import Episode, ExampleSet, collate_episodes, default_palette
from datamodules.scarce import cache
from datamodules.transforms import change_colours

HSNET = Path(__file__).with_name("hsnet.yaml")
IGNORE = 255
LEAST_SIZE = 8


# -- what an evaluation's episodes are made of -------------------------------------------------------------------------
class Plan(NamedTuple):
    """An episode by names."""

    class_id: int                      # place in the data's `classes`
    query: str
    supports: list[str]


Names = dict[int, list[str]]           # class id -> its pictures' names, in the list file's order


def draw(rng: np.random.RandomState, values: list):
    """One of them as `np.random.choice(values, 1, replace=False)` takes it: by shuffling all."""
    return values[rng.permutation(len(values))[0]]


def draw_supports(rng: np.random.RandomState, names: list[str], query: str, shots: int) -> list[str]:
    supports = []
    while len(supports) < shots:
        name = draw(rng, names)
        if name != query:
            supports.append(name)
    return supports


def coco_plans(names: Names, shots: int, count: int, rng: np.random.RandomState) -> list[Plan]:
    """COCO-20i: a class, a query, the supports."""
    plans, classes = [], sorted(names)
    for _ in range(count):
        class_id = draw(rng, classes)
        query = draw(rng, names[class_id])
        plans.append(Plan(class_id, query, draw_supports(rng, names[class_id], query, shots)))
    return plans


def pascal_plans(lines: list[tuple[str, int]], shots: int, count: int, rng: np.random.RandomState) -> list[Plan]:
    """PASCAL-5i: the queries are the lines (name, class id) in their order, over and over."""
    names, plans = by_class(lines), []
    for query, class_id in (lines[i % len(lines)] for i in range(count)):
        plans.append(Plan(class_id, query, draw_supports(rng, names[class_id], query, shots)))
    return plans


def fss_plans(names: Names, shots: int, rng: np.random.RandomState) -> list[Plan]:
    """FSS-1000: every picture is a query once, in the order of the names as strings; the supports are drawn from the names as
    they are given (in the order of their numbers)."""
    return [Plan(class_id, query, draw_supports(rng, names[class_id], query, shots))
            for class_id in sorted(names) for query in sorted(names[class_id])]


def lvis_plans(names: Names, shots: int, count: int, rng: np.random.RandomState) -> list[Plan]:
    """LVIS-92i: the classes in turn, a query, the supports."""
    plans, classes = [], sorted(names)
    for class_id in (classes[i % len(classes)] for i in range(count)):
        query = draw(rng, names[class_id])
        plans.append(Plan(class_id, query, draw_supports(rng, names[class_id], query, shots)))
    return plans


def even_plans(names: Names, shots: int, count: int, rng: np.random.RandomState) -> list[Plan]:
    """For sets without a published protocol: the classes in turn, all pictures of an episode different."""
    plans, classes = [], sorted(names)
    for class_id in (classes[i % len(classes)] for i in range(count)):
        query, *supports = (names[class_id][k] for k in rng.permutation(len(names[class_id]))[:shots + 1])
        plans.append(Plan(class_id, query, supports))
    return plans


def leave_one_out_plans(names: Names, shots: int, rng: np.random.RandomState) -> list[Plan]:
    """Every picture is a query once; its supports are drawn from the others of its class, all different."""
    plans = []
    for class_id in sorted(names):
        for query in names[class_id]:
            others = [name for name in names[class_id] if name != query]
            plans.append(Plan(class_id, query, [others[k] for k in rng.permutation(len(others))[:shots]]))
    return plans


def fixed_plans(plans: list[Plan]) -> list[Plan]:
    """Every class by the supports of its first episode; these are no queries."""
    supports: dict[int, list[str]] = {}
    for plan in plans:
        supports.setdefault(plan.class_id, plan.supports)
    return [plan._replace(supports=supports[plan.class_id]) for plan in plans if plan.query not in supports[plan.class_id]]


def by_class(lines: list[tuple[str, int]]) -> Names:
    names: Names = {}
    for name, class_id in lines:
        names.setdefault(class_id, []).append(name)
    return names


# -- pictures and episodes ---------------------------------------------------------------------------------------------
class ObjectPictures:
    """Pictures of objects, read by name."""

    def picture(self, name: str) -> Tensor:
        """uint8 3 H W."""
        raise NotImplementedError

    def mask(self, name: str, class_id: int) -> Tensor:
        """uint8 H W: 1 where the class is, 0 where it is not, 255 where nobody says."""
        raise NotImplementedError


class View(NamedTuple):
    """A picture with the mask of one class, squared."""

    name: str
    picture: Tensor                    # uint8 3 h h
    mask: Tensor                       # uint8 h h: 0, 1, 255
    truth: Tensor                      # uint8 H W, the mask at the photo's own size

    def shows_object(self) -> bool:
        return bool((self.mask == 1).any())


def view(pictures: ObjectPictures, name: str, class_id: int, size: int, mirrored: bool = False) -> View:
    """The picture squeezed to size x size (bilinear, antialiased), the mask by nearest as published (`F.interpolate`)."""
    picture, mask = pictures.picture(name), pictures.mask(name, class_id)
    same_size(picture, mask, name)
    if mirrored:
        mask, picture = mask.flip(-1), picture.flip(-1)
    if picture.shape[-2:] != (size, size):
        picture = F.interpolate(picture[None], (size, size), mode="bilinear", antialias=True)[0]
    squared = F.interpolate(mask[None, None], (size, size), mode="nearest")[0, 0]
    return View(name, picture.contiguous(), squared.contiguous(), mask.contiguous())


def episode_of(class_id: int, word: str, query: View, supports: list[View]) -> Episode:
    return {
        "query": query.picture, "query_mask": query.mask,
        "supports": torch.stack([s.picture for s in supports]),
        "support_masks": torch.stack([(s.mask == 1).to(torch.uint8) for s in supports]),   # ignored is background here
        "class_id": class_id, "word": word, "name": query.name, "support_names": [s.name for s in supports],
        "size": tuple(query.truth.shape), "query_truth": query.truth,
    }


class Episodes:
    """Planned episodes by number, for evaluation. A mask may come out empty at `size`; it is kept, as published.

    painted: gives an episode's supports more of them, and all of them weights (painted.py).
    """

    def __init__(self, pictures: ObjectPictures, plans: list[Plan], classes: list[str], size: int, painted=None):
        self.pictures, self.plans, self.classes, self.size, self.painted = pictures, plans, classes, size, painted
        self.names = [plan.query for plan in plans]
        self.said = False

    def __len__(self) -> int:
        return len(self.plans)

    def read(self, index: int) -> Episode:
        class_id, *names = self.plans[index].class_id, self.plans[index].query, *self.plans[index].supports
        query, *supports = (view(self.pictures, name, class_id, self.size) for name in names)
        empty = [shown.name for shown in (query, *supports) if not shown.shows_object()]
        if empty and not self.said:
            self.said = True
            say(f"{empty[0]}: no pixel of {self.classes[class_id]} is left at {self.size}x{self.size}; such masks are kept")
        if self.painted is None:
            return episode_of(class_id, self.classes[class_id], query, supports)
        supports, weights = self.painted.joined(ExampleSet(self.classes[class_id], class_id, tuple(names[1:])), supports)
        return episode_of(class_id, self.classes[class_id], query, supports) | {"support_weights": weights}


class Pool:
    """What training episodes are drawn from. flip, colour: probabilities of mirroring a picture and of each colour change."""

    def __init__(self, pictures: ObjectPictures, names: Names, classes: list[str], size: int, flip: float, colour: float):
        self.pictures, self.names, self.classes, self.size = pictures, names, classes, size
        self.flip, self.colour, self.ids = flip, colour, sorted(names)

    def __len__(self) -> int:
        return sum(map(len, self.names.values()))

    def views(self) -> Iterator[View]:
        """Every picture with its class's mask as training may show it, for what is computed once for all visits."""
        if self.colour:
            mend = "set it to 0, or keep no latents"
            raise UserError("colours change with every visit, so latents cannot be kept", "data.colour", mend)
        for class_id in self.ids:
            for name in self.names[class_id]:
                for mirrored in self._mirrored():
                    yield view(self.pictures, name, class_id, self.size, mirrored)

    def view_count(self) -> int:
        return len(self) * len(self._mirrored())

    def _mirrored(self) -> list[bool]:
        return {0: [False], 1: [True]}.get(self.flip, [False, True])

    def draw(self, shots: int, rng: np.random.Generator) -> Episode:
        """With fewer shots, the same generator gives the same query and the first of the same supports."""
        class_id = self.ids[rng.integers(len(self.ids))]
        names, shown = self.names[class_id], []
        for place in rng.permutation(len(names)):
            one = view(self.pictures, names[place], class_id, self.size, mirrored=rng.random() < self.flip)
            if self.colour:
                one = one._replace(picture=change_colours(one.picture, rng, self.colour).contiguous())
            if one.shows_object():
                shown.append(one)
            if len(shown) == shots + 1:
                return episode_of(class_id, self.classes[class_id], shown[0], shown[1:])
        raise UserError(f"at {self.size}x{self.size} only {len(shown)} of {len(names)} pictures show it, {shots} shots need "
                        f"{shots + 1}", f"class {self.classes[class_id]}", "raise data.size or lower data.train_shots")


class Drawn(Dataset):
    """[(visit, any)]: a training episode that depends on nothing but (seed, visit), and how many shots its batch has.

    group: samples of a batch over all processes, which have as many shots as each other: from[0] to from[1], by
    (seed, number of the batch).
    """

    def __init__(self, pool: Pool, seed: int, shots: tuple[int, int], group: int):
        self.pool, self.seed, self.shots, self.group = pool, seed, shots, group

    def __len__(self) -> int:
        return len(self.pool)

    def views(self) -> Iterator[View]:
        return self.pool.views()

    def view_count(self) -> int:
        return self.pool.view_count()

    def shots_of(self, visit: int) -> int:
        low, high = self.shots
        return int(np.random.default_rng((self.seed, 5, visit // self.group)).integers(low, high + 1))

    def __getitem__(self, key: tuple[int, int]) -> Episode:
        rng = np.random.default_rng((self.seed, 1, key[0]))
        return guarded(lambda: self.pool.draw(self.shots_of(key[0]), rng), f"visit {key[0]}")


# -- the data module ---------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False, repr=False)
class EpisodeData(StreamData):
    """Loaders of episodes. A set states `name` and `classes` before it calls this `__post_init__`, and defines
    `names_by_class(split)`, `make_plans(split)` and `pictures(split)`.

    shots: of evaluation. train_shots: from and to, drawn for each batch. size: side of the squares. episodes: so many in an
    evaluation (null: every picture a query); val_episodes: so many of these for validation, drawn among them (null: all).
    flip, colour: probabilities of mirroring and of each colour change in training; published: none.
    fixed: in evaluation every class is known by one set of supports, whatever the query (which is none of them).
    synthetic: a folder of painted pictures, of which evaluation takes up to synthetic_shots (null: all) beside an episode's own
    supports, made from these (painted.py); augmented: so many changed copies of them in its place; synthetic_weight: how much
    one of either counts against a real one.
    seed: of the evaluation's episodes, published: 0. training_seed: of those drawn for training (null: seed).
    """

    shots: int = 1
    train_shots: tuple[int, int] = (1, 1)
    size: int = 512
    episodes: int | None = None
    val_episodes: int | None = None
    flip: float = 0.0
    colour: float = 0.0
    training_seed: int | None = None
    fixed: bool = False
    synthetic: str | None = None
    synthetic_shots: int | None = None
    augmented: int = 0
    synthetic_weight: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.synthetic_weight <= 0 or (self.synthetic_shots is not None and self.synthetic_shots < 1):
            what = f"weight {self.synthetic_weight}, shots {self.synthetic_shots}"
            raise UserError(what, "data.synthetic_weight, synthetic_shots", "give a weight above 0, and 1 shot or more")
        if self.augmented < 0 or (self.augmented and self.synthetic is not None):
            raise UserError(f"{self.augmented} copies", "data.augmented", "give 0 or more, and none beside data.synthetic")
        if self.shots < 1:
            raise UserError(f"{self.shots} shots", "data.shots", "give 1 or more")
        if not 1 <= self.train_shots[0] <= self.train_shots[1]:
            raise UserError(f"{list(self.train_shots)} shots", "data.train_shots", "give [least, most] from 1 on, say [1, 5]")
        if self.size < LEAST_SIZE:
            raise UserError(f"{self.size} pixels", "data.size", f"give {LEAST_SIZE} or more")
        for key in ("episodes", "val_episodes"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise UserError(f"{getattr(self, key)} episodes", f"data.{key}", "give 1 or more, or null")
        for key in ("flip", "colour"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"{getattr(self, key)} is not between 0 and 1", f"data.{key}", "it is a probability")
        for key in ("seed", "training_seed"):
            if not 0 <= (getattr(self, key) or 0) < 2**32:
                raise UserError(f"{getattr(self, key)} is no seed", f"data.{key}", "give 0 to 4294967295")
        self.num_classes, self.ignore, self.samples = len(self.classes), IGNORE, "episodes"
        self.palette = default_palette(len(self.classes) + 1)[1:]            # without the background's black
        self.groups: dict[str, list[str]] = {}               # words that evaluate.py also means figures over
        self._sources: dict[str, Pool | Episodes] = {}
        self._pictures: dict[str, ObjectPictures] = {}

    def names_by_class(self, split: str) -> Names:
        """The pictures of each class of train, val or test. Which classes these are is the protocol's matter."""
        raise NotImplementedError

    def make_plans(self, split: str) -> list[Plan]:
        """The episodes of val or test by the protocol, drawn with `rng()`."""
        raise NotImplementedError

    def pictures(self, split: str) -> ObjectPictures:
        raise NotImplementedError

    def class_ids(self, split: str) -> list[int]:
        """The classes of a split, over which its figures are means."""
        return sorted(self.names_by_class(split))

    def rng(self) -> np.random.RandomState:
        """What an evaluation's episodes are drawn with."""
        return np.random.RandomState(self.seed)

    def plans(self, split: str) -> list[Plan]:
        """The episodes of val or test; for this the lists are needed, but no picture."""
        self.refuse_small(self.names_by_class(split), self.shots, "data.shots")
        plans = fixed_plans(self.make_plans(split)) if self.fixed else self.make_plans(split)
        if split == "val" and self.val_episodes is not None:
            plans = [plans[i] for i in sorted(self.rng().permutation(len(plans))[:self.val_episodes])]
        return plans

    def source(self, split: str) -> Pool | Episodes:
        if split not in self._sources:
            make = self._pool if split == "train" else self._episodes
            self._sources[split] = make(split, self.pictures(split))
        return self._sources[split]

    def _pool(self, split: str, pictures: ObjectPictures) -> Pool:
        names = self.names_by_class(split)
        self.refuse_small(names, self.train_shots[1], "data.train_shots")
        return Pool(pictures, names, self.classes, self.size, self.flip, self.colour)

    def _episodes(self, split: str, pictures: ObjectPictures) -> Episodes:
        from datamodules.painted import AugmentedSupports, PaintedSupports

        plans = self.plans(split)
        if self.fixed:
            plans.sort(key=attrgetter("class_id"))           # neighbours share their supports: methods may read these once
        painted = AugmentedSupports(self.augmented, self.synthetic_weight) if self.augmented else None
        if self.synthetic is not None:
            asked = {ExampleSet(self.classes[p.class_id], p.class_id, tuple(p.supports)).key for p in plans}
            painted = PaintedSupports(self.synthetic, asked, self.size, self.synthetic_shots, self.synthetic_weight)
            painted.expect({self.classes[p.class_id] for p in plans})
        return Episodes(pictures, plans, self.classes, self.size, painted)

    # -- examples, for methods that learn from a few pictures of a class --
    def example_sets(self, split: str) -> list[ExampleSet]:
        """The different sets of supports of a split's episodes."""
        sets = (ExampleSet(self.classes[plan.class_id], plan.class_id, tuple(plan.supports)) for plan in self.plans(split))
        return list({one.key: one for one in sets}.values())

    def example(self, split: str, name: str, class_id: int) -> tuple[Tensor, Tensor]:
        """A picture uint8 3 H W with its mask, fp32 H W in 0..1."""
        if split not in self._pictures:
            self._pictures[split] = self.pictures(split)
        pictures = self._pictures[split]
        picture, mask = pictures.picture(name), pictures.mask(name, class_id)
        same_size(picture, mask, name)
        return picture, (mask == 1).float()

    def refuse_small(self, names: Names, shots: int, key: str) -> None:
        """Every class must have a query and `shots` supports."""
        if not names:
            raise UserError("no classes", self.name, "the lists or folders name none for this split")
        counts = {class_id: len(set(pictures)) for class_id, pictures in names.items()}
        smallest = min(counts, key=counts.get)
        if counts[smallest] <= shots:
            what = f"{shots} shots and a query, but {self.classes[smallest]} has {counts[smallest]} pictures"
            lower = f"set {key} to {counts[smallest] - 1} or less, or " if counts[smallest] > 1 else ""
            raise UserError(what, self.name, f"{lower}add pictures")

    def training(self) -> Dataset:
        seed = self.seed if self.training_seed is None else self.training_seed
        return Drawn(self.source("train"), seed, tuple(self.train_shots), self.batch_size * self._place()[1])

    def evaluation(self, split: str) -> Dataset:
        return Whole(self.source(split))

    def collate(self, samples: list[Episode]) -> dict:
        return collate_episodes(samples)


def refuse_fold(fold: int, folds: int) -> None:
    if not 0 <= fold < folds:
        raise UserError(f"no fold {fold}", "data.fold", f"give 0 to {folds - 1}")


# -- HSNet's list files ------------------------------------------------------------------------------------------------
def find_list(file: str, folder: str | None, tree: Tree) -> Path:
    """A list by name ("coco/val/fold0.pkl"): in `folder`, also below hsnet/; else in the tree's splits/ ("splits/val/fold0.pkl",
    as DiffewS and Matcher lay it); else downloaded once and verified."""
    table = yaml.safe_load(HSNET.read_text())
    home = f"github.com/{table['repository']}, {table['path']}/{file}"
    if folder is not None:
        found = [path for below in ("", "hsnet") if (path := Path(folder) / below / file).is_file()]
        if not found:
            raise UserError(f"no {file}", folder, f"put it there ({home}), or leave data.lists out to download it")
        return found[0]
    local = f"splits/{file.partition('/')[2]}"
    if not tree.zipped and tree.has(local):
        return Path(tree.where(local))
    kept = cache() / "lists" / "hsnet" / file
    if offline() and not kept.exists():
        raise UserError(f"no {file}", tree, f"give HSNet's lists as data.lists=<folder> ({home}); offline they are not fetched")
    url = f"https://raw.githubusercontent.com/{table['repository']}/{table['commit']}/{table['path']}/{file}"
    facts = table["files"][file]
    return download(url, kept, facts["sha256"], facts["bytes"])


def read_lines(path: Path) -> list[str]:
    """The lines of a text list that are not empty."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("not a readable text file", path, "download it again") from error
    lines = [line for line in lines if line]
    if not lines:
        raise UserError("the list is empty", path, "download it again")
    return lines
