"""Photographs of any kind are read to the right pixels; a mistake is one line with status 2 and leaves nothing."""

import io
import re

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import evaluate
import train
from datamodules.errors import UserError, door
from datamodules.files import read_image
from tests.conftest import ROOT
from tests.doors.test_doors import FEW, config
from zoo import hub, predict, runs

# -- photographs -------------------------------------------------------------------------------------------------------
Y, X = np.mgrid[:24, :40]
RGB = np.stack([X * 6, Y * 10, (X + Y) * 3], -1).astype(np.uint8)
GREY, ALPHA, INDEX = RGB[..., 0], (X * 6).astype(np.uint8), (X // 3 + Y // 4) % 16
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
WIDE = np.random.default_rng(1).integers(0, 65536, (24, 40, 3), dtype=np.uint16)


def encoded(pixels, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(file, kind, **options)
    return file.getvalue()


def palette_picture():
    picture = Image.frombytes("P", (40, 24), INDEX.astype(np.uint8).tobytes())
    picture.putpalette(COLOURS.tobytes())
    return picture


def on_white(rgb, alpha):
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def grey(values):
    return np.stack([values] * 3, -1)


def cmyk_parts():
    ink = np.stack([X * 6, Y * 10, (X + Y) * 3, X * 2], -1).astype(np.uint8)
    return ink, (255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255


def cmyk(kind):
    ink, _ = cmyk_parts()
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    return encoded(Image.frombytes("CMYK", (40, 24), ink.tobytes()), kind, **options)


def cmyk_without_adobe_marker():
    """Ink as it is; Pillow writes Adobe's marker and the inverse of what it is given."""
    ink, _ = cmyk_parts()
    data = encoded(Image.frombytes("CMYK", (40, 24), ink.tobytes()), "JPEG", quality=100, subsampling=0)
    assert data[2:4] == b"\xff\xee"
    return data[:2] + data[data.index(b"\xff\xdb"):]


def ycck_of_photoshop():
    """Adobe's marker with transform 2: the inverse of the ink, its first three parts as YCbCr."""
    ink, _ = cmyk_parts()
    c, m, y = (ink[..., i].astype(float) for i in range(3))
    luma = 0.299 * c + 0.587 * m + 0.114 * y
    parts = np.stack([luma, 128 + 0.564 * (y - luma), 128 + 0.713 * (c - luma), 255.0 - ink[..., 3]], -1).round()
    data = encoded(Image.frombytes("CMYK", (40, 24), (255 - parts).astype(np.uint8).tobytes()), "JPEG", quality=100,
                   subsampling=0)  # fmt: skip
    assert data[6:11] == b"Adobe" and data[17] == 0
    return data[:17] + b"\2" + data[18:]


def opencv(kind, pixels):
    return cv2.imencode(kind, pixels)[1].tobytes()


SHARES = np.arange(0, 256, 16, dtype=np.uint8)
PHOTOGRAPHS = {
    "PNG": lambda: (encoded(RGB), RGB),
    "BMP": lambda: (encoded(RGB, "BMP"), RGB),
    "TIFF, LZW": lambda: (encoded(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "WebP": lambda: (encoded(RGB, "WEBP", lossless=True), RGB),
    "JPEG": lambda: (encoded(RGB, "JPEG", quality=100, subsampling=0), RGB),
    "progressive JPEG": lambda: (encoded(RGB, "JPEG", quality=100, subsampling=0, progressive=True), RGB),
    "grey JPEG": lambda: (encoded(GREY, "JPEG", quality=100), grey(GREY)),
    "RGBA PNG": lambda: (encoded(np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA)),
    "RGBA WebP": lambda: (encoded(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True), on_white(RGB, ALPHA)),
    "RGBA TIFF": lambda: (encoded(np.dstack([RGB, ALPHA]), "TIFF"), on_white(RGB, ALPHA)),
    "LA PNG": lambda: (encoded(np.dstack([GREY, ALPHA])), on_white(grey(GREY), ALPHA)),
    "1 bit PNG": lambda: (encoded(Image.fromarray(GREY > 99)), grey(255 * (GREY > 99))),
    "1 bit TIFF": lambda: (encoded(Image.fromarray(GREY > 99), "TIFF"), grey(255 * (GREY > 99))),
    "palette PNG": lambda: (encoded(palette_picture()), COLOURS[INDEX]),
    "palette GIF": lambda: (encoded(palette_picture(), "GIF"), COLOURS[INDEX]),
    "palette with a transparent colour": lambda: (
        encoded(palette_picture(), transparency=3), np.where((INDEX == 3)[..., None], 255, COLOURS[INDEX])),
    "palette with degrees of transparency": lambda: (
        encoded(palette_picture(), transparency=SHARES.tobytes()), on_white(COLOURS[INDEX], SHARES[INDEX])),
    "RGB with a transparent colour": lambda: (
        encoded(RGB, transparency=(6, 10, 6)), np.where((RGB == (6, 10, 6)).all(-1)[..., None], 255, RGB)),
    "CMYK JPEG, Adobe's inverse": lambda: (cmyk("JPEG"), cmyk_parts()[1]),
    "CMYK JPEG without marker": lambda: (cmyk_without_adobe_marker(), cmyk_parts()[1]),
    "YCCK JPEG of Photoshop": lambda: (ycck_of_photoshop(), cmyk_parts()[1]),
    "CMYK TIFF": lambda: (cmyk("TIFF"), cmyk_parts()[1]),
    "16 bit grey PNG": lambda: (encoded(WIDE[..., 0]), grey(WIDE[..., 0] / 257)),
    "16 bit grey TIFF": lambda: (encoded(WIDE[..., 0], "TIFF"), grey(WIDE[..., 0] / 257)),
    "16 bit RGB PNG": lambda: (opencv(".png", WIDE[..., ::-1]), WIDE / 257),
    "16 bit RGB TIFF": lambda: (opencv(".tiff", WIDE[..., ::-1]), WIDE / 257),
    "16 bit RGBA PNG": lambda: (
        opencv(".png", np.dstack([WIDE[..., ::-1], ALPHA.astype(np.uint16) * 257])), on_white(WIDE / 257, ALPHA)),
}  # fmt: skip


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_of_any_kind_is_read_to_its_pixels(name):
    data, expected = PHOTOGRAPHS[name]()
    image = read_image(data, name)
    assert image.dtype == torch.uint8 and tuple(image.shape) == (3, 24, 40)
    off = 4 if "JPEG" in name else 1.5 if "16 bit" in name else 0.51
    assert np.abs(image.permute(1, 2, 0).numpy() - np.asarray(expected, float)).max() <= off


UPRIGHT = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2), 6: np.rot90(RGB, -1),
           7: RGB[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(RGB)}  # fmt: skip


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_each_of_the_eight_exif_rotations_is_undone(kind, turn):
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    image = read_image(encoded(RGB, kind, exif=turned(turn), **options)).permute(1, 2, 0).numpy()
    assert image.shape == UPRIGHT[turn].shape and np.abs(image.astype(int) - UPRIGHT[turn]).max() <= 3


def turned(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_embedded_colour_profile_changes_nothing(kind):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    plain, profiled = (read_image(encoded(RGB, kind, **options, **more)) for more in ({}, {"icc_profile": profile}))
    assert torch.equal(plain, profiled)


# -- doors -------------------------------------------------------------------------------------------------------------
CLASSES = ["sky", "tree", "road"]


@pytest.fixture
def said(capsys):
    """The one line with which a piece of work ends."""

    def line(work) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            door(work)
        errors = capsys.readouterr().err
        assert ended.value.code == 2
        assert errors.startswith("error: ") and errors.count("\n") == 1, errors
        return errors.strip()

    return line


def training(tmp_path, *overrides):
    """train.py with these overrides; afterwards nothing may lie below runs."""
    return lambda: train.run(config("train", "model=massformer", f"runs={tmp_path / 'runs'}", *FEW, *overrides))


def left_over(tmp_path):
    return [str(p) for p in (tmp_path / "runs").rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.max_steps=abc", "trainer.max_steps: 'abc' is not a whole number"),
        ("trainer.max_steps=0", "trainer.max_steps"),
        ("trainer.precision=17", "trainer.precision: 17 is not 64 or 32 or 16"),
        ("trainer.accelerator=abacus", "abacus"),
        ("trainer.devices=0", "devices=0"),
        ("data.batch_size=two", "data.batch_size: 'two' is not a whole number"),
        ("data.batch_size=0", "data.batch_size"),
        ("data.workers=-1", "data.workers"),
        ("data.crop=-5", "data.crop: -5 pixels"),
        ("data.crop=[64]", r"data.crop: \[64\] is not a whole number or \[a whole number, a whole number\]"),
        ("data.scale=[2]", r"data.scale: \[2\] is not \[a number, a number\]"),
        ("data.scale=[2,1]", "data.scale"),
        ("data.flip=2", "data.flip"),
        ("data.labelled=0", "data.labelled: 0 scenes of 8; give 1 to 8"),
        ("data.segments=true", "MaSSFormer needs scenes, this set gives segments; data.segments"),
        ("data.labelled=nowhere.txt", "nowhere.txt: no such list"),
        ("data.family=sea", "data.family"),
        ("data.n_val=0", "data.n_val"),
        ("model.net.width=abc", "model.net.width: 'abc' is not a whole number"),
        ("model.net.width=-4", "width=-4 must be at least 1"),
        ("model.net.cst=maybe", "model.net.cst: 'maybe' is not true or false"),
        ("model.optimisation.schedule=x", "schedule=x must be one of cosine"),
        ("model.optimisation.lr=fast", "model.optimisation.lr: 'fast' is not a number"),
        ("model.optimisation=5", "model.optimisation: 5 is not"),
        ("inference.overlap=2", "overlap=2 must lie in 0..1"),
        ("inference.mode=guess", "mode=guess must be whole, slide or bands"),
        ("callbacks.panels.count=few", "callbacks.panels.count: 'few' is not a whole number"),
        ("save.monitor=val/best", "save.monitor: val/best is not a figure of validation"),
        ("save.every=often", "save.every: 'often' is not a whole number"),
        ("seed=x", "seed: 'x' is not a whole number"),
        ("seed=-1", "seed: -1 is negative"),
        ("untrained=perhaps", "untrained: 'perhaps' is not true or false"),
        ("init=nowhere", "nowhere"),
        ("model._target_=zoo.nothing.Net", "model._target_: .*zoo.nothing.Net"),
    ],
)
def test_a_wrong_value_on_the_command_line_names_its_key_and_leaves_nothing(override, told, said, tmp_path):
    assert re.search(told, said(training(tmp_path, override)))
    assert left_over(tmp_path) == []


def test_a_method_refuses_samples_of_another_kind(said, tmp_path):
    run = lambda: train.run(config("train", "model=massformer", "data=demo_episodes", f"runs={tmp_path / 'runs'}"))
    assert "data=demo_episodes_fold0_1shot: MaSSFormer needs scenes, this set gives episodes" in said(run)
    assert left_over(tmp_path) == []


def test_a_run_that_a_mistake_ended_at_once_does_not_keep_its_name(said, tmp_path):
    said(training(tmp_path, "run=mine", "trainer.accelerator=abacus"))
    assert "abacus" in said(training(tmp_path, "run=mine", "trainer.accelerator=abacus"))


def test_a_file_where_the_runs_should_be_is_told(said, tmp_path):
    (tmp_path / "runs").write_text("a file")
    assert "no folder can be made here" in said(training(tmp_path))


def make_folder(root, masks=lambda labels: labels, classes="sky\ntree\nroad\n", count=4):
    for name in range(count):
        labels = np.random.default_rng(name).integers(0, 3, (40, 48)).astype(np.uint8)
        for place, array in (("images", grey(labels * 50)), ("masks", masks(labels))):
            (root / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / place / f"{name}.png")
    (root / "classes.txt").write_text(classes)
    return root


def on_folder(tmp_path, root, *overrides):
    few = [key for key in FEW if not key.startswith(("data.n_", "data.size"))]
    return lambda: train.run(config("train", "model=massformer", "data=folder", f"data.root={root}", "data.workers=0",
                                    f"runs={tmp_path / 'runs'}", *few, *overrides))  # fmt: skip


def spoil(path, change):
    path.write_bytes(change(path.read_bytes()))


WRONG_FOLDERS = {
    "empty": (lambda root: root.mkdir(), "no classes.txt"),
    "no pictures": (lambda root: [p.unlink() for p in (make_folder(root) / "images").iterdir()], "no pictures"),
    "a missing mask": (lambda root: (make_folder(root) / "masks/1.png").unlink(), "1.png: 1 of 4 .* have no labels"),
    "no colours in classes.txt": (lambda root: make_folder(root, lambda m: COLOURS[m]), "colours, not class numbers"),
    "black and white": (lambda root: make_folder(root, lambda m: (m > 0) * np.uint8(255)), "data.white=1"),
    "classes.txt in UTF-16": (lambda root: (make_folder(root) / "classes.txt").write_bytes("ä\nö\n".encode("utf-16")),
                              "classes.txt: not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_FOLDERS)
def test_a_wrong_folder_is_told_before_anything_is_made(kind, said, tmp_path):
    make, told = WRONG_FOLDERS[kind]
    make(tmp_path / "set")
    line = said(on_folder(tmp_path, tmp_path / "set"))
    assert re.search(told, line) and str(tmp_path / "set") in line
    assert left_over(tmp_path) == []


WRONG_FILES = {
    "counts from one": (lambda root: make_folder(root, lambda m: m + 1), "labels up to 3 .*data.label_shift=-1"),
    "a label out of range": (lambda root: make_folder(root, lambda m: m * 30), "labels up to 60"),
    "another size": (lambda root: make_folder(root, lambda m: m[:30]), "labels of 48x30 for a picture of 48x40"),
    "a torn picture": (lambda root: [spoil(p, lambda d: d[:-60]) for p in (make_folder(root) / "images").iterdir()],
                       r"images/\d.png: not a whole picture"),
    "a flipped bit in a mask": (lambda root: [spoil(p, lambda d: d[:-30] + bytes([d[-30] ^ 4]) + d[-29:])
                                              for p in (make_folder(root) / "masks").iterdir()],
                                r"masks/\d.png: not a whole picture"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_FILES)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_wrong_file_is_told_when_training_comes_to_it(kind, workers, said, tmp_path):
    make, told = WRONG_FILES[kind]
    make(tmp_path / "set")
    line = said(on_folder(tmp_path, tmp_path / "set", f"data.workers={workers}", "data.label_shift=0"))
    assert re.search(told, line) and str(tmp_path / "set") in line


# -- weights and runs --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder as training leaves it, of a tiny net that learnt nothing; its data are a folder of three classes."""
    folder = tmp_path_factory.mktemp("weights") / "run"
    root = make_folder(folder.parent / "set")
    cfg = config("train", "model=massformer", "data=folder", f"data.root={root}", *(k for k in FEW if "data." not in k))
    model = hub.build(cfg["model"], CLASSES)
    hub.export(model, folder, {"seed": 0})
    runs.save_config(folder, cfg)
    checkpoint = {"state_dict": model.state_dict(), "zoo": model.recipe, "global_step": 3}
    (folder / "checkpoints").mkdir()
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
    return folder


def judging(weights, *overrides):
    return lambda: evaluate.run(config("evaluate", f"weights='{weights}'", *overrides))


def test_weights_for_other_classes_are_refused_on_other_data(finished, said, tmp_path):
    line = said(judging(finished, "data=demo", f"out={tmp_path / 'out'}"))
    assert "the weights know 3 classes" in line and "the data 7" in line
    assert not (tmp_path / "out").exists()


def test_weights_for_other_classes_do_not_fit_a_net(finished):
    model = hub.build(hub.read(finished)[1]["model"], [*CLASSES, "water"])
    with pytest.raises(UserError, match="of another shape .*another model or class count"):
        hub.fit(model, hub.read(finished)[0], finished)


def write_weights(path, recipe, tensors=None):
    from safetensors.torch import save_file

    metadata = {"recipe": yaml.safe_dump(recipe)} if isinstance(recipe, str) else None
    save_file(tensors or {"w": torch.zeros(2)}, path, metadata)


NO_WEIGHTS = {
    "a picture": lambda path: Image.fromarray(RGB).save(path / "photo.jpg") or path / "photo.jpg",
    "a picture by name": lambda path: (path / "a.safetensors").write_bytes(encoded(RGB)) and path / "a.safetensors",
    "a folder of something else": lambda path: (path / "notes.txt").write_text("x") and path,
    "an empty file": lambda path: (path / "a.safetensors").touch() or path / "a.safetensors",
    "an empty checkpoint": lambda path: (path / "a.ckpt").touch() or path / "a.ckpt",
    "no recipe": lambda path: write_weights(path / "a.safetensors", None) or path / "a.safetensors",
    "a checkpoint of another program": lambda path: torch.save({"epoch": 3}, path / "a.ckpt") or path / "a.ckpt",
    "a list of tensors": lambda path: torch.save([torch.zeros(2)], path / "a.ckpt") or path / "a.ckpt",
    "nothing": lambda path: path / "nowhere",
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_weights_is_told_by_evaluate_predict_and_init(kind, said, tmp_path):
    (tmp_path / "in").mkdir()
    weights = NO_WEIGHTS[kind](tmp_path / "in")
    Image.fromarray(RGB).save(tmp_path / "photo.png")
    assert str(weights) in said(judging(weights))
    picture = [f"weights={weights}", f"image={tmp_path / 'photo.png'}", f"out={tmp_path / 'out'}"]
    assert str(weights) in said(lambda: predict.main(picture))
    assert str(weights) in said(training(tmp_path, f"init='{weights}'"))
    assert left_over(tmp_path) == [] and not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_method_does_not_fit(finished, said, tmp_path):
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    content["zoo"]["model"]["_target_"] = "zoo.inference.Inference"
    torch.save(content, tmp_path / "other.ckpt")
    said(judging(tmp_path / "other.ckpt"))


def test_a_run_without_a_checkpoint_is_told(finished, said, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.yaml").write_text((finished / "config.yaml").read_text())
    assert "neither weights.safetensors nor a checkpoint" in said(judging(tmp_path / "bare"))


def test_two_runs_of_one_name_ask_for_the_path(said, tmp_path):
    for data in ("a", "b"):
        runs.save_config(tmp_path / "massformer" / data / "one", config("train"))
    line = said(lambda: train.run(config("train", f"runs={tmp_path}", "resume=one")))
    assert "2 runs have this name" in line and "give the run folder's path" in line


DAMAGED = {
    "empty": lambda text: "",
    "no YAML": lambda text: "model: [",
    "no text": lambda text: text.replace("massformer", "mass\0former"),
    "a list": lambda text: "- 1\n",
    "cut": lambda text: text[: len(text) // 2],
    "no data": lambda text: re.sub(r"(?m)^data:\n( .*\n)+", "data: 3\n", text),
    "no target": lambda text: text.replace("_target_", "target"),
    "a wrong target": lambda text: text.replace("zoo.massformer.module", "zoo.massformer.modul"),
    "a wrong type": lambda text: re.sub(r"batch_size: \d+", "batch_size: [x]", text),
    "an unknown key": lambda text: text.replace("  val_batch_size:", "  val_batch_seize:"),
    "an interpolation": lambda text: re.sub(r"root: .*", "root: ${nothing}", text),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_config_of_a_run_is_told(kind, finished, said, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(DAMAGED[kind]((finished / "config.yaml").read_text()))
    said(lambda: train.run(config("train", f"resume={tmp_path / 'run'}")))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_a_config_out_of_somebodys_file_builds_nothing_but_classes_of_this_zoo(tmp_path):
    from zoo.settings import only_ours

    mark = tmp_path / "mark"
    foreign = ("os.system", "zoo.runs.subprocess.run", "datamodules.files.write_text", "zoo.runs.Path", "zoo.nothing.X")
    for target in (*foreign, 3, None):
        inner = {"_target_": target, "command": f"touch {mark}"}
        with pytest.raises(UserError, match="file.safetensors"):
            only_ours({"_target_": "zoo.optim.Optimisation", "x": [inner]}, "file.safetensors")
    assert not mark.exists()
    only_ours(yaml.safe_load((ROOT / "zoo/massformer/tiny.yaml").read_text()), "file")


# -- prediction --------------------------------------------------------------------------------------------------------
def test_predict_turns_a_photograph_as_its_exif_says_and_lays_it_on_white(finished, tmp_path):
    Image.fromarray(RGB).save(tmp_path / "turned.jpg", exif=turned(6))
    Image.fromarray(np.dstack([RGB, 0 * ALPHA])).save(tmp_path / "clear.png")
    given, cfg = predict.parse([f"weights={finished}", f"image={tmp_path}", f"out={tmp_path / 'out'}"])
    predict.run(given, cfg)
    assert Image.open(tmp_path / "out" / "turned_mask.png").size == (24, 40)
    model = hub.load(finished)
    white = model.predict(np.full((24, 40, 3), 255, np.uint8))
    assert (np.asarray(Image.open(tmp_path / "out" / "clear_mask.png")) == white.labels).all()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("colour=red", "colour"),
        ("device=abacus", "device=abacus"),
        ("device=3", "device: 3 is not text"),
        ("inference.window=wide", "inference.window: 'wide' is not a whole number"),
        ("inference.rows=0", "rows=0 must be at least 1"),
        ("overwrite=perhaps", "overwrite: 'perhaps' is not true or false"),
        ("inference=none_such", "none_such"),
        ("stray", "stray"),
        ("out=photo.png", "photo.png"),
    ],
)
def test_a_mistake_of_predict_is_told_and_nothing_is_written(more, told, finished, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(RGB).save("photo.png")
    assert told in said(lambda: predict.main([f"weights={finished}", "image=photo.png", "out=here", more]))
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("split=train", "split: 'train' is not val or test"),
        ("seed=x", "seed: 'x'"),
        ("out=7", "out: 7 is not text or null"),
        ("+data.batch_size=two", "data.batch_size: 'two'"),
    ],
)
def test_a_mistake_of_evaluate_is_told(override, told, finished, said):
    assert told in said(judging(finished, override))
