"""The pictures of an episode, and their moments (zoo/diffusion/latents.py), made at every step or kept from a first time.

Four are encoded: query, its mask, supports, their masks; masks as pictures, white on black. What was kept for one of them lies in
an episode as <name>_moments.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datamodules.files import write_text
from zoo.diffews.masks import draw_masks
from zoo.diffusion.latents import Cached, LatentCache, encode, fill, key_of
from zoo.diffusion.samplers import seed_of

GLANCE = 16                                                  # pictures that are looked up in a cache that is said to be whole


def query_mask(episode: dict) -> Tensor:
    return draw_masks(episode["query_mask"])


def support_masks(episode: dict) -> Tensor:
    return draw_masks(episode["support_masks"])


PICTURES: dict[str, Callable[[dict], Tensor]] = {            # uint8 [..., 3, h, w] of an episode or of a batch of them
    "query": itemgetter("query"),
    "query_mask": query_mask,
    "supports": itemgetter("supports"),
    "support_masks": support_masks,
}


def kept(name: str) -> str:
    return f"{name}_moments"


def moments_of(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] -> [..., 2C, h, w]."""
    return encode(vae, pictures.flatten(0, -4)).unflatten(0, pictures.shape[:-3])


def batch_moments(vae: AutoencoderKL, name: str, batch: dict) -> Tensor:
    """[B, ..., 2C, h, w] of a batch's pictures of this name."""
    return torch.stack(batch[kept(name)]) if kept(name) in batch else moments_of(vae, PICTURES[name](batch))


def same_supports(given: dict[str, Tensor]) -> list[slice]:
    """The longest spans of a batch's episodes in which all of the given, [B, ...] each, are equal."""
    rows = len(next(iter(given.values())))
    new = [b for b in range(1, rows) if not all(torch.equal(part[b - 1], part[b]) for part in given.values())]
    return [slice(*ends) for ends in itertools.pairwise([0, *new, rows])]


def with_moments(dataset: Dataset, vae: AutoencoderKL, sha256: str, folder: str, rank: int, world: int,
                 wait: Callable[[], None]) -> Cached:
    """Training episodes with kept moments. What the cache in `folder` lacks is encoded first, a share by each of `world`
    processes; `wait` returns when all of them have called it. Mirrored pictures are pictures of their own.

    A mark says that a set of these names was gone through: a run that goes on, or another one, does not read it all again. (A few
    pictures are looked up in spite of it, since another folder may have the same names.)
    """
    cache = LatentCache(folder, sha256)
    mark = cache.folder / f"{names_hash(dataset.pool)}.whole"
    whole = mark.exists() and all(key_of(one) in cache for one in shown(itertools.islice(dataset.views(), GLANCE)))
    wait()                                                   # all processes have looked before one writes
    if not whole:
        views = tqdm(dataset.views(), "latents", dataset.view_count(), unit=" pictures", mininterval=2, disable=rank > 0)
        fill(cache, vae, shown(itertools.islice(views, rank, None, world)))
    wait()
    if rank == 0:
        write_text(mark, "")
    return Cached(dataset, LatentCache(folder, sha256), {kept(name): pictures for name, pictures in PICTURES.items()})


def names_hash(pool) -> str:
    """Of all that names the views of a pool of training pictures."""
    return hashlib.sha256(json.dumps([sorted(pool.names.items()), pool.size, pool.flip]).encode()).hexdigest()[:16]


def shown(views: Iterable) -> Iterator[Tensor]:
    """Each picture and its mask as one."""
    for view in views:
        yield view.picture
        yield draw_masks(view.mask)


def episode_seed(episode: dict) -> int:
    """By what an episode is made of, so that neither order nor batch nor number of processes matter."""
    return seed_of("tokens", int(episode["class_id"]), episode["name"], *episode["support_names"])


def seeds_of(batch: dict) -> list[int]:
    names = ("class_id", "name", "support_names")
    return [episode_seed(dict(zip(names, values))) for values in zip(*(batch[name] for name in names))]
