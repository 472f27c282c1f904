"""Episodes of the demo world: things on textured ground, class-disjoint train, val and test. No files, no download.

Fold f tests the classes world.FOLDS[f] (f = 0: NOVEL, which nothing shipped is tuned on); of those that may be trained on, every
sixth is for validation. Each class has its own pictures, in which it takes at least a hundredth of the pixels; about half
of the things in a picture are of its class, the others of training classes and, in evaluation, of those that are judged. RARE
classes and those of the other splits do not occur; with `rare` the test judges RARE ones too, and tells both groups' means.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.demo.objects import objects
from datamodules.demo.world import FOLDS, OBJECT_WORDS, RARE, WORLD_SEED, class_id, fold_classes, seed_range
from datamodules.episodes import EpisodeData, Names, ObjectPictures, Plan, even_plans, refuse_fold
from datamodules.errors import UserError

RANGES = {"train": "method", "val": "val", "test": "test"}
KEPT_BYTES = 256 * 2**20
THINGS = (2, 4)                        # from and to in a picture
LEAST = 0.01                           # share of the pixels
TRIES = 32                             # scenes a picture is chosen from: one in five does not show its class


class DemoPictures(ObjectPictures):
    """Pictures <word>/<number>, `count` a class, of `size` x `size`. others: words of what else may lie in them.

    Those drawn first are kept (4 bytes a pixel), since drawing one takes as long as a training step.
    """

    def __init__(self, first: int, count: int, size: int, others: list[str]):
        self.first, self.count, self.size, self.others = first, count, size, others
        self.drawn: dict[str, tuple[Tensor, Tensor]] = {}
        self.last: tuple[str, tuple[Tensor, Tensor]] = "", ()

    def picture(self, name: str) -> Tensor:
        return self.scene(name)[0]

    def mask(self, name: str, class_id: int) -> Tensor:
        return (self.scene(name)[1] == class_id + 1).to(torch.uint8)

    def scene(self, name: str) -> tuple[Tensor, Tensor]:
        """uint8 3 H W and labels uint8 H W, 0 background."""
        if name in self.drawn:
            return self.drawn[name]
        if self.last[0] != name:
            self.last = name, self.paint(name)
            if len(self.drawn) < KEPT_BYTES // (4 * self.size**2):
                self.drawn[name] = self.last[1]
        return self.last[1]

    def paint(self, name: str) -> tuple[Tensor, Tensor]:
        word, _, number = name.partition("/")
        others = [other for other in self.others if other != word]
        words = [word] * len(others) + others
        start = self.first + ((class_id(word) - 1) * self.count + int(number)) * TRIES
        for index in range(start, start + TRIES):
            scene = objects(WORLD_SEED, index, (self.size, self.size), classes=words, count=THINGS)
            if (scene.labels == class_id(word)).mean() >= LEAST:
                return torch.from_numpy(scene.image).permute(2, 0, 1).contiguous(), torch.from_numpy(scene.labels)
        raise AssertionError(f"no scene of {TRIES} shows {name}")


@dataclass(kw_only=True, eq=False, repr=False)
class DemoEpisodes(EpisodeData):
    """Episodes of fold 0 to 3. pictures_per_class: so many of each class, in training and in evaluation. rare: the test is of the
    RARE classes, too."""

    fold: int = 0
    rare: bool = False
    size: int = 64
    pictures_per_class: int = 40
    episodes: int = 200
    workers: int = 0

    def __post_init__(self):
        refuse_fold(self.fold, len(FOLDS))
        self.name, self.classes = f"demo_episodes_fold{self.fold}_{self.shots}shot", list(OBJECT_WORDS)
        super().__post_init__()
        if self.rare:
            self.name = f"{self.name}_rare"
            self.groups = {"known": self.words("test")[: -len(RARE)], "rare": list(RARE)}
        scenes = min(stop - start for start, stop in map(seed_range, RANGES.values()))
        most = scenes // (len(OBJECT_WORDS) * TRIES)
        if not 2 <= self.pictures_per_class <= most:
            raise UserError(f"{self.pictures_per_class} pictures", "data.pictures_per_class", f"give 2 to {most}")

    def words(self, split: str) -> list[str]:
        known, tested = fold_classes(self.fold)
        return {"train": [word for i, word in enumerate(known) if i % 6], "val": known[::6],
                "test": tested + (RARE if self.rare else [])}[split]

    def names_by_class(self, split: str) -> Names:
        return {class_id(word) - 1: [f"{word}/{k}" for k in range(self.pictures_per_class)] for word in self.words(split)}

    def make_plans(self, split: str) -> list[Plan]:
        return even_plans(self.names_by_class(split), self.shots, self.episodes, self.rng())

    def pictures(self, split: str) -> DemoPictures:
        others = self.words("train") + (self.words(split) if split != "train" else [])
        return DemoPictures(seed_range(RANGES[split])[0], self.pictures_per_class, self.size, others)
