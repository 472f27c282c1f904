"""Huge photographs kept once as 512-pixel tiles, so that a crop decodes only what it covers.

    python -m datamodules.tile data.root=<MaSS13K> [out=<folder>] [splits=train] [quality=source] [workers=<cores>]

Writes <out>/tiles/<split>/<stem>.zip, one plain .zip a photograph: image/<row>_<column>.jpg, labels/<row>_<column>.png
(the file's own values) and meta.json (size, and sha256 of both files); at the end tiles/<split>.txt, their names.
out         the set's own folder if not given; the same data.root then trains from tiles and evaluates on the originals.
            Elsewhere: data.root=<out> trains from tiles, and evaluates from tiles too if splits= names val and test.
quality     source: a JPEG keeps its own quantisation tables (about the same bytes, few pixels change by more than 1),
            other files become JPEG 95 without chroma subsampling; 1 to 100: that of JPEG; lossless: PNG, 5 to 10 times the bytes.
A second start goes on: it makes what is missing, damaged, of another quality, or of a file that has changed.
"""

import hashlib
import io
import json
import math
import os
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.base import SampleError
from datamodules.errors import UserError, door
from datamodules.files import Tree, atomic, check_zip, read_image, read_labels, write_text
from datamodules.samples import Scene, default_palette
from datamodules.sources import SceneFiles, SceneSource, Transform, settle_labels

FOLDER, META = "tiles", "meta.json"
TILE = 512
QUALITY = 95                           # of a JPEG made of what is none
PAUSE = 10.0                           # seconds between two lines of progress
AGAIN = "run python -m datamodules.tile again"
USAGE = "python -m datamodules.tile data.root=<MaSS13K> [out=] [splits=train,val,test] [quality=source] [workers=]"


# -- reading -----------------------------------------------------------------------------------------------------------
class Mosaic:
    """A picture or label map that is read where it is sliced, [..., rows, columns], each of its tiles once.

    shape: H, W. read: the tile [..., h, w] of a row and column of tiles. settle: what a slice [..., h, w] becomes.
    """

    def __init__(self, shape: tuple[int, int], side: int, read: Callable[[int, int], Tensor],
                 settle: Callable[[Tensor], Tensor]):
        self.shape, self.side, self.read, self.settle = shape, side, read, settle
        self.tiles: dict[tuple[int, int], Tensor] = {}
        self.last: tuple[tuple, Tensor] | None = None        # a window is looked at, then cut out

    def __getitem__(self, key: tuple) -> Tensor:
        place = tuple(part.indices(side)[:2] for part, side in zip(key[1:], self.shape))
        if self.last is None or self.last[0] != place:
            self.last = place, self.settle(self.assemble(*place))
        return self.last[1]

    def assemble(self, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        (top, bottom), (left, right), whole = rows, columns, None
        for row in range(top // self.side, (bottom - 1) // self.side + 1):
            for column in range(left // self.side, (right - 1) // self.side + 1):
                tile, y, x = self.tile(row, column), row * self.side, column * self.side
                if whole is None:                            # channels last, as decoders give it: it resizes 3 times faster
                    whole = tile.new_empty((bottom - top, right - left, *tile.shape[:-2])).movedim((0, 1), (-2, -1))
                part = tile[..., max(top - y, 0):bottom - y, max(left - x, 0):right - x]
                y, x = max(y - top, 0), max(x - left, 0)
                whole[..., y:y + part.shape[-2], x:x + part.shape[-1]] = part
        return whole

    def tile(self, row: int, column: int) -> Tensor:
        if (row, column) not in self.tiles:
            self.tiles[row, column] = self.read(row, column)
        return self.tiles[row, column]


class Tiles:
    """An open file of tiles. size: H, W of the photograph."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
            self.meta = json.loads(self.archive.read(META))
            self.size, self.side, self.suffix = tuple(self.meta["size"]), self.meta["tile"], self.meta["suffix"]
        except Exception as error:                           # a damaged .zip may raise nearly anything
            raise self.damaged(error) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.archive.close()

    def damaged(self, error: Exception) -> UserError:
        what = error.strerror if isinstance(error, OSError) else str(error).strip("\"'")
        return UserError(f"not a whole file of tiles ({what or type(error).__name__})", self.path, AGAIN)

    def image(self, row: int, column: int) -> Tensor:
        """uint8 3 h w"""
        return read_image(*self.part(f"image/{row}_{column}{self.suffix}"))

    def labels(self, row: int, column: int) -> Tensor:
        """h w, the label file's own values"""
        return read_labels(*self.part(f"labels/{row}_{column}.png"))

    def part(self, name: str) -> tuple[bytes, str]:
        """Its bytes, which have their checksum, and what it is called in error lines."""
        try:
            return self.archive.read(name), f"{self.path}/{name}"
        except Exception as error:
            raise self.damaged(error) from error


class TiledScenes(SceneSource):
    """The photographs of a split that are kept as tiles.

    originals: the files they were made from, where these are at hand; a tile of a file that has changed is refused.
    """

    def __init__(self, tree: Tree, split: str, classes: int, originals: SceneFiles | None = None):
        self.tree, self.folder, self.classes, self.originals = tree, f"{FOLDER}/{split}", classes, originals
        self.names = tree.text(f"{self.folder}.txt").split("\n")[:-1]
        here = set(tree.list(self.folder, (".zip",)))
        missing = [name for name in self.names if f"{self.folder}/{name}.zip" not in here]
        if missing:
            raise UserError(f"{len(missing)} of {len(self.names)} files of tiles are missing", self.where(missing[0]), AGAIN)
        if originals is not None and originals.names != self.names:
            raise UserError(f"tiles of {len(self.names)} photographs, but {len(originals)} in the set, or others",
                            tree.where(self.folder), f"{AGAIN}, or remove {FOLDER}/")

    def where(self, name: str) -> Path:
        return Path(self.tree.where(f"{self.folder}/{name}.zip"))

    def read(self, index: int) -> Scene:
        with self.open(index) as tiles:
            scene = self.scene(index, tiles)
            return scene | {key: scene[key][..., :, :] for key in ("image", "labels")}

    def draw(self, index: int, transform: Transform, rng: np.random.Generator) -> Scene:
        """The transform sees pictures that decode what it slices, so it must slice before it does anything else."""
        with self.open(index) as tiles:
            return transform(self.scene(index, tiles), rng)

    def open(self, index: int) -> Tiles:
        tiles = Tiles(self.where(self.names[index]))
        for key, file in zip(("image", "labels"), self.originals.files(index) if self.originals else ()):
            if os.path.exists(file) and os.path.getsize(file) != tiles.meta[key]["bytes"]:
                raise UserError("it has changed since its tiles were made", file, AGAIN)
        return tiles

    def scene(self, index: int, tiles: Tiles) -> Scene:
        def settle(raw: Tensor) -> Tensor:
            return settle_labels(raw, self.classes, str(tiles.path))

        return {"image": Mosaic(tiles.size, tiles.side, tiles.image, lambda part: part),
                "labels": Mosaic(tiles.size, tiles.side, tiles.labels, settle), "name": self.names[index], "size": tiles.size}


def is_tiled(tree: Tree, split: str) -> bool:
    """Whether the tiles of a split are all made."""
    return not tree.zipped and tree.has(f"{FOLDER}/{split}.txt")


# -- writing -----------------------------------------------------------------------------------------------------------
@dataclass
class Outcome:
    """What became of a photograph: bytes of its two files and of its tiles, dB (None: exact), or the error."""

    name: str
    made: bool = False
    before: int = 0
    after: int = 0
    psnr: float | None = None
    error: str = ""


class Tiling(Dataset):
    """[index]: makes the tiles of a photograph, unless they are there and are of these very files. Gives its Outcome."""

    def __init__(self, source: SceneFiles, folder: Path, quality: str):
        self.source, self.folder, self.quality = source, folder, quality

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Outcome:
        name = self.source.names[index]
        path = self.folder / f"{name}.zip"
        try:
            data = {key: self.source.tree.open(file) for key, file in zip(("image", "labels"), self.source.pairs[index])}
            wanted = {"tile": TILE, "quality": self.quality} | {key: fingerprint(value) for key, value in data.items()}
            meta = kept(path, wanted)
            made = meta is None
            if made:
                scene, raw = self.source.read(index), self.source.raw(index)
        except UserError as error:
            return Outcome(name, error=str(error))
        try:
            if made:
                meta = write(path, scene["image"], raw, jpeg_settings(data["image"], self.quality), wanted)
        except UserError as error:                           # nothing can be written: no reason to go on
            raise SampleError(str(error)) from error
        return Outcome(name, made, sum(map(len, data.values())), path.stat().st_size, meta["psnr"])


def fingerprint(data: bytes) -> dict:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def kept(path: Path, wanted: dict) -> dict | None:
    """The meta.json of a whole file of tiles that are just these."""
    if not path.exists():
        return None
    try:
        with Tiles(path) as tiles:
            meta = tiles.meta
        check_zip(path)
    except UserError:
        return None
    return meta if wanted.items() <= meta.items() else None


def write(path: Path, image: Tensor, labels: Tensor, settings: dict, wanted: dict) -> dict:
    """The file of tiles. image: uint8 3 H W; labels: H W, uint8 or int32 of 16 bit. settings: of Pillow's JPEG, or {}
    for PNG. Returns its meta.json."""
    suffix, (height, width), error = ".jpg" if settings else ".png", labels.shape, 0.0
    with atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
        def put(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name), data)    # without the time, so that equal sources give equal files

        for y in range(0, height, TILE):
            for x in range(0, width, TILE):
                place, part = f"{y // TILE}_{x // TILE}", image[:, y:y + TILE, x:x + TILE]
                encoded = encode_image(part.permute(1, 2, 0).numpy(), settings)
                error += (read_image(encoded).int() - part).square().sum().item()
                put(f"image/{place}{suffix}", encoded)
                put(f"labels/{place}.png", encode_labels(labels[y:y + TILE, x:x + TILE].numpy()))
        psnr = round(10 * math.log10(255**2 * 3 * height * width / error), 2) if error else None
        meta = {"size": [height, width], "suffix": suffix, "psnr": psnr, **wanted}
        put(META, json.dumps(meta, indent=1).encode())
    return meta


def jpeg_settings(data: bytes, quality: str) -> dict:
    """Pillow's settings for the tiles of this picture file; {} for PNG."""
    from PIL import Image
    from PIL.JpegImagePlugin import get_sampling

    if quality == "lossless":
        return {}
    if quality != "source":
        return {"quality": int(quality)}
    with Image.open(io.BytesIO(data)) as picture:
        if picture.format == "JPEG" and picture.mode == "RGB":
            return {"qtables": picture.quantization, "subsampling": max(0, get_sampling(picture))}
    return {"quality": QUALITY, "subsampling": 0}


def encode_image(pixels: np.ndarray, settings: dict) -> bytes:
    """uint8 h w 3 -> a JPEG, or a PNG without settings."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    if not settings:
        return saved(picture, "PNG")
    try:
        return saved(picture, "JPEG", optimize=True, **settings)
    except OSError:                                          # Pillow's buffer is too small for noise at the best qualities
        return saved(picture, "JPEG", **settings)


def encode_labels(labels: np.ndarray) -> bytes:
    """uint8 h w -> a palette PNG (decodes faster than grey, and the eye sees the classes); int32 -> a 16 bit one."""
    from PIL import Image

    if labels.dtype != np.uint8:
        return saved(Image.fromarray(labels.astype(np.uint16)), "PNG", optimize=True)
    picture = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
    picture.putpalette([value for colour in default_palette(int(labels.max()) + 1) for value in colour])
    return saved(picture, "PNG", optimize=True)


def saved(picture, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


# -- the command -------------------------------------------------------------------------------------------------------
def main(arguments: list[str]) -> None:
    from datamodules.mass13k import Mass13kScenes

    options = parse(arguments)
    data = Mass13kScenes(root=options["data.root"])
    if not options["out"] and data.tree.zipped:
        raise UserError("out= is missing", mend="say where tiles of a .zip are to be made")
    out = Path(options["out"] or str(data.tree))
    for split in options["splits"].split(","):
        tile_split(data.originals(split), out, split, options["quality"], int(options["workers"]))
    print(f"data.root={out}")


def parse(arguments: list[str]) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    options = {"data.root": "", "out": "", "splits": "train", "quality": "source", "workers": str(cores)}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in options:
            raise UserError("no such setting", argument, USAGE)
        options[key] = value
    if not options["data.root"]:
        raise UserError("data.root= is missing", mend=USAGE)
    if options["quality"] not in ("source", "lossless", *map(str, range(1, 101))):
        raise UserError("no such quality", f"quality={options['quality']}", "give source, lossless or 1 to 100")
    if not options["workers"].isdecimal():
        raise UserError("not a number of processes", f"workers={options['workers']}", "give 0 or more")
    wrong = set(options["splits"].split(",")) - {"train", "val", "test"}
    if wrong:
        raise UserError("no such split", f"splits={options['splits']}", "give one or several of train,val,test")
    return options


def tile_split(source: SceneFiles, out: Path, split: str, quality: str, workers: int) -> None:
    if len(set(source.names)) < len(source):
        twice = next(name for name in source.names if source.names.count(name) > 1)
        raise UserError("two photographs of this name", twice, "give each its own")
    folder = out / FOLDER / split
    loader = DataLoader(Tiling(source, folder, quality), batch_size=None, num_workers=workers)
    outcomes, start, told = [], time.monotonic(), time.monotonic()
    for outcome in loader:
        outcomes.append(outcome)
        if outcome.error:
            print(f"error: {outcome.error}", file=sys.stderr, flush=True)
        if time.monotonic() - told > PAUSE:
            told = time.monotonic()
            left = (told - start) / len(outcomes) * (len(source) - len(outcomes))
            print(f"{split}: {len(outcomes)} of {len(source)} photographs, {left / 60:.0f} min left", flush=True)
    print(summary(split, outcomes), flush=True)
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        raise UserError(f"{len(failed)} of {len(source)} photographs could not be tiled", folder,
                        "mend or remove the files named above and run it again")
    write_text(folder.with_suffix(".txt"), "".join(f"{name}\n" for name in source.names))


def summary(split: str, outcomes: list[Outcome]) -> str:
    done = [outcome for outcome in outcomes if not outcome.error]
    before, after = sum(o.before for o in done), sum(o.after for o in done)
    changed = [o.psnr for o in done if o.psnr is not None]
    like = f"PSNR {min(changed):.1f} to {max(changed):.1f} dB" if changed else "pixels exact"
    sizes = f"{before / 1e6:.1f} MB -> {after / 1e6:.1f} MB ({after / max(1, before):.2f} times)"
    made = sum(outcome.made for outcome in done)
    return f"{split}: {made} photographs tiled, {len(done) - made} there already; {sizes}, {like}"


if __name__ == "__main__":
    torch.set_num_threads(1)                                 # with workers=0; a worker has one anyway
    door(lambda: main(sys.argv[1:]))
