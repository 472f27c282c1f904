"""Tiles give the samples that whole files give, and are made in full or not at all."""

import errno
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datamodules import tile
from datamodules.base import Augmented, Stream
from datamodules.errors import UserError
from datamodules.files import Tree
from datamodules.samples import collate_scenes
from datamodules.sources import SceneFiles, pair_by_stem
from datamodules.tile import TiledScenes, Tiles, main, parse
from datamodules.transforms import SceneTransform

SIZES = [(48, 64), (37, 53), (16, 70)]                       # H, W: whole tiles of 16, broken ones, one row


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tile, "TILE", 16)


def picture(index, height, width):
    """Smooth colours with an edge, as photographs have them."""
    y, x = np.indices((height, width))
    return np.stack([y * 3 + x, x * 2 + 60 * (y > 20), 40 * index + y * 2], -1).astype(np.uint8)


def make(root, classes=7, suffix="jpg", splits=("train",), **options):
    """MaSS13K's layout: three photographs of the SIZES a split."""
    for split in splits:
        for i, size in enumerate(SIZES):
            labels = np.random.default_rng(i).integers(0, classes, size).astype(np.uint8 if classes < 256 else np.uint16)
            labels[:2, :2] = 255 if classes < 256 else 65535
            for folder, array, kind in (("images", picture(i, *size), suffix), ("annotations", labels, "png")):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / folder / split / f"p{i}.{kind}", **(options if kind == suffix else {}))
    return root


def make_tiles(root, *settings):
    main([f"data.root={root}", "workers=0", *settings])
    return sources(root)


def sources(root, classes=7):
    tree = Tree(root)
    files = SceneFiles(tree, pair_by_stem(tree, "images/train", "annotations/train"), classes)
    return files, TiledScenes(tree, "train", classes, files)


def left(root):
    return sorted(path.name for path in (root / "tiles").rglob("*") if path.is_file())


# -- equal samples
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_lossless_tiles_give_the_whole_picture_and_its_labels(tmp_path, suffix):
    files, tiles = make_tiles(make(tmp_path, suffix=suffix), "quality=lossless")
    assert tiles.names == files.names
    for index, size in enumerate(SIZES):
        one, other = files.read(index), tiles.read(index)
        assert other["size"] == size and other["name"] == f"p{index}" and other["labels"].dtype == torch.uint8
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["labels"], other["labels"])


@pytest.mark.parametrize("crop, scale", [(20, (1.0, 1.0)), ((24, 31), (0.5, 2.0)), (50, (0.4, 0.8))])
def test_a_sample_drawn_from_lossless_tiles_is_that_of_the_whole_file_bit_by_bit(tmp_path, crop, scale):
    files, tiles = make_tiles(make(tmp_path), "quality=lossless")
    transform = SceneTransform(crop, scale, flip=0.5, colour=0.5, cat_max_ratio=0.16, hue=18)
    for visit in range(60):
        one, other = (Augmented(source, transform, 5)[visit, visit % 3] for source in (files, tiles))
        assert torch.equal(one["labels"], other["labels"]), visit
        assert torch.equal(one["image"], other["image"]), visit
        assert one["size"] == other["size"] and other["image"].is_contiguous()


def test_jpeg_tiles_keep_labels_exactly_and_pixels_nearly(tmp_path):
    files, tiles = make_tiles(make(tmp_path, quality=80))
    transform = SceneTransform(20, (0.5, 2.0))
    for index in range(3):
        one, other = files.read(index), tiles.read(index)
        assert torch.equal(one["labels"], other["labels"])
        error = (one["image"].int() - other["image"]).double().square().mean()
        with Tiles(tiles.where(f"p{index}")) as file:
            assert file.meta["psnr"] == pytest.approx(float(10 * torch.log10(255**2 / error)), abs=0.006)
            assert file.meta["psnr"] > 40
        one, other = (source.draw(index, transform, np.random.default_rng(index)) for source in (files, tiles))
        assert torch.equal(one["labels"], other["labels"])
        assert (one["image"].int() - other["image"].int()).abs().float().mean() < 2


def test_labels_of_16_bit_keep_their_values(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.mass13k.CLASSES", [str(i) for i in range(900)])
    monkeypatch.setattr("datamodules.mass13k.PALETTE", [(0, 0, 0)] * 900)
    main([f"data.root={make(tmp_path, classes=900)}", "workers=0"])
    files, tiles = sources(tmp_path, 900)
    one, other = files.read(1)["labels"], tiles.read(1)["labels"]
    assert one.dtype == other.dtype == torch.int32 and torch.equal(one, other)
    assert other.max() > 255 and other[0, 0] == -1
    with Tiles(tiles.where("p1")) as file:
        assert file.labels(0, 0)[0, 0] == 65535


def test_a_photograph_that_its_exif_turns_is_turned_before_it_is_cut(tmp_path):
    root, exif = make(tmp_path), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0, 64, 48)).save(root / "images/train/p0.jpg", exif=exif)      # shown as 48 rows of 64
    files, tiles = make_tiles(root, "quality=lossless")
    assert tiles.read(0)["size"] == (48, 64) and torch.equal(files.read(0)["image"], tiles.read(0)["image"])


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_photographs_of_other_modes_are_kept_in_rgb(tmp_path, mode):
    root = make(tmp_path)
    Image.fromarray(picture(0, 48, 64)).convert(mode).save(root / "images/train/p0.jpg", quality=60)
    files, tiles = make_tiles(root)
    assert (files.read(0)["image"].int() - tiles.read(0)["image"].int()).abs().float().mean() < 3


def test_noise_at_the_best_quality_is_kept_though_pillow_cannot_optimise_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tile, "TILE", 512)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    root = make(tmp_path)
    Image.fromarray(noise).save(root / "images/train/p0.jpg", quality=100, subsampling=0)
    Image.fromarray(np.zeros((300, 400), np.uint8)).save(root / "annotations/train/p0.png")
    files, tiles = make_tiles(root)
    assert (files.read(0)["image"].int() - tiles.read(0)["image"].int()).abs().max() <= 3


# -- what is decoded
def test_a_crop_decodes_the_tiles_it_covers_once_and_no_other(tmp_path, monkeypatch):
    root = make(tmp_path)
    Image.fromarray(picture(0, 160, 160)).save(root / "images/train/p0.jpg")
    Image.fromarray(np.indices((160, 160)).sum(0).astype(np.uint8) % 7).save(root / "annotations/train/p0.png")
    _, tiles = make_tiles(root)
    seen = {"image": [], "labels": []}
    for kind, places in seen.items():
        read = getattr(Tiles, kind)

        def counted(self, row, column, read=read, places=places):
            places.append((row, column))
            return read(self, row, column)

        monkeypatch.setattr(Tiles, kind, counted)
    transform = SceneTransform(32, (1.0, 1.0), flip=1.0, cat_max_ratio=0.75)
    window = transform.choose(torch.from_numpy(np.indices((160, 160)).sum(0) % 7), np.random.default_rng(3))
    tiles.draw(0, transform, np.random.default_rng(3))
    covered = [(row, column) for row in range(window.top // 16, (window.top + 31) // 16 + 1)
               for column in range(window.left // 16, (window.left + 31) // 16 + 1)]
    assert len(covered) <= 9 and seen == {"image": covered, "labels": covered}


# -- going on
def test_a_second_start_makes_only_what_is_missing_damaged_or_of_a_changed_file(tmp_path, capsys):
    root = make(tmp_path)
    make_tiles(root)
    assert left(root) == ["p0.zip", "p1.zip", "p2.zip", "train.txt"]
    content = [(root / f"tiles/train/p{i}.zip").read_bytes() for i in range(3)]
    capsys.readouterr()
    for change, made in (
        (lambda: None, 0),
        (lambda: (root / "tiles/train/p1.zip").write_bytes(content[1][:-40]), 1),
        (lambda: (root / "tiles/train/p1.zip").write_bytes(content[1].replace(content[1][200:210], b"0123456789")), 1),
        (lambda: (root / "tiles/train/p2.zip").unlink(), 1),
    ):
        change()
        make_tiles(root)
        assert f"train: {made} photographs tiled, {3 - made} there already" in capsys.readouterr().out
        assert [(root / f"tiles/train/p{i}.zip").read_bytes() for i in range(3)] == content
    Image.fromarray(np.full((37, 53), 3, np.uint8)).save(root / "annotations/train/p1.png")
    make_tiles(root)
    assert "train: 1 photographs tiled" in capsys.readouterr().out
    assert (sources(root)[1].read(1)["labels"] == 3).all()
    make_tiles(root, "quality=70")
    assert "train: 3 photographs tiled" in capsys.readouterr().out


def test_an_interrupted_start_leaves_whole_files_only_and_no_list(tmp_path, monkeypatch):
    root, encode, calls = make(tmp_path), tile.encode_labels, []

    def interrupted(labels):
        calls.append(1)
        if len(calls) == 18:                                 # p0 has 12 tiles
            raise KeyboardInterrupt
        return encode(labels)

    monkeypatch.setattr(tile, "encode_labels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_tiles(root)
    assert left(root) == ["p0.zip"]
    make_tiles(root)
    assert left(root) == ["p0.zip", "p1.zip", "p2.zip", "train.txt"]


def test_a_full_disk_is_one_line_and_stops_the_work(tmp_path, monkeypatch):
    root = make(tmp_path)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"p0.zip: the disk is full"):
        make_tiles(root)
    assert left(root) == []


def test_several_processes_make_the_same_files(tmp_path):
    contents = []
    for workers in (0, 2):
        root = make(tmp_path / str(workers))
        main([f"data.root={root}", f"workers={workers}"])
        contents.append([(root / f"tiles/train/p{i}.zip").read_bytes() for i in range(3)])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photograph_is_named_the_others_go_on_and_the_set_is_not_complete(tmp_path, capsys, workers):
    root = make(tmp_path)
    path = root / "images/train/p1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="1 of 3 photographs could not be tiled"):
        main([f"data.root={root}", f"workers={workers}"])
    out = capsys.readouterr()
    assert out.err.startswith(f"error: {path}: not a whole picture") and out.err.count("\n") == 1
    assert left(root) == ["p0.zip", "p2.zip"]


def test_labels_of_another_size_and_missing_ones_are_told(tmp_path, capsys):
    root = make(tmp_path)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "annotations/train/p1.png")
    with pytest.raises(UserError, match="1 of 3"):
        make_tiles(root)
    assert "p1.png: labels of 9x9 for a picture of 53x37" in capsys.readouterr().err
    (root / "annotations/train/p1.png").unlink()
    with pytest.raises(UserError, match="p1.jpg: 1 of 3 pictures have no labels"):
        make_tiles(root)


def test_two_photographs_of_one_name_are_refused(tmp_path):
    root = make(tmp_path)
    for folder, kind in (("images", "jpg"), ("annotations", "png")):
        (root / folder / "train/more").mkdir()
        (root / folder / f"train/p0.{kind}").rename(root / folder / f"train/more/p1.{kind}")
    with pytest.raises(UserError, match="p1: two photographs of this name"):
        make_tiles(root)


@pytest.mark.parametrize("argument, said", [
    ("root=x", "no such setting"), ("quality=101", "quality=101"), ("quality=best", "quality=best"),
    ("workers=-1", "workers=-1"), ("splits=train,vall", "splits=train,vall"),
])
def test_a_wrong_setting_is_one_line(argument, said):
    with pytest.raises(UserError, match=said):
        parse(["data.root=x", argument])


def test_a_zipped_set_asks_where_its_tiles_go(tmp_path):
    make(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in (tmp_path / "set").rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path / "set"))
    with pytest.raises(UserError, match="out= is missing"):
        main([f"data.root={tmp_path / 'set.zip'}", "workers=0"])
    main([f"data.root={tmp_path / 'set.zip'}", f"out={tmp_path / 'out'}", "workers=0"])
    assert left(tmp_path / "out") == ["p0.zip", "p1.zip", "p2.zip", "train.txt"]


# -- damage
def rewritten(path, change):
    """The file of tiles with change(name, data) in place of each part."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            if (data := change(name, data)) is not None:
                archive.writestr(name, data)


@pytest.mark.parametrize("damage, said", [
    (lambda path: path.write_bytes(path.read_bytes()[:-30]), r"p0.zip: not a whole file of tiles \(File is not a zip file\)"),
    (lambda path: path.write_bytes(b""), "p0.zip: not a whole file of tiles"),
    (lambda path: path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAX")), "p0.zip: not a whole .*Bad CRC-32"),
    (lambda path: rewritten(path, lambda name, data: data[:-9] if name[-3:] == "jpg" else data),
     r"p0.zip/image/\d_\d.jpg: not a whole picture"),
    (lambda path: rewritten(path, lambda name, data: None if name == "labels/0_0.png" else data), "p0.zip: .*labels/0_0.png"),
    (lambda path: rewritten(path, lambda name, data: b"{}" if name == "meta.json" else data), "p0.zip: .*size"),
    (lambda path: path.unlink(), "p0.zip: .*No such file"),
])
def test_a_damaged_file_of_tiles_is_one_line_with_its_name(tmp_path, damage, said):
    _, tiles = make_tiles(make(tmp_path))
    damage(tmp_path / "tiles/train/p0.zip")
    with pytest.raises(UserError, match=said) as caught:
        tiles.draw(0, SceneTransform(60, (1.0, 1.0)), np.random.default_rng(0))
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_tiles_is_named_by_a_worker_of_the_loader(tmp_path):
    _, tiles = make_tiles(make(tmp_path))
    path = tmp_path / "tiles/train/p0.zip"
    path.write_bytes(path.read_bytes()[:-30])
    dataset = Augmented(tiles, SceneTransform(16, (1.0, 1.0)), 0)
    with pytest.raises(UserError) as caught:
        list(DataLoader(dataset, 1, sampler=Stream(3, 0, 3), num_workers=1, collate_fn=collate_scenes))
    assert str(caught.value).startswith(f"{path}: not a whole file of tiles") and "\n" not in str(caught.value)


def test_whatever_is_changed_in_a_file_of_tiles_is_refused_or_read_right(tmp_path):
    _, tiles = make_tiles(make(tmp_path))
    path, good = tmp_path / "tiles/train/p1.zip", tiles.read(1)
    content, refused = path.read_bytes(), 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        data = bytearray(content)
        for place in rng.integers(len(data), size=3):
            data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            scene = tiles.read(1)
        except UserError as error:
            assert "p1.zip" in str(error)
            refused += 1
            continue
        assert all(torch.equal(scene[key], good[key]) for key in ("image", "labels"))
    assert refused > 20


def test_tiles_of_a_file_that_has_changed_since_are_refused(tmp_path):
    _, tiles = make_tiles(make(tmp_path))
    Image.fromarray(np.zeros((37, 53), np.uint8)).save(tmp_path / "annotations/train/p1.png")
    tiles.read(0)
    with pytest.raises(UserError, match="annotations/train/p1.png: it has changed since .*datamodules.tile again"):
        tiles.draw(1, SceneTransform(16), np.random.default_rng(0))


def test_labels_out_of_range_name_the_file(tmp_path):
    _, tiles = make_tiles(make(tmp_path))
    few = TiledScenes(tiles.tree, "train", 3)
    with pytest.raises(UserError, match="p0.zip: labels up to 6"):
        few.read(0)


def test_a_file_of_tiles_is_a_plain_zip_of_pictures(tmp_path):
    make_tiles(make(tmp_path))
    with zipfile.ZipFile(tmp_path / "tiles/train/p1.zip") as archive:
        names = archive.namelist()
        assert {f"{kind}/{row}_{column}.{suffix}" for kind, suffix in (("image", "jpg"), ("labels", "png"))
                for row in range(3) for column in range(4)} | {"meta.json"} == set(names)
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        assert json.loads(archive.read("meta.json"))["size"] == [37, 53]
        assert Image.open(archive.open("image/2_3.jpg")).size == (5, 5)
