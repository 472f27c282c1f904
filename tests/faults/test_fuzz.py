"""Damaged files: each is refused in one line or read right, never a traceback, never something else in silence.

"Right" is what the file itself lets a reader know. Where it carries checksums (PNG, .zip, checkpoints, an export beside
its model.yaml) what is read equals the whole file's content. Elsewhere (JPEG, WebP, TIFF, BMP, text) a changed byte may
be a changed pixel or letter; but size, type and range hold, and a cut picture is refused or has lost nothing.
"""

import copy
import io
import json
import tempfile
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from callbacks.checkpoint import resume_point
from datamodules.base import settle_labels
from datamodules.errors import UserError
from datamodules.files import Tree, load_torch_pickle, read_image, read_labels
from datamodules.samples import manifest_line, read_classes, read_manifest
from tests.conftest import ROOT
from tests.doors.test_doors import config
from zoo import hub, runs


# -- damage ------------------------------------------------------------------------------------------------------------
def flip_bits(data, rng, other):
    out = bytearray(data)
    for place in rng.integers(len(out), size=rng.integers(1, 9)):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def flip_a_bit_of_the_beginning(data, rng, other):
    place = int(rng.integers(min(64, len(data))))
    return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1:]


def cut(data, rng, other):
    return data[: int(rng.integers(len(data)))]


def cut_the_end(data, rng, other):
    return data[: len(data) - int(rng.integers(1, min(33, len(data))))]


def insert_zeros(data, rng, other):
    place = int(rng.integers(len(data)))
    return data[:place] + bytes(int(rng.integers(1, 65))) + data[place:]


def insert_digits(data, rng, other):
    place = int(rng.integers(len(data)))
    return data[:place] + b"0" * int(rng.integers(1, 9)) + data[place:]


def overwrite_by_zeros(data, rng, other):
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 513))
    return data[:place] + bytes(len(data[place:place + length])) + data[place + length:]


def swap_headers(data, rng, other):
    length = int(rng.integers(2, 33))                        # less than a PNG's whole header, which may well fit
    return other[:length] + data[length:]


CUTS = (cut, cut_the_end)
DAMAGE = (flip_bits, flip_a_bit_of_the_beginning, *CUTS, insert_zeros, insert_digits, overwrite_by_zeros, swap_headers)


# -- files and how they are read ---------------------------------------------------------------------------------------
@dataclass
class File:
    """data: the whole file. read(path): what a reader of ours makes of it. judge(answer, path): what is wrong with an
    answer, or "". summed: checksums cover everything, so an answer equals the whole file's."""

    name: str
    data: bytes
    read: Any
    judge: Any
    summed: bool


def any_answer(answer, path):
    return ""


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def judge_picture(image, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = Image.open(path).size
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        return f"{image.dtype} {tuple(image.shape)}"
    return "" if tuple(image.shape[-2:]) in (size, size[::-1]) else f"{tuple(image.shape)} of a file of {size}"


def judge_labels(labels, path):
    if labels.dtype not in (torch.uint8, torch.int32) or tuple(labels.shape) != Image.open(path).size[::-1]:
        return f"{labels.dtype} {tuple(labels.shape)}"
    try:
        settled = settle_labels(labels, 5, str(path))
    except UserError:
        return ""
    return "" if set(settled.unique().tolist()) <= {0, 1, 2, 3, 4, 255} else f"labels {settled.unique().tolist()}"


def pictures():
    y, x = np.mgrid[:60, :80]
    smooth = np.stack([x * 3, y * 4, x + y], -1)
    noisy = smooth + np.random.default_rng(0).integers(0, 16, smooth.shape)
    colour = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    clear = colour.copy()
    clear.putalpha(Image.fromarray((x * 3).astype(np.uint8)))
    palette = colour.quantize(32)
    wide = Image.fromarray((x * y * 13).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, data in {
        "png": encoded(colour, "PNG"), "palette png": encoded(palette, "PNG", transparency=bytes(range(0, 256, 8))),
        "alpha png": encoded(clear, "PNG"), "16 bit png": encoded(wide, "PNG"),
        "jpeg": encoded(colour, "JPEG", exif=exif), "progressive jpeg": encoded(colour, "JPEG", progressive=True),
        "cmyk jpeg": encoded(colour.convert("CMYK"), "JPEG"), "webp": encoded(colour, "WEBP", exif=exif),
        "lossless webp": encoded(clear, "WEBP", lossless=True), "tiff": encoded(colour, "TIFF"),
        "lzw tiff": encoded(colour, "TIFF", compression="tiff_lzw", exif=exif),
        "deflate tiff": encoded(colour, "TIFF", compression="tiff_adobe_deflate"), "bmp": encoded(colour, "BMP"),
    }.items():  # fmt: skip
        yield File(name, data, read_image, judge_picture, "png" in name)


def masks():
    y, x = np.mgrid[:60, :80]
    labels = ((x // 9 + y // 7) % 5).astype(np.uint8)
    palette = Image.frombytes("P", (80, 60), labels.tobytes())
    palette.putpalette(list(range(15)))
    for name, data in {
        "png mask": encoded(Image.fromarray(labels), "PNG"), "palette png mask": encoded(palette, "PNG"),
        "16 bit png mask": encoded(Image.fromarray(labels.astype(np.uint16)), "PNG"),
        "tiff mask": encoded(Image.fromarray(labels), "TIFF", compression="tiff_adobe_deflate"),
        "bmp mask": encoded(Image.fromarray(labels), "BMP"), "gif mask": encoded(palette, "GIF"),
    }.items():  # fmt: skip
        yield File(name, data, read_labels, judge_labels, "png" in name)


def texts():
    def classes(path):
        return read_classes(Tree(path.parent).text(path.name), path)

    def judge_classes(answer, path):
        names, colours = answer
        good = all(names) and (colours is None or len(colours) == len(names) and max(map(max, colours)) <= 255)
        return "" if good else str(answer)

    def manifest(path):
        return read_manifest(Tree(path.parent).text(path.name), path)

    def judge_manifest(rows, path):
        wrong = [r for r in rows if not isinstance(r["seed"], int) or not isinstance(r["name"], str)]
        return f"{len(rows)} rows" if len(rows) > 6 or wrong else ""

    rows = [{"name": f"a_{i}", "source": "m.png", "word": "tree", "seed": i, "prompt": "a tree", "weights": "0" * 64,
             "filter": {"iou": 0.5}} for i in range(6)]  # fmt: skip
    coloured = "".join(f"class {i} {i} {2 * i} 7\n" for i in range(12)).encode()
    yield File("classes.txt", "sky\nroad way\ntree\nwäter\n".encode(), classes, judge_classes, False)
    yield File("coloured classes.txt", coloured, classes, judge_classes, False)
    yield File("manifest.jsonl", "".join(map(manifest_line, rows)).encode(), manifest, judge_manifest, False)
    text = yaml.safe_dump(config("train"), sort_keys=False).encode()
    yield File("config.yaml", text, lambda path: runs.read_config(path.parent), any_answer, False)


def archives():
    file = io.BytesIO()
    content = {f"images/{i}.txt": np.random.default_rng(i).bytes(300) for i in range(3)}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)

    def read(path):
        tree = Tree(path)
        return {name: tree.open(name) for name in content}

    yield File("zip", file.getvalue(), read, any_answer, True)


def saved() -> tuple[bytes, bytes, bytes]:
    """An export's two files and a checkpoint, of a tiny net."""
    torch.manual_seed(0)
    model = hub.build(yaml.safe_load((ROOT / "zoo/massformer/tiny.yaml").read_text()), ["sky", "tree", "road"])
    with tempfile.TemporaryDirectory() as folder:
        hub.export(model, folder, {"seed": 0})
        exported, recipe = ((Path(folder) / name).read_bytes() for name in (hub.WEIGHTS, hub.RECIPE))
    file = io.BytesIO()
    torch.save({"state_dict": dict(list(model.state_dict().items())[:20]), "zoo": model.recipe, "global_step": 3}, file)
    return exported, recipe, file.getvalue()


def weights():
    exported, recipe, checkpoint = saved()

    def beside(path):
        (path.parent / hub.RECIPE).write_bytes(recipe)
        return hub.read(path)[0]

    def recipe_beside(path):
        (path.parent / hub.RECIPE).write_bytes(path.read_bytes())
        (path.parent / hub.WEIGHTS).write_bytes(exported)
        return hub.read(path.parent)[0]

    def resumed(path):
        """The step a run would go on from: 3 from last.ckpt, 2 from the best.ckpt beside it."""
        folder = path.parent / "checkpoints"
        folder.mkdir(exist_ok=True)
        torch.save({"global_step": 2}, folder / "best.ckpt")
        (folder / "last.ckpt").write_bytes(path.read_bytes())
        found = resume_point(path.parent)
        if found.endswith("best.ckpt"):
            raise UserError("passed over")
        return torch.load(found, weights_only=True)

    yield File(hub.WEIGHTS, exported, beside, any_answer, True)
    yield File("recipe", recipe, recipe_beside, any_answer, True)
    yield File("alone.safetensors", exported, lambda path: hub.load(path).state_dict(), any_answer, False)
    yield File("of a run.ckpt", checkpoint, lambda path: hub.read(path)[0], any_answer, True)
    yield File("official.pth", checkpoint, load_torch_pickle, any_answer, True)
    yield File("last.ckpt", checkpoint, resumed, any_answer, True)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


# -- the campaign ------------------------------------------------------------------------------------------------------
def attack(file: File, others: list[bytes], folder: Path, count: int) -> tuple[Counter, list[str]]:
    """Damages a file `count` times; how its readings ended, and what went wrong."""
    rng = np.random.default_rng((7, *file.name.encode()))
    path = folder / file.name
    folder.mkdir(parents=True, exist_ok=True)

    def whole():
        path.write_bytes(file.data)
        return file.read(path)

    expected, ends, wrong = copy.deepcopy(whole()), Counter(), []   # a copy: safetensors maps the file into memory
    for case in range(count):
        change = DAMAGE[case % len(DAMAGE)]
        damaged = change(file.data, rng, others[int(rng.integers(len(others)))])
        path.write_bytes(damaged)
        try:
            answer = file.read(path)
        except UserError as error:
            ends["refused"] += 1
            if "\n" in str(error):
                wrong.append(f"{file.name} {case} {change.__name__}: two lines: {error}")
            continue
        except BaseException as error:
            ends["traceback"] += 1
            wrong.append(f"{file.name} {case} {change.__name__}: {type(error).__name__} {error}"[:300])
            continue
        fault = file.judge(answer, path)
        if (file.summed or change in CUTS and file.judge is judge_picture) and not same(answer, expected):
            fault = fault or "another content"
        ends["silent" if fault else "as whole" if same(answer, expected) else "changed"] += 1
        if fault:
            wrong.append(f"{file.name} {case} {change.__name__}: in silence: {fault}"[:300])
    return ends, wrong


GROUPS = {"pictures": pictures, "masks": masks, "texts": texts, "archives": archives, "weights": weights}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("each", [2, pytest.param(72, marks=pytest.mark.slow)])
def test_a_damaged_file_is_refused_in_one_line_or_read_right(group, each, tmp_path, capsys):
    pytest.fuzz_folder = tmp_path
    files = list(GROUPS[group]())
    others = [file.data for file in [*files, *masks()]]
    total, wrong = Counter(), []
    for number, file in enumerate(files):
        ends, faults = attack(file, others, tmp_path / str(number), each)
        total, wrong = total + ends, wrong + faults
    with capsys.disabled():
        print(f"\n{group}: {each * len(files)} damaged files: {dict(total)}", flush=True)
    assert not wrong, json.dumps(wrong, indent=1)
