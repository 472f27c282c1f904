"""What all sets of scenes share: classes, reading with checks, an endless resumable order, loaders.

A *source* gives whole scenes by number; a data module names its sources and how they are cut and drawn for training.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.errors import UserError
from datamodules.files import LABELS, PICTURES, Tree, read_image, read_labels
from datamodules.samples import Scene, collate_scenes, ignore_of
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


# -- sources -----------------------------------------------------------------------------------------------------------
class SceneSource(Protocol):
    """Scenes by number, whole and unchanged; holds no more than the one it is reading."""

    names: list[str]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Scene: ...


class SceneFiles:
    """Pairs of a picture and a label file in a Tree."""

    def __init__(self, tree: Tree, pairs: list[tuple[str, str]], classes: int, label_shift: int = 0,
                 white: int | None = None, palette: list[tuple[int, int, int]] | None = None):
        self.tree, self.pairs, self.classes = tree, pairs, classes
        self.label_shift, self.white, self.palette = label_shift, white, palette
        self.names = [Path(picture).stem for picture, _ in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Scene:
        picture, mask = self.pairs[index]
        image = read_image(self.tree.open(picture), self.tree.where(picture))
        labels = self.read_labels(index)
        size = tuple(image.shape[-2:])
        if tuple(labels.shape) != size:
            raise UserError(f"labels of {labels.shape[1]}x{labels.shape[0]} for a picture of {size[1]}x{size[0]}",
                            self.tree.where(mask), "they must be the same size (a picture is turned as its EXIF says)")
        return {"image": image, "labels": labels, "name": self.names[index], "size": size}

    def read_labels(self, index: int) -> Tensor:
        where = self.tree.where(self.pairs[index][1])
        raw = read_labels(self.tree.open(self.pairs[index][1]), where, self.palette)
        return settle_labels(raw, self.classes, where, self.label_shift, self.white)


def pair_by_stem(tree: Tree, images: str, masks: str) -> list[tuple[str, str]]:
    """Each picture below the folder `images` with the label file of the same path and stem below `masks`."""
    labels = {_stem(name, masks): name for name in tree.list(masks, LABELS)}
    pictures = tree.list(images, PICTURES)
    if not pictures:
        raise UserError("no pictures", tree.where(images), f"put {', '.join(PICTURES)} files there, or set data.root")
    missing = [name for name in pictures if _stem(name, images) not in labels]
    if missing:
        raise UserError(f"{len(missing)} of {len(pictures)} pictures have no labels", tree.where(missing[0]),
                        f"add {tree.where(masks)}/{_stem(missing[0], images)}.png, or remove the picture")
    return [(name, labels[_stem(name, images)]) for name in pictures]


def _stem(name: str, folder: str) -> str:
    return name[len(folder) + 1:].rpartition(".")[0]


class Part:
    """Some scenes of a source."""

    def __init__(self, source: SceneSource, indices: list[int]):
        self.source, self.indices = source, indices
        self.names = [source.names[i] for i in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Scene:
        return self.source.read(self.indices[index])


def settle_labels(raw: Tensor, classes: int, where: str, shift: int = 0, white: int | None = None) -> Tensor:
    """A file's values [H, W] -> labels 0..classes-1 and `ignore_of(classes)`; others are an error with its remedy.

    Ignored in a file: 255 (up to 255 classes) and 65535. `shift` is added to all others; what falls below 0 by it is
    ignored, so -1 is for sets that count from 1. `white` is the class that file value 255 stands for.
    """
    ignore = ignore_of(classes)
    table = np.arange(65536) + shift
    table[:max(0, -shift)] = ignore
    table[[65535, 255] if ignore == 255 else 65535] = ignore
    if white is not None:
        table[255] = white
    values = _values(raw)
    wrong = values[(table[values] != ignore) & ((table[values] < 0) | (table[values] >= classes))]
    if len(wrong):
        raise _out_of_range(values, wrong, classes, where, shift)
    if raw.dtype == torch.uint8 and ignore == 255:
        same = (table[values] == values).all()
        return raw if same else torch.from_numpy(cv2.LUT(raw.numpy(), table[:256].astype(np.uint8)))
    return torch.from_numpy(table.astype(np.uint8 if ignore == 255 else np.int32)[raw.numpy()])


def _values(raw: Tensor) -> np.ndarray:
    """The values that occur, sorted."""
    if raw.dtype == torch.uint8:                             # OpenCV counts 12 megapixels in a few ms
        return np.flatnonzero(cv2.calcHist([raw.numpy()], [0], None, [256], [0, 256]))
    return np.flatnonzero(np.bincount(raw.numpy().ravel()))


def _out_of_range(values: np.ndarray, wrong: np.ndarray, classes: int, where: str, shift: int) -> UserError:
    found = values.tolist()
    listed = ", ".join(map(str, found[:8])) + (f", ..., {found[-1]}" if len(found) > 8 else "")
    expected = f"{classes} classes (0..{classes - 1})" + (f" and label_shift={shift}" if shift else "")
    if shift == 0 and wrong.tolist() == [classes]:
        mend = "the set counts from 1; add data.label_shift=-1"
    elif len(found) == 2 and found[0] == 0:
        mend = "a mask of two values: save the class numbers 0 and 1, or 0 and 255 with data.white=1"
    else:
        mend = "correct the file, the class list or data.label_shift"
    return UserError(f"labels up to {wrong[-1]} ({listed}), but {expected}", where, mend)


# -- data sets for the loaders -----------------------------------------------------------------------------------------
class SampleError(UserError):
    """A UserError of a worker. The loader re-makes it from its traceback, of which the last line is the message."""

    def __init__(self, text: str):
        super().__init__(text.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


def _guarded(read: Callable, name: str):
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

    def __init__(self, source: SceneSource, transform: Callable[[Scene, np.random.Generator], Scene], seed: int):
        self.source, self.transform, self.seed = source, transform, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Scene:
        visit, index = key
        rng = np.random.default_rng((self.seed, 1, visit))
        return _guarded(lambda: self.transform(self.source.read(index), rng), self.source.names[index])


class Whole(Dataset):
    """[index]: the scene as it is, for evaluation."""

    def __init__(self, source: SceneSource):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Scene:
        return _guarded(lambda: self.source.read(index), self.source.names[index])


# -- the data module ---------------------------------------------------------------------------------------------------
class SceneData(LightningDataModule):
    """Sources of scenes, made into loaders. A set states its classes and colours and defines `make_source(split)`.

    name: the set's, in folders and tables. crop, scale, flip, colour, cat_max_ratio: see SceneTransform. labelled:
    train on so many scenes, drawn with the seed, or on those a list file names (one a line, any folder and suffix).
    A method may set `wrap`, a function from the training Dataset to the one that is loaded.
    """

    def __init__(self, name: str, classes: list[str], palette: list[tuple[int, int, int]], crop: Size, batch_size: int,
                 val_batch_size: int = 1, workers: int = 0, seed: int = 0, scale: Range = (0.5, 2.0), flip: float = 0.5,
                 colour: float = 0.5, cat_max_ratio: float = 0.75, labelled: int | str | None = None):
        super().__init__()
        for key, count in (("batch_size", batch_size), ("val_batch_size", val_batch_size), ("workers", workers + 1)):
            if count < 1:
                raise UserError("too few", f"data.{key}", f"give {int(key != 'workers')} or more")
        self.name, self.classes, self.palette = name, list(classes), list(palette)
        self.num_classes, self.ignore = len(classes), ignore_of(len(classes))
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.workers, self.seed, self.labelled = workers, seed, labelled
        self.transform = SceneTransform(crop, scale, flip, colour, cat_max_ratio, self.ignore)
        self.wrap: Callable[[Dataset], Dataset] | None = None
        self._sources: dict[str, SceneSource] = {}

    def make_source(self, split: str) -> SceneSource:
        """All scenes of train, val or test."""
        raise NotImplementedError

    def source(self, split: str) -> SceneSource:
        """The scenes of train (those of `labelled` only), val or test."""
        if split not in self._sources:
            source = self.make_source(split)
            if split == "train" and self.labelled is not None:
                source = choose_labelled(source, self.labelled, self.seed)
            self._sources[split] = source
        return self._sources[split]

    def setup(self, stage: str) -> None:
        for split in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ()):
            self.source(split)                               # a missing set is reported before anything is built

    def train_dataloader(self) -> DataLoader:
        if self.trainer.max_steps < 1:
            raise UserError("a run needs its number of steps", "trainer.max_steps", "set it, say to 1000")
        batches = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        done = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        dataset = Augmented(self.source("train"), self.transform, self.seed)
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
        dataset = Whole(self.source(split))
        return self.loader(dataset, EvenSplit(len(dataset), *self._place()), self.val_batch_size)

    def _place(self) -> tuple[int, int]:
        """Rank and number of processes; without a trainer (a script of its own) there is one."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def loader(self, dataset: Dataset, order: Sampler, batch_size: int, collate: Callable = collate_scenes):
        if self.workers:                                     # a forked worker hangs in what is left of OpenCV's threads
            cv2.setNumThreads(1)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(dataset, batch_size, sampler=order, num_workers=self.workers, collate_fn=collate,
                          persistent_workers=self.workers > 0, pin_memory=on_gpu)


def choose_labelled(source: SceneSource, labelled: int | str, seed: int) -> Part:
    """`labelled` scenes drawn with the seed, or those of a list file whose lines begin with a picture's name."""
    if isinstance(labelled, int):
        if not 0 < labelled <= len(source):
            raise UserError(f"{labelled} scenes of {len(source)}", "data.labelled", f"give 1 to {len(source)}")
        indices = sorted(np.random.default_rng((seed, 2, 1)).permutation(len(source))[:labelled].tolist())
        say(f"training on {labelled} of {len(source)} scenes, drawn with seed {seed}")
        return Part(source, indices)
    try:
        lines = Path(labelled).read_text().splitlines()
    except OSError as error:
        raise UserError("no such list", labelled, "set data.labelled to a number or a file of names") from error
    wanted = [Path(line.split()[0]).stem for line in lines if line.strip()]
    place = {name: index for index, name in enumerate(source.names)}
    missing = [name for name in wanted if name not in place]
    if missing or not wanted:
        what = f"{len(missing)} of its {len(wanted)} names are not in the set ({missing[0]})" if missing else "empty"
        raise UserError(what, labelled, "correct the list")
    indices = sorted({place[name] for name in wanted})
    say(f"training on the {len(indices)} of {len(source)} scenes that {labelled} names")
    return Part(source, indices)
