"""Generalised few-shot segmentation: one segmenter for base classes, of which there are many labelled scenes, and novel ones, of
which there are a few pictures each.

    data=voc_generalised data.scenes.root=<VOC2012> data.fold=0 data.phase=base            first the base classes alone
    data=voc_generalised ... data.phase=novel data.shots=1 [data.synthetic=<folder>]       then all of them

In phase base a scene with anything novel in it is left out. In phase novel the same scenes are shown again (replay); a share of
the samples are the novel classes' few scenes and the painted ones of `synthetic`, and into those that are replayed objects out
of these are pasted (as in GAPS: mirrored, 0.1 to 2 times as large, anywhere, with hard edges). Validation is on all classes;
background counts among the base ones. Which classes are in which training scene is read once and kept in ZOO_CACHE.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from datamodules.base import Augmented, Mixed, Part, SceneData, SceneSource, made_scenes, say
from datamodules.errors import UserError
from datamodules.files import write_json
from datamodules.samples import ExampleSet, Scene
from datamodules.scarce import cache
from datamodules.transforms import Range, SceneTransform

BASE, NOVEL = PHASES = ("base", "novel")
LEAST = 0.002                            # share of a scene's pixels from which a class is in it, for an example


@dataclass
class Thing:
    """An object cut out of a picture: uint8 3 h w, bool h w, its class's number."""

    picture: Tensor
    mask: Tensor
    label: int


@dataclass(kw_only=True, eq=False, repr=False)
class Generalised(SceneData):
    """scenes: the set. novel: its novel classes, or null: those of `fold` of `folds`, in runs (PASCAL-5i) or by turns (COCO-20i).
    shots: pictures of each novel class, drawn with the seed. novel_share: of the samples that are novel pictures, real or
    painted. paste: probability that something is pasted into one of the others; paste_scale: from and to."""

    scenes: SceneData | None = None
    novel: list[str] | None = None
    fold: int = 0
    folds: int = 4
    by_turns: bool = False
    phase: str = NOVEL
    shots: int = 1
    novel_share: float = 0.3
    paste: float = 0.5
    paste_scale: Range = (0.1, 2.0)

    def __post_init__(self):
        if self.scenes is None:
            raise UserError("no set", "data.scenes", "give one, as data=voc_generalised does")
        if self.phase not in PHASES:
            raise UserError(f"phase={self.phase!r}", "data.phase", f"give {' or '.join(PHASES)}")
        if self.shots < 1 or not 0 <= self.novel_share < 1 or not 0 <= self.paste <= 1:
            what = f"{self.shots} shots, shares {self.novel_share} and {self.paste}"
            raise UserError(what, "data.shots, novel_share, paste", "give 1 shot or more, and shares from 0 to 1")
        self._refuse_what_does_nothing()
        self.classes, self.palette = list(self.scenes.classes), list(self.scenes.palette)
        if self.novel is None:
            self.novel = self._of_fold()
        if unknown := [word for word in self.novel if word not in self.classes[1:]]:
            raise UserError(f"{unknown[0]!r} is no class of {self.scenes.name}", "data.novel", "give some of its classes")
        self.name = f"{self.scenes.name}_{self.phase}" + (f"_{self.shots}shot" if self.phase == NOVEL else "")
        super().__post_init__()
        self.novel_ids = [self.classes.index(word) for word in self.novel]
        self.groups = {"base": [word for word in self.classes if word not in self.novel], "novel": list(self.novel)}
        self._index: list[dict[int, float]] | None = None

    def _refuse_what_does_nothing(self) -> None:
        """Keys of other sets of scenes that have another place here."""
        if self.synthetic is not None and self.phase == BASE:
            raise UserError("painted pictures are of novel classes", "data.synthetic", "leave it out of data.phase=base")
        if self.scenes.synthetic is not None:
            raise UserError("painted pictures join the novel ones", "data.scenes.synthetic", "give data.synthetic")
        if self.synthetic_share != SceneData.synthetic_share:
            raise UserError("painted pictures count among the novel ones", "data.synthetic_share", "set data.novel_share")
        if self.class_map:
            raise UserError("the classes are those of the set inside", "data.class_map", "give data.scenes.class_map")

    def _of_fold(self) -> list[str]:
        things = self.classes[1:]
        if not 0 <= self.fold < self.folds:
            raise UserError(f"no fold {self.fold}", "data.fold", f"give 0 to {self.folds - 1}")
        each = len(things) // self.folds
        return things[self.fold :: self.folds] if self.by_turns else things[each * self.fold : each * (self.fold + 1)]

    # -- which scenes --
    def index(self) -> list[dict[int, float]]:
        """Of each training scene of the set, the share of its pixels that each class has."""
        if self._index is None:
            source = self.scenes.source("train")
            about = hashlib.sha256(json.dumps([self.scenes.name, self.classes, source.names]).encode()).hexdigest()[:16]
            path = cache() / "generalised" / f"{about}.json"
            if not path.exists():
                write_json(path, [shares(source.read(i)["labels"], self.ignore) for i in tqdm(range(len(source)), "classes")])
            self._index = [{int(label): share for label, share in row.items()} for row in json.loads(path.read_text())]
        return self._index

    def replayed(self) -> list[int]:
        """Scenes with nothing novel."""
        return [number for number, row in enumerate(self.index()) if not row.keys() & set(self.novel_ids)]

    def few(self) -> dict[int, list[int]]:
        """The novel classes' scenes: `shots` of each class, no scene twice."""
        rng, found, taken = np.random.default_rng((self.seed, 7)), {}, set()
        for label in self.novel_ids:
            known = [n for n, row in enumerate(self.index()) if row.get(label, 0) >= LEAST and n not in taken]
            if len(known) < self.shots:
                what = f"{len(known)} scenes of {self.classes[label]}, {self.shots} are wanted"
                raise UserError(what, self.name, "lower data.shots, or name other classes in data.novel")
            found[label] = [known[k] for k in rng.permutation(len(known))[: self.shots]]
            taken |= set(found[label])
        return found

    def make_source(self, split: str) -> SceneSource:
        if split != "train":
            return self.scenes.source(split)
        chosen = self.replayed()
        if not chosen:
            raise UserError("every training scene has something novel in it", self.name, "name fewer novel classes")
        say(f"{len(chosen)} of {len(self.index())} training scenes show base classes alone; novel: {', '.join(self.novel)}")
        return Part(self.scenes.source("train"), chosen)

    # -- training --
    def training(self) -> Dataset:
        replay = Augmented(self.source("train"), self.transform, self.seed)
        if self.phase == BASE:
            return self._wanted(replay)
        source = self.scenes.source("train")
        sources: list[SceneSource] = [Part(source, [n for numbers in self.few().values() for n in numbers])]
        if self.synthetic is not None:
            sources.append(made_scenes(self.synthetic, self.classes))
        novel = Several(sources)
        say(f"{len(sources[0])} real and {len(novel) - len(sources[0])} painted pictures of novel classes")
        things = [thing for number in range(len(novel)) for thing in self.cut(novel.read(number))]
        transform = SceneTransform(self.crop, self.scale, self.flip, self.colour, self.cat_max_ratio, self.ignore)
        pasting = Pasting(replay, things, self.paste, self.paste_scale, self.seed)
        if not self.novel_share:
            return self._wanted(pasting)
        return self._wanted(Mixed(pasting, Augmented(novel, transform, self.seed), self.novel_share, self.seed))

    def cut(self, scene: Scene) -> list[Thing]:
        """What is novel in a scene, each class's pixels as one."""
        found = []
        for label in self.novel_ids:
            mask = scene["labels"] == label
            if mask.any():
                ys, xs = (mask.any(side).nonzero()[:, 0] for side in (1, 0))
                box = np.s_[..., int(ys[0]) : int(ys[-1]) + 1, int(xs[0]) : int(xs[-1]) + 1]
                found.append(Thing(scene["image"][box].clone(), mask[box].clone(), label))
        return found

    # -- examples, for methods that learn from a few pictures of a class --
    def example_sets(self, split: str) -> list[ExampleSet]:
        names = self.scenes.source("train").names
        return [ExampleSet(self.classes[label], label, tuple(names[n] for n in numbers)) for label, numbers in self.few().items()]

    def example(self, split: str, name: str, class_id: int) -> tuple[Tensor, Tensor]:
        """A picture uint8 3 H W with its mask, fp32 H W of 0 and 1."""
        source = self.scenes.source("train")
        scene = source.read(source.names.index(name))
        return scene["image"], (scene["labels"] == class_id).float()


class Several(SceneSource):
    """The scenes of several sources, one behind the other."""

    def __init__(self, sources: list[SceneSource]):
        self.places = [(source, number) for source in sources for number in range(len(source))]
        self.names = [source.names[number] for source, number in self.places]

    def read(self, index: int) -> Scene:
        source, number = self.places[index]
        return source.read(number)


class Pasting(Dataset):
    """[(visit, index)]: the sample of `real`, with one of the things pasted into it with `probability`."""

    def __init__(self, real: Dataset, things: list[Thing], probability: float, scale: Range, seed: int):
        self.real, self.things, self.probability, self.scale, self.seed = real, things, probability, tuple(scale), seed

    def __len__(self) -> int:
        return len(self.real)

    def __getitem__(self, key: tuple[int, int]) -> Scene:
        scene, rng = self.real[key], np.random.default_rng((self.seed, 8, key[0]))
        if not self.things or rng.random() >= self.probability:
            return scene
        return pasted(scene, self.things[rng.integers(len(self.things))], self.scale, rng)


def pasted(scene: Scene, thing: Thing, scale: Range, rng: np.random.Generator) -> Scene:
    """The scene with the thing at a random place, mirrored and resized at random, no larger than the scene."""
    image, labels = scene["image"].clone(), scene["labels"].clone()
    room, size = tuple(labels.shape), tuple(thing.mask.shape)
    factor = min(rng.uniform(*scale), *(most / side for most, side in zip(room, size)))
    h, w = (min(most, max(1, round(side * factor))) for most, side in zip(room, size))
    picture = F.interpolate(thing.picture[None], (h, w), mode="bilinear", antialias=True)[0]
    mask = F.interpolate(thing.mask[None, None].to(torch.uint8), (h, w), mode="nearest")[0, 0] > 0
    if rng.random() < 0.5:
        picture, mask = picture.flip(-1), mask.flip(-1)
    y, x = (int(rng.integers(most - side + 1)) for most, side in zip(room, (h, w)))
    place = np.s_[..., y : y + h, x : x + w]
    image[place] = torch.where(mask, picture, image[place])
    labels[place] = labels[place].masked_fill(mask, thing.label)
    return scene | {"image": image, "labels": labels}


def shares(labels: Tensor, ignore: int) -> dict[int, float]:
    found, counts = labels.unique(return_counts=True)
    return {int(label): round(int(count) / labels.numel(), 5) for label, count in zip(found, counts) if label != ignore}
