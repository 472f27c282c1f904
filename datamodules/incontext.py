"""Episodes out of COCO 2014, ADE20K and VOC 2012 mixed, for one set of weights that segments anything by example.

DiffewS (NeurIPS 2024) trains its in-context weights on these three sets and says no more; the mixture is therefore **ours**:
Set         by chance, each weighted by the square root of its number of pictures; then a class, a query and supports evenly
Objects     COCO's 80 and VOC's 20 classes by HSNet's training lists of all folds (episodes.py, find_list; of COCO's, 16 MB);
            ADE20K's 150 wherever one is seen, which is read off its 20,210 masks at every start (a minute or two)
Least       an object takes at least `least` of its picture's pixels; smaller ones are passed over
Evaluation  COCO-20i's episodes of a fold, as published; here training has seen the fold's classes, though not its pictures
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.ade20k import CLASSES as ADE_CLASSES
from datamodules.ade20k import ADE20KScenes
from datamodules.episodes import Episode, EpisodeData, Names, ObjectPictures, Plan, Pool, by_class, find_list
from datamodules.errors import UserError
from datamodules.folds import COCO_CLASSES, Coco20i, Pascal5i, read_coco_list, read_pascal_list
from datamodules.sources import SceneFiles
from datamodules.voc import CLASSES as VOC_CLASSES

THINGS_OF_VOC = VOC_CLASSES[1:]
FIRST = {"coco": 0, "voc": len(COCO_CLASSES), "ade20k": len(COCO_CLASSES) + len(THINGS_OF_VOC)}     # first class ids
FOLDS = range(4)


class ADEPictures(ObjectPictures):
    """ADE20K's training pictures by stem."""

    def __init__(self, source: SceneFiles):
        self.source, self.index = source, {name: index for index, name in enumerate(source.names)}

    def picture(self, name: str) -> Tensor:
        return self.source.picture(self.index[name])

    def mask(self, name: str, class_id: int) -> Tensor:
        labels = self.source.read_labels(self.index[name])
        return (labels == class_id).to(torch.uint8).masked_fill(labels == 255, 255)

    def names_by_class(self, least: float) -> Names:
        """The stems in which each class has at least that share of the pixels."""
        def seen(index: int) -> list[int]:
            counts = torch.bincount(self.source.read_labels(index).flatten(), minlength=256)
            return (counts[:255] >= least * counts.sum()).nonzero()[:, 0].tolist()

        names = defaultdict(list)
        with ThreadPoolExecutor() as threads:
            found = threads.map(seen, range(len(self.source.names)))
            for name, classes in zip(self.source.names, tqdm(found, "ade20k masks", len(self.source.names))):
                for class_id in classes:
                    names[class_id].append(name)
        return dict(names)


class Several(ObjectPictures):
    """Pictures <set>:<name> of several sets. Objects that take less than `least` of the pixels are not marked."""

    def __init__(self, sets: dict[str, ObjectPictures], least: float):
        self.sets, self.least = sets, least

    def picture(self, name: str) -> Tensor:
        kind, _, inner = name.partition(":")
        return self.sets[kind].picture(inner)

    def mask(self, name: str, class_id: int) -> Tensor:
        kind, _, inner = name.partition(":")
        mask = self.sets[kind].mask(inner, class_id - FIRST[kind])
        return mask if (mask == 1).float().mean() >= self.least else torch.zeros_like(mask)


class Mixture(Pool):
    """A pool whose episodes come from one of several sets, chosen by the square root of its number of pictures."""

    def __init__(self, pictures: ObjectPictures, names: Names, *rest):
        super().__init__(pictures, names, *rest)
        kinds: dict[str, Names] = defaultdict(dict)
        for class_id, found in names.items():
            kinds[found[0].partition(":")[0]][class_id] = found
        self.pools = [Pool(pictures, part, *rest) for part in kinds.values()]
        roots = np.sqrt([len({name for found in part.values() for name in found}) for part in kinds.values()])
        self.shares = roots / roots.sum()

    def draw(self, shots: int, rng: np.random.Generator) -> Episode:
        return self.pools[rng.choice(len(self.pools), p=self.shares)].draw(shots, rng)


@dataclass(kw_only=True, eq=False, repr=False)
class InContext(EpisodeData):
    """root: COCO 2014; ade20k: ADEChallengeData2016 or its .zip; voc: VOC 2012. fold: whose episodes are judged. lists: local
    folder of HSNet's list files. least: share of the pixels that an object takes in training."""

    root: str
    ade20k: str
    voc: str
    fold: int = 0
    episodes: int = 1000
    lists: str | None = None
    least: float = 0.005

    def __post_init__(self):
        if not 0 <= self.least < 1:
            raise UserError(f"{self.least} is no share", "data.least", "give 0.005 for half a percent")
        same = {"shots": self.shots, "size": self.size, "seed": self.seed, "lists": self.lists, "fold": self.fold}
        self.coco = Coco20i(root=self.root, episodes=self.episodes, **same)
        self.pascal = Pascal5i(root=self.voc, **same)
        self.name = f"incontext_fold{self.fold}_{self.shots}shot"
        self.classes = [*COCO_CLASSES, *THINGS_OF_VOC, *ADE_CLASSES]
        super().__post_init__()
        self._names: Names | None = None
        self._scenes: ADEPictures | None = None

    def scenes(self) -> ADEPictures:
        if self._scenes is None:
            self._scenes = ADEPictures(ADE20KScenes(root=self.ade20k, workers=0).source("train"))
        return self._scenes

    def names_by_class(self, split: str) -> Names:
        if split != "train":
            return numbered("coco", self.coco.names_by_class(split))
        if self._names is None:
            coco: Names = {}
            for fold in FOLDS[:2]:                           # each has the classes of all folds but its own, in all lists alike
                coco |= read_coco_list(find_list(f"coco/trn/fold{fold}.pkl", self.lists, self.coco.tree))
            files = [find_list(f"pascal/trn/fold{fold}.txt", self.lists, self.pascal.tree) for fold in FOLDS]
            voc = by_class([line for file in files for line in read_pascal_list(file)])
            ade = {i: names for i, names in self.scenes().names_by_class(self.least).items() if len(names) > self.train_shots[1]}
            self._names = numbered("coco", coco) | numbered("voc", voc) | numbered("ade20k", ade)
        return self._names

    def make_plans(self, split: str) -> list[Plan]:
        return [Plan(plan.class_id, f"coco:{plan.query}", [f"coco:{name}" for name in plan.supports])
                for plan in self.coco.make_plans(split)]

    def pictures(self, split: str) -> Several:
        if split != "train":
            return Several({"coco": self.coco.pictures(split)}, 0)
        sets = {"coco": self.coco.pictures(split), "voc": self.pascal.pictures(split), "ade20k": self.scenes()}
        return Several(sets, self.least)

    def _pool(self, split: str, pictures: ObjectPictures) -> Mixture:
        names = self.names_by_class(split)
        self.refuse_small(names, self.train_shots[1], "data.train_shots")
        return Mixture(pictures, names, self.classes, self.size, self.flip, self.colour)


def numbered(kind: str, names: Names) -> Names:
    """Class ids counted over all sets, names with their set's."""
    return {FIRST[kind] + class_id: [f"{kind}:{name}" for name in found] for class_id, found in names.items()}
