"""What all sets of scenes share: classes, reading with checks, an endless resumable order, loaders.

A *source* gives whole scenes by number; a data module names its sources and how they are cut and drawn for training.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.errors import UserError
from datamodules.files import Tree
from datamodules.samples import (
    CLASSES,
    IMAGES,
    MANIFEST,
    MASKS,
    Scene,
    Segments,
    collate_scenes,
    collate_segments,
    ignore_of,
    read_classes,
)
from datamodules.scarce import chosen, read_class_map
from datamodules.sources import (  # noqa: F401
    Mapped,
    Part,
    SceneFiles,
    SceneSource,
    Transform,
    pair_by_stem,
    settle_labels,
)
from datamodules.transforms import Range, SceneTransform, Size

say = rank_zero_only(print)


# -- order -------------------------------------------------------------------------------------------------------------
class Stream(Sampler):
    """The training order of a whole run: pairs (visit, index), a new permutation of the n samples every n visits.

    `visit` counts samples over all processes, so the order does not depend on how many there are. total and start
    (where a resumed run goes on) count this process's samples.
    """

    def __init__(self, n: int, seed: int, total: int, rank: int = 0, world: int = 1, start: int = 0):
        self.n, self.seed, self.total = n, seed, total
        self.rank, self.world, self.start = rank, world, start

    def __len__(self) -> int:
        return self.total                                    # the full length, also of a resumed run

    def __iter__(self):
        epoch = -1
        for k in range(self.start, self.total):
            visit = k * self.world + self.rank
            if visit // self.n != epoch:
                epoch = visit // self.n
                order = np.random.default_rng((self.seed, epoch)).permutation(self.n)
            yield visit, int(order[visit % self.n])


class EvenSplit(Sampler):
    """Every sample once over all processes: this one's are rank, rank + world, ... Nothing is repeated to fill up."""

    def __init__(self, n: int, rank: int = 0, world: int = 1):
        self.indices = range(rank, n, world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self):
        return iter(self.indices)


# -- data sets for the loaders -----------------------------------------------------------------------------------------
class SampleError(UserError):
    """A UserError of a worker. The loader re-makes it from its traceback, of which the last line is the message."""

    def __init__(self, text: str):
        super().__init__(text.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


def guarded(read: Callable, name: str):
    """read(), with the sample's name on whatever goes wrong."""
    try:
        return read()
    except UserError as error:
        raise SampleError(str(error)) from error
    except Exception as error:
        error.add_note(f"while reading sample {name}")
        raise


class Augmented(Dataset):
    """[(visit, index)]: the scene `index`, changed by random numbers that depend on nothing but (seed, visit)."""

    def __init__(self, source: SceneSource, transform: Transform, seed: int):
        self.source, self.transform, self.seed = source, transform, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Scene:
        visit, index = key
        rng = np.random.default_rng((self.seed, 1, visit))
        return guarded(lambda: self.source.draw(index, self.transform, rng), self.source.names[index])


class Whole(Dataset):
    """[index]: the scene as it is, for evaluation."""

    def __init__(self, source: SceneSource):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Scene:
        return guarded(lambda: self.source.read(index), self.source.names[index])


class Mixed(Dataset):
    """[(visit, index)]: a sample of `made` at a share of all visits, chosen by (seed, visit), else the asked-for one of `real`.

    The number of steps is the run's, whatever is mixed in.
    """

    def __init__(self, real: Dataset, made: Dataset, share: float, seed: int):
        self.real, self.made, self.share, self.seed = real, made, share, seed

    def __len__(self) -> int:
        return len(self.real)

    def __getitem__(self, key: tuple[int, int]) -> Scene:
        rng = np.random.default_rng((self.seed, 4, key[0]))
        if rng.random() < self.share:
            return self.made[key[0], int(rng.integers(len(self.made)))]
        return self.real[key]


class AsSegments(Dataset):
    """The samples of a data set of scenes, as masks with classes."""

    def __init__(self, scenes: Dataset, vocabulary: list[str], ignore: int):
        self.scenes, self.vocabulary, self.ignore = scenes, vocabulary, ignore

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key) -> Segments:
        return scene_segments(self.scenes[key], self.vocabulary, self.ignore)


def scene_segments(scene: Scene, vocabulary: list[str], ignore: int) -> Segments:
    """The masks of a scene: of its instances where it has them, else one of each class. What is ignored is in none."""
    labels = scene["labels"].long()
    number = scene["instances"].long() if "instances" in scene else labels
    known = (labels != ignore) & (number >= 0)
    number = number.where(known, -1)
    counts = torch.bincount(number[known])
    ids = counts.nonzero()[:, 0]
    masks = number == ids[:, None, None]                     # N H W
    classes = torch.zeros_like(counts).scatter_(0, number[known], labels[known])[ids]
    kept = {key: scene[key] for key in ("image", "name", "size")}
    return kept | {"masks": masks, "classes": classes, "vocabulary": vocabulary}


# -- the data modules --------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False, repr=False)
class StreamData(LightningDataModule):
    """Loaders of any kind of sample: an endless resumable stream for training, each sample once for evaluation.

    A kind of data defines `samples` (its name: scenes, segments, episodes), `training()`, `evaluation(split)` and `collate`. A
    method may set `wrap`, a function from the training Dataset to the one that is loaded (so cached latents enter).
    """

    batch_size: int = 4
    val_batch_size: int = 1
    workers: int = 2
    seed: int = 0

    def __post_init__(self):
        super().__init__()
        for key, least in (("batch_size", 1), ("val_batch_size", 1), ("workers", 0)):
            if getattr(self, key) < least:
                raise UserError("too few", f"data.{key}", f"give {least} or more")
        self.wrap: Callable[[Dataset], Dataset] | None = None

    def training(self) -> Dataset:
        """Samples by (visit, index), for the training stream."""
        raise NotImplementedError

    def evaluation(self, split: str) -> Dataset:
        """Samples by index, unchanged. split: val or test."""
        raise NotImplementedError

    @staticmethod
    def collate(samples: list) -> dict:
        raise NotImplementedError

    def source(self, split: str):
        """What the samples of train, val or test are made from; asked for early, so that a missing set is reported."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        for split in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ()):
            self.source(split)                               # a missing set is reported before anything is built

    def train_dataloader(self) -> DataLoader:
        if self.trainer.max_steps < 1:
            raise UserError("a run needs its number of steps", "trainer.max_steps", "set it, say to 1000")
        batches = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        done = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        dataset = self.training()
        if self.wrap is not None:
            dataset = self.wrap(dataset)
        total, start = batches * self.batch_size, done * self.batch_size
        order = Stream(len(dataset), self.seed, total, *self._place(), start)
        return self.loader(dataset, order, self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation("test")

    def _evaluation(self, split: str) -> DataLoader:
        dataset = self.evaluation(split)
        return self.loader(dataset, EvenSplit(len(dataset), *self._place()), self.val_batch_size)

    def _place(self) -> tuple[int, int]:
        """Rank and number of processes; without a trainer (a script of its own) there is one."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def loader(self, dataset: Dataset, order: Sampler, batch_size: int) -> DataLoader:
        if self.workers:                                     # a forked worker hangs in what is left of OpenCV's threads
            cv2.setNumThreads(1)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(dataset, batch_size, sampler=order, num_workers=self.workers, collate_fn=self.collate,
                          persistent_workers=self.workers > 0, pin_memory=on_gpu)


@dataclass(kw_only=True, eq=False, repr=False)
class SceneData(StreamData):
    """Sources of scenes, made into loaders. A set is a dataclass that adds its own settings, states `name`, `classes` and
    `palette` in `__post_init__` before it calls this one's, and defines `make_source(split)`.

    crop, scale, flip, colour, cat_max_ratio: see SceneTransform. labelled: train on so many scenes or on those of a list
    (scarce.py; lists: a local folder of the published ones). class_map: a yaml of own classes made of the set's (scarce.py).
    synthetic: a folder of made pictures, which take `synthetic_share` of the training samples. segments: loaders give
    Segments in place of Scenes.
    """

    crop: Size = 512
    scale: Range = (0.5, 2.0)
    flip: float = 0.5
    colour: float = 0.5
    cat_max_ratio: float = 0.75
    labelled: int | str | None = None
    lists: str | None = None
    class_map: str | None = None
    synthetic: str | None = None
    synthetic_share: float = 0.5
    segments: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.synthetic_share <= 1:
            raise UserError(f"{self.synthetic_share} is no share", "data.synthetic_share", "give a number above 0, up to 1")
        ignore = ignore_of(len(self.classes))                # of the set's own labels: they are renumbered last
        self.transform = SceneTransform(self.crop, self.scale, self.flip, self.colour, self.cat_max_ratio, ignore)
        self.mapping = read_class_map(self.class_map, self.classes) if self.class_map else None
        self.source_classes = len(self.classes)
        if self.mapping:
            self.classes, self.palette = self.mapping.classes, self.mapping.palette
        self.num_classes, self.ignore = len(self.classes), ignore_of(len(self.classes))
        self.samples = "segments" if self.segments else "scenes"
        self._sources: dict[str, SceneSource] = {}

    def make_source(self, split: str) -> SceneSource:
        """All scenes of train, val or test, in the set's own classes (`source_classes` of them)."""
        raise NotImplementedError

    def source(self, split: str) -> SceneSource:
        """The scenes of train (those of `labelled` only), unlabelled (the rest of train), val or test."""
        if split == "unlabelled":
            self.source("train")
            return self._unlabelled
        if split not in self._sources:
            source = self.make_source(split)
            if self.mapping:
                source = Mapped(source, self.mapping.table, self.ignore)
            self._sources[split] = self._split_labelled(source) if split == "train" else source
        return self._sources[split]

    def _split_labelled(self, source: SceneSource) -> SceneSource:
        indices = list(range(len(source)))
        if self.labelled is not None:
            indices, line = chosen(source.names, self.labelled, self.seed, self.name, self.lists)
            say(line)
        self._unlabelled = Part(source, sorted(set(range(len(source))) - set(indices)))
        return source if self.labelled is None else Part(source, indices)

    def training(self) -> Dataset:
        dataset = Augmented(self.source("train"), self.transform, self.seed)
        if self.synthetic is not None:
            made = made_scenes(self.synthetic, self.classes)
            say(f"{self.synthetic_share:.0%} of the training samples are of the {len(made)} made scenes in {self.synthetic}")
            transform = SceneTransform(self.crop, self.scale, self.flip, self.colour, self.cat_max_ratio, self.ignore)
            dataset = Mixed(dataset, Augmented(made, transform, self.seed), self.synthetic_share, self.seed)
        return self._wanted(dataset)

    def evaluation(self, split: str) -> Dataset:
        return self._wanted(Whole(self.source(split)))

    def _wanted(self, dataset: Dataset) -> Dataset:
        return AsSegments(dataset, self.classes, self.ignore) if self.segments else dataset

    def collate(self, samples: list) -> dict:
        return collate_segments(samples) if self.segments else collate_scenes(samples)


def made_scenes(root: str, classes: list[str]) -> SceneFiles:
    """The pairs of a synthetic folder (samples.py), whose classes must be `classes`."""
    tree = Tree(root).down(IMAGES)
    for file in (CLASSES, MANIFEST):                         # the manifest is written last
        if not tree.has(file):
            raise UserError(f"no {file}", tree, "write the folder with zoo.generate, and to its end")
    found, _ = read_classes(tree.text(CLASSES), tree.where(CLASSES))
    if found != classes:
        differs = next((f"{a} for {b}" for a, b in zip(found, classes) if a != b), f"{len(found)} for {len(classes)} classes")
        raise UserError(f"made for other classes ({differs})", tree, "give a folder made for this set and these classes")
    return SceneFiles(tree, pair_by_stem(tree, IMAGES, MASKS), len(classes))
