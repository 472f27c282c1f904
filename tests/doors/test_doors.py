"""The commands of the README, in one process, with few steps."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

import evaluate
import train
from datamodules.errors import UserError
from tests.conftest import ROOT
from zoo import pipeline, predict, report

FEW = ["trainer.max_steps=4", "trainer.val_check_interval=2", "save.every=2", "data.n_val=3", "data.n_train=8", "data.n_test=2",
       "data.size=96", "data.crop=64", "data.batch_size=2", "callbacks.panels.count=2", "model.criterion.points=64",
       "model.net.encoder_options.channels=[8,8,16,16]", "model.net.width=16"]  # fmt: skip


def config(door, *overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return OmegaConf.to_container(compose(door, list(overrides)), resolve=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of `python train.py model=massformer untrained=true`."""
    runs = tmp_path_factory.mktemp("runs")
    results = train.run(config("train", "model=massformer", "untrained=true", f"runs={runs}", "run=first", *FEW))
    return runs / "massformer" / "demo_landscape" / "first", results


def test_a_run_folder_holds_what_the_readme_says(run):
    folder, results = run
    for name in ("config.yaml", "environment.yaml", "metrics.csv", "metrics.json", "weights.safetensors", "model.yaml",
                 "checkpoints/best.ckpt", "checkpoints/last.ckpt", "panels/final.png", "panels/step_0000002.png"):  # fmt: skip
        assert (folder / name).exists(), name
    assert set(results) >= {"untrained", "trained"}
    written = json.loads((folder / "metrics.json").read_text())
    assert written["results"]["trained"]["mIoU"] == pytest.approx(results["trained"]["mIoU"])
    assert written["source"]["seed"] == 0
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert rows[0].startswith("step") and "val/mIoU" in rows[0]


def test_evaluate_gives_the_runs_own_figures_twice(run):
    folder, results = run
    again = [evaluate.run(config("evaluate", f"weights={folder}")) for _ in range(2)]
    for figures in again:
        assert figures == pytest.approx(results["trained"], nan_ok=True)


def test_evaluate_reads_a_split_and_an_inference_of_its_own(run, tmp_path):
    folder, _ = run
    changed = ("split=test", "inference=slide", "inference.window=64", "inference.flip=true", f"out={tmp_path}")
    figures = evaluate.run(config("evaluate", f"weights={folder}", *changed))
    assert 0 <= figures["mIoU"] <= 1
    assert (tmp_path / "evaluation_test.json").exists()


def test_a_run_goes_on_where_it_stopped_and_equals_one_that_never_did(run, tmp_path):
    whole, _ = run
    cfg = config("train", "model=massformer", f"runs={tmp_path}", "run=stopped", *FEW)
    folder = tmp_path / "massformer" / "demo_landscape" / "stopped"
    stop_at(cfg, step=3)
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"torn")
    train.run(config("train", f"resume={folder}"))
    lines = [(f / "metrics.csv").read_text().splitlines() for f in (whole, folder)]
    first, second = ({r.split(",")[0]: r for r in rows[1:]} for rows in lines)
    assert first["4"] == second["4"]


def stop_at(cfg, step):
    """A run that ends by Ctrl-C in a step."""
    from callbacks.reseed import Reseed

    class Interrupt(Exception):
        pass

    def raising(self, trainer, module, batch, index, original=Reseed.on_train_batch_start):
        if trainer.global_step == step:
            raise Interrupt
        original(self, trainer, module, batch, index)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupt):
        patch.setattr(Reseed, "on_train_batch_start", raising)
        train.run(cfg)


def test_predict_writes_masks_overlays_and_a_legend_at_the_pictures_own_size(run, tmp_path):
    folder, _ = run
    name = "my photo (1) a=b.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8)).save(tmp_path / name)
    masks = predict.run(*predict.parse([f"weights={folder}", f"image={tmp_path / name}", f"out={tmp_path / 'out'}"]))
    mask = Image.open(masks[0])
    assert mask.mode == "P" and mask.size == (53, 37) and np.asarray(mask).max() < 7
    assert Image.open(tmp_path / "out" / "my photo (1) a=b_overlay.jpg").size == (53, 37)
    assert (tmp_path / "out" / "legend.png").exists()
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines()[1] == "person 255 0 0"


def test_predict_takes_folders_and_globs_and_goes_on_after_a_torn_picture(run, tmp_path):
    folder, _ = run
    for i in range(2):
        Image.fromarray(np.full((20, 30, 3), 90 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    given, cfg = predict.parse([f"weights={folder}", f"image={tmp_path}", f"out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="1 of 3 pictures could not be read"):
        predict.run(given, cfg)
    assert (tmp_path / "out" / "0_mask.png").exists() and (tmp_path / "out" / "1_mask.png").exists()
    found = predict.pictures(str(tmp_path / "[01].png"))
    assert [name for _, name in found] == ["0", "1"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train.py", "model=massformer", "data=folder", "data.root=nowhere"], "nowhere"),
        pytest.param(["train.py", "trainer.max_steps=abc"], "'abc' is not a whole number", marks=pytest.mark.slow),
        pytest.param(["train.py", "model.net.encoder=resnet999"], "resnet999", marks=pytest.mark.slow),
        pytest.param(["train.py", "resume=nothing"], "no such run", marks=pytest.mark.slow),
        (["evaluate.py"], "no weights to judge"),
        pytest.param(["evaluate.py", "weights=nowhere"], "no such run, folder or file", marks=pytest.mark.slow),
        (["-m", "zoo.predict", "weights=nowhere"], "image= is missing"),
        (["-m", "zoo.massformer.convert", "setup.cfg", "out"], "setup.cfg"),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_2(command, said, tmp_path):
    more = [f"runs={tmp_path}"] if command[0] == "train.py" else []
    done = subprocess.run([sys.executable, *command, *more], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0], done.stderr
    assert "Traceback" not in done.stderr


def test_two_runs_of_one_name_are_refused(run):
    folder, _ = run
    cfg = config("train", "model=massformer", f"runs={folder.parents[2]}", "run=first", *FEW)
    with pytest.raises(UserError, match="a run of this name exists"):
        train.run(cfg)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_composes(path):
    text = path.read_text()
    staged = "stages:" in text or "[matchmask" in text or "- matchmask" in text
    cfg = config("train", f"experiment={path.stem}", *([] if staged or "/data: demo" in text else ["data.root=somewhere"]))
    configs = [stage.config for stage in pipeline.stages_of(cfg) if stage.door == "train"] if staged else [cfg]
    assert configs and all(one["model"]["_target_"].startswith("zoo.") for one in configs)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "model").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_model_says_in_its_first_line_what_it_is(path):
    assert path.read_text().startswith("# ")
    assert yaml.safe_load(path.read_text())
    assert config("train", f"model={path.stem}")["data"]["_target_"].startswith("datamodules.")


def test_the_papers_figures_stand_beside_ours_on_the_papers_data_alone(run):
    import zoo

    model = zoo.load(run[0])
    assert report.published(model, "demo_landscape", "val") == {}
    found = report.published(model, "mass13k", "test")
    assert found["paper, R50"]["mIoU"] == 0.8821 and found["paper, Lite"]["mIoU"] == 0.8613


def test_a_run_without_best_ends_with_its_last_step_whatever_save_every(tmp_path):
    train.run(config("train", "model=massformer", f"runs={tmp_path}", "run=odd", *FEW, "save.monitor=null", "save.every=100"))
    folder = next(tmp_path.glob("*/*/odd"))
    steps = int(next(part for part in FEW if part.startswith("trainer.max_steps=")).partition("=")[2])
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == steps
    assert (folder / "weights.safetensors").exists()


def test_losses_are_printed_as_they_are_and_fractions_in_percent(capsys):
    report.print_table("a set", {"trained": {"loss": 1.5113, "mIoU": 0.25}})
    said = capsys.readouterr().out
    assert "1.511" in said and "25.00" in said and "151" not in said.replace("1.511", "")
