"""The commands of the card, in one process, with few steps and a CLIP of random weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import train
from tests.doors.test_doors import config
from zoo import predict
from zoo.visualize import save_png

FEW = ["trainer.max_steps=2", "trainer.val_check_interval=2", "save.every=2", "data.n_val=3", "data.n_train=4", "data.n_test=2",
       "data.size=64", "data.crop=64", "data.batch_size=2", "callbacks.panels.count=1", "model.net.clip.weights=random",
       "model.net.channels=16", "model.net.maps=4"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of both stages: the second starts from the first."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(runs / "cache"))
        train.run(config("train", "model=mask_adapter", f"runs={runs}", "run=one", *FEW))
        first = runs / "mask_adapter" / "demo_things" / "one"
        mixed = ["model.mixing.truth=4", "model.mixing.predicted=4", f"init={first}"]
        results = train.run(config("train", "model=mask_adapter", f"runs={runs}", "run=two", *FEW, *mixed))
        yield first.with_name("two"), results


def test_a_run_ends_with_the_upper_bound_and_its_picture(run):
    folder, results = run
    written = json.loads((folder / "upper_bound.json").read_text())
    assert list(written["results"]) == ["cropping", "mask pooling", "mask pooling, FC-CLIP's", "Mask-Adapter"]
    assert written["results"]["Mask-Adapter"]["accuracy"] == pytest.approx(results["trained"]["mask_acc"])
    assert written["results"]["Mask-Adapter"]["mIoU_seen"] == pytest.approx(results["trained"]["mIoU_seen"], nan_ok=True)
    assert written["scenes"] == 3 and (folder / "panels" / "activations.png").exists()


def test_no_checkpoint_holds_anything_of_the_clip(run):
    folder, _ = run
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert {key.split(".")[1] for key in content["state_dict"]} == {"mask_adapter", "void_embedding"}
    learning = sum(value.numel() for value in content["state_dict"].values())
    states = content["optimizer_states"][0]["state"].values()
    assert sum(state["exp_avg"].numel() for state in states) == learning


def test_weights_are_judged_on_a_set_of_other_classes(run, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
    (tmp_path / "set" / "classes.txt").write_text("wall\ncastle\nsky\n")
    for number in range(4):
        labels = np.full((40, 56), number % 3, np.uint8)
        labels[:, 20:] = 1
        Image.fromarray(labels).save(tmp_path / "set" / "masks" / f"{number}.png")
        photo = np.random.default_rng(number).integers(0, 255, (40, 56, 3), np.uint8)
        save_png(tmp_path / "set" / "images" / f"{number}.png", photo)
    other = ["data=folder", f"data.root={tmp_path / 'set'}", "data.val_share=0.5", f"out={tmp_path / 'out'}", "closing=true"]
    figures = evaluate.run(config("evaluate", f"weights={run[0]}", *other))
    assert {"mIoU", "mIoU_older", "mIoU_seen", "mIoU_unseen", "mask_acc", "IoU/castle"} <= figures.keys()
    assert figures["mIoU_seen"] != figures["mIoU_seen"]              # castle is one of the classes left out, the others are new
    assert (tmp_path / "out" / "upper_bound.json").exists()


def test_predict_names_given_masks_with_given_words(run, tmp_path):
    save_png(tmp_path / "photo.png", np.random.default_rng(0).integers(0, 256, (45, 71, 3), np.uint8))
    mask = np.zeros((45, 71), np.uint8)
    mask[:, :30] = 255
    save_png(tmp_path / "masks" / "photo" / "0.png", mask)
    given = [f"weights={run[0]}", f"image={tmp_path / 'photo.png'}", "classes=[no,'sofa,couch',7]", f"masks={tmp_path / 'masks'}"]
    (found,) = predict.run(*predict.parse([*given, f"out={tmp_path / 'out'}"]))
    labels = np.array(Image.open(found))
    assert labels.shape == (45, 71) and (labels[:, 30:] == 255).all() and labels[:, :30].max() < 3
    lines = (tmp_path / "out" / "classes.txt").read_text().splitlines()
    assert [line.rsplit(" ", 3)[0] for line in lines] == ["no", "sofa", "7"]
