"""Pictures to a VAE's moments, latents and back; and a cache of moments on the disk.

Moments are what the encoder says of a picture: mean and log-variance of its latents, [..., 2C, h, w] fp32, in the VAE's own
scale. Latents are drawn from them, [..., C, h, w], times the base's `scaling`.

    cache = LatentCache(folder, base.sha256("vae"))
    fill(cache, base.vae, (scene["image"] for scene in scenes))          # goes on where an earlier, killed one stopped
    data.wrap = lambda dataset: Cached(dataset, cache, {"moments": itemgetter("image")})
    latents = draw(torch.stack(batch["moments"]), base.scaling)
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.errors import UserError
from datamodules.files import write_bytes

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SHARD_BYTES, SHARD_SECONDS = 32 << 20, 60.0      # a shard is written when it holds this much, or took this long
MEND = "remove the file and fill the cache again: only its pictures are encoded anew"


# -- pictures and latents ----------------------------------------------------------------------------------------------
def to_input(pictures: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] -> fp32 -1..1."""
    assert pictures.dtype == torch.uint8, f"pictures of {pictures.dtype}"
    return pictures.float() / 127.5 - 1


def to_pictures(output: Tensor) -> Tensor:
    """[..., 3, H, W], about -1..1 -> uint8, rounded."""
    return ((output.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, batch: int = 8) -> Tensor:
    """uint8 B 3 H W -> moments B 2C h w on the VAE's device, `batch` pictures at a time."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = pictures.shape[-2:]
    if height % factor or width % factor:
        raise UserError(f"a picture of {width}x{height} pixels", "encode", f"give sides that are multiples of {factor}")
    parts = []
    for part in pictures.split(batch):
        found = vae.encode(to_input(part.to(vae.device)).to(vae.dtype)).latent_dist
        parts.append(torch.cat([found.mean, found.logvar], 1).float())
    return torch.cat(parts)


def mean(moments: Tensor, scaling: float) -> Tensor:
    """The likeliest latents."""
    return moments.chunk(2, -3)[0] * scaling


def draw(moments: Tensor, scaling: float, generator: torch.Generator | None = None) -> Tensor:
    """Latents drawn from the moments; noise is made where the generator is (None: torch's own, on the moments' device)."""
    centre, log_variance = moments.chunk(2, -3)
    device = moments.device if generator is None else generator.device
    noise = torch.randn(centre.shape, generator=generator, device=device, dtype=centre.dtype)
    return (centre + torch.exp(0.5 * log_variance) * noise.to(centre.device)) * scaling


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, batch: int = 8) -> Tensor:
    """Latents B C h w -> fp32 B 3 H W, about -1..1 and not clipped (`to_pictures` makes uint8 of it)."""
    unscaled = latents.to(vae.device) / vae.config.scaling_factor
    return torch.cat([vae.decode(part.to(vae.dtype)).sample.float() for part in unscaled.split(batch)])


# -- the cache ---------------------------------------------------------------------------------------------------------
def key_of(picture: Tensor) -> str:
    """What a picture is filed under: sha256 of its size and pixels. So whatever changes it can never give another's latents."""
    data = picture.contiguous()
    return hashlib.sha256(f"{tuple(data.shape)}".encode() + data.cpu().numpy().tobytes()).hexdigest()


class LatentCache:
    """Moments by picture, in shards: safetensors files that are written whole and never changed, with a checksum an item.

    They lie in <root>/<the VAE's sha256>-<dtype>, so those of another VAE are never met; what other processes write after it
    was opened is not seen. dtype: float32 keeps moments to the bit; float16 is half as large, with means off by up to 1/2048
    of their size and standard deviations by up to 0.8 % (log-variance -30, the VAE's lowest; 0.25 % at -10).
    """

    def __init__(self, root: str | Path, vae_sha256: str, dtype: torch.dtype = torch.float16):
        self.dtype = dtype
        self.folder = Path(root) / f"{vae_sha256[:16]}-{str(dtype).removeprefix('torch.')}"
        self._open, self._where, self._sums = {}, {}, {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._list(path)

    def __getstate__(self):                                  # open files stay behind: each worker opens its own
        return self.__dict__ | {"_open": {}}

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def read(self, key: str) -> Tensor:
        """Moments 2C h w fp32 of one key; KeyError if they are not here."""
        path = self._where[key]
        try:
            stored = self._file(path).get_tensor(key)
        except Exception as error:                           # safetensors raises nearly anything for a damaged file
            raise UserError(f"cannot be read ({error})", path, MEND) from error
        if _sum(stored) != self._sums[key]:
            raise UserError(f"{key[:16]} has not its checksum", path, MEND)
        return stored.to(torch.float32, copy=True)

    def of(self, pictures: Tensor) -> Tensor:
        """Moments [..., 2C, h, w] of uint8 pictures [..., 3, H, W], all of which must be here."""
        flat = pictures.reshape(-1, *pictures.shape[-3:])
        keys = [key_of(picture) for picture in flat]
        if absent := [key for key in keys if key not in self]:
            raise UserError(f"{len(absent)} of {len(keys)} pictures ({flat.shape[-1]}x{flat.shape[-2]}) are not in this cache",
                            self.folder, "fill it with the very pictures that are asked for: no random crop, scale or colour")
        moments = torch.stack([self.read(key) for key in keys])
        return moments.reshape(*pictures.shape[:-3], *moments.shape[1:])

    def write(self, moments: dict[str, Tensor]) -> None:
        """One more shard: moments 2C h w by key. It appears whole or not at all."""
        from safetensors.torch import save

        stored = {key: value.detach().to("cpu", self.dtype).contiguous() for key, value in moments.items()}
        data = save(stored, {"crc32": json.dumps({key: _sum(value) for key, value in stored.items()})})
        path = self.folder / f"{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        write_bytes(path, data)
        self._list(path)

    def _file(self, path: Path):
        from safetensors import safe_open

        if path not in self._open:
            self._open[path] = safe_open(path, "pt")
        return self._open[path]

    def _list(self, path: Path) -> None:
        try:
            sums = json.loads((self._file(path).metadata() or {})["crc32"])
            self._where |= dict.fromkeys(sums, path)
            self._sums |= sums
        except Exception as error:                           # safetensors raises nearly anything for a damaged file
            raise UserError(f"not a whole shard of a latent cache ({error})", path, MEND) from error


def _sum(stored: Tensor) -> int:
    return zlib.crc32(stored.view(torch.uint8).numpy())


def fill(cache: LatentCache, vae: AutoencoderKL, pictures: Iterable[Tensor], batch: int = 8) -> int:
    """Encodes those pictures (uint8 3 H W, sizes may differ) that the cache lacks; returns how many there were.

    A caller with several processes gives each its share. If one is killed, what it wrote stays.
    """
    writer = _Writer(cache)
    waiting: dict[tuple, dict[str, Tensor]] = {}             # size -> pictures by key
    seen = set()

    def flush(size: tuple) -> None:
        group = waiting.pop(size)
        writer.add(dict(zip(group, encode(vae, torch.stack(list(group.values())), batch))))

    for picture in pictures:
        key = key_of(picture)
        if key in cache or key in seen:
            continue
        seen.add(key)
        size = tuple(picture.shape)
        waiting.setdefault(size, {})[key] = picture
        if len(waiting[size]) == batch:
            flush(size)
    for size in list(waiting):
        flush(size)
    writer.write()
    return len(seen)


class _Writer:
    """Collects moments until they make a shard."""

    def __init__(self, cache: LatentCache):
        self.cache, self.kept, self.size, self.begun = cache, {}, 0, time.monotonic()

    def add(self, moments: dict[str, Tensor]) -> None:
        for key, value in moments.items():
            self.kept[key] = value.to("cpu", self.cache.dtype)
            self.size += value.numel() * self.cache.dtype.itemsize
        if self.size >= SHARD_BYTES or time.monotonic() - self.begun > SHARD_SECONDS:
            self.write()

    def write(self) -> None:
        if self.kept:
            self.cache.write(self.kept)
        self.kept, self.size, self.begun = {}, 0, time.monotonic()


class NotCached(UserError):
    """A UserError of a loader's worker. The loader re-makes it from its traceback, of which the last line is the message."""

    def __init__(self, text: str):
        super().__init__(text.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


class Cached(Dataset):
    """The samples of a data set with moments of their pictures added.

    views: the new key -> what gives its uint8 pictures [..., 3, H, W] of a sample, say {"moments": itemgetter("image")}. The
    function must be one that can be pickled where workers are spawned.
    """

    def __init__(self, dataset: Dataset, cache: LatentCache, views: dict[str, Callable[[dict], Tensor]]):
        self.dataset, self.cache, self.views = dataset, cache, views

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key) -> dict:
        sample = self.dataset[key]
        try:
            return sample | {name: self.cache.of(view(sample)) for name, view in self.views.items()}
        except UserError as error:
            raise NotCached(f"{sample['name']}: {error}") from error
