"""The labelled set as the generator learns from it: whole scenes, squeezed to one size, with kept moments of their latents."""

import copy
import itertools
from collections.abc import Callable, Iterator
from operator import itemgetter

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datamodules.samples import Scene
from zoo.diffusion.latents import Cached, LatentCache, fill
from zoo.matchmask.masks import resized, resized_picture

MOMENTS = "moments"


class Squeeze:
    """A scene at `size` (H, W) whatever its shape, the picture bicubically, labels by cells' middles (FreestyleNet's way);
    mirrored with probability `flip`."""

    def __init__(self, size: tuple[int, int], flip: float):
        self.size, self.flip = tuple(size), flip

    def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene:
        return self.view(scene, bool(rng.random() < self.flip))

    def view(self, scene: Scene, mirrored: bool) -> Scene:
        parts = {"image": squeezed(scene["image"], self.size), "labels": resized(scene["labels"], self.size)}
        if mirrored:
            parts = {name: part.flip(-1) for name, part in parts.items()}
        kept = {name: scene[name] for name in ("name", "size")}
        return kept | {name: part.contiguous() for name, part in parts.items()}

    def views(self, source) -> Iterator[Scene]:
        """Every scene of a source as training may show it."""
        for index in range(len(source)):
            scene = source.read(index)
            for mirrored in self.ways():
                yield self.view(scene, mirrored)

    def ways(self) -> list[bool]:
        return {0: [False], 1: [True]}.get(self.flip, [False, True])


def squeezed(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [..., 3, H, W] at `size`."""
    return pictures if tuple(pictures.shape[-2:]) == tuple(size) else resized_picture(pictures, size)


class _Whole:
    """A source whose training samples are whole scenes, even if it can cut parts out of its files."""

    def __init__(self, source):
        self.source, self.names = source, source.names

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Scene:
        return self.source.read(index)

    def draw(self, index: int, transform: Squeeze, rng: np.random.Generator) -> Scene:
        return transform(self.source.read(index), rng)


def whole_scenes(dataset: Dataset, size: tuple[int, int]) -> Dataset:
    """The training data set with whole scenes, squeezed, in place of its crops; of its changes only the mirroring stays."""
    found = copy.copy(dataset)
    found.source, found.transform = _Whole(dataset.source), Squeeze(size, dataset.transform.flip)
    return found


def with_moments(dataset: Dataset, vae, sha256: str, folder: str, rank: int, world: int, wait: Callable[[], None]) -> Cached:
    """What `whole_scenes` gives, with kept moments. What the cache in `folder` lacks is encoded first, a share by each of `world`
    processes; `wait` returns when all of them have called it."""
    cache = LatentCache(folder, sha256)
    wait()                                                   # all processes have looked before one writes
    squeeze, count = dataset.transform, len(dataset) * len(dataset.transform.ways())
    views = tqdm(squeeze.views(dataset.source), "latents", count, unit=" pictures", mininterval=2, disable=rank > 0)
    fill(cache, vae, (view["image"] for view in itertools.islice(views, rank, None, world)))
    wait()
    return Cached(dataset, LatentCache(folder, sha256), {MOMENTS: itemgetter("image")})
