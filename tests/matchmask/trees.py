"""A labelled set on the disk, a finished generator's run and a segmenter for it, all as small as can be."""

import json
from pathlib import Path

import numpy as np
import yaml
from lightning.pytorch import seed_everything

from tests.conftest import ROOT
from tests.contract import CLASSES, SquareData, Squares
from tests.doors.test_doors import config
from zoo import generate, hub
from zoo.visualize import save_label_png, save_png

SCENES = 5


def built(room, classes=CLASSES, **settings):
    seed_everything(0, verbose=False)
    recipe = yaml.safe_load((ROOT / "zoo" / room / "tiny.yaml").read_text())
    return hub.build(hub.merged(recipe, settings), list(classes), SquareData().palette[: len(classes)] or None)


def matchmask(**settings):
    return built("matchmask", **settings)


def write_set(folder: Path, scenes: int = SCENES) -> Path:
    """images/, masks/, classes.txt: of every split some; one picture of another size, one mask ignored everywhere."""
    for split in ("train", "val"):
        for number in range(scenes):
            scene = Squares().read(number)
            image, labels = scene["image"].permute(1, 2, 0).numpy(), scene["labels"].numpy()
            if number == 2:
                image, labels = image[:45, :61], labels[:45, :61]
            save_png(folder / "images" / split / f"{split}{number}.png", np.ascontiguousarray(image))
            save_label_png(folder / "masks" / split / f"{split}{number}.png", np.ascontiguousarray(labels), SquareData().palette)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return folder


def write_run(folder: Path, root: Path, model=None, labelled: int | None = 3) -> Path:
    """A run folder as train.py leaves one: weights and the config with the data's settings."""
    model = model or matchmask()
    hub.export(model, folder, {"seed": 0})
    more = ["data=folder", f"data.root={root}", f"data.labelled={json.dumps(labelled)}", "data.workers=0"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config("train", "model=matchmask", *more)))
    return folder


def generated(run: Path, out: Path, *overrides: str) -> dict:
    return generate.run(config("generate", f"weights={run}", f"out={out}", *overrides))
