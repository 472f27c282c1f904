"""What a run writes about itself: metrics.csv, W&B, pace and progress."""

import io
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

import train
from callbacks.csv_log import CSVLog
from callbacks.progress import Bar, Lines, span
from callbacks.reseed import Reseed
from callbacks.throughput import Throughput, pictures
from callbacks.wandb_log import IGNORED, OTHERS, WandbLog, has_key, masks, mode
from datamodules.errors import UserError
from datamodules.settings import make
from tests.conftest import ROOT
from zoo.log import read_log

FEW = ["trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "save.every=2",
       "data.n_val=3", "data.n_train=8", "data.size=96", "data.crop=64", "data.batch_size=2",
       "callbacks.panels.count=2", "model.criterion.points=64",
       "model.net.encoder_options.channels=[8,8,16,16]", "model.net.width=16"]  # fmt: skip


QUIET = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, "enable_progress_bar": False,
         "enable_model_summary": False, "num_sanity_val_steps": 0}  # fmt: skip


def config(*overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(overrides)), resolve=True)


# -- metrics.csv -------------------------------------------------------------------------------------------------------
def log_steps(log, first, last):
    """As a run does: a loss each step, a figure with every third."""
    for step in range(first, last + 1):
        log.log_metrics({"train/loss": 1 / step, "epoch": 0}, step)
        if step % 3 == 0:
            log.log_metrics({"val/mIoU": step / 100}, step)


def test_a_row_is_in_the_file_as_soon_as_it_is_logged(tmp_path):
    log = CSVLog(tmp_path)
    for step in range(1, 8):
        log_steps(log, step, step)
        columns, rows = read_log(log.path)
        assert rows[-1] == {"step": step, "train/loss": 1 / step} | ({"val/mIoU": step / 100} if step % 3 == 0 else {})
    assert columns == ["step", "train/loss", "val/mIoU"]
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert log.path.read_text().splitlines()[1] == "1,1.0,"


def test_a_log_killed_at_any_byte_reads_as_the_rows_before_it(tmp_path):
    log = CSVLog(tmp_path)
    log_steps(log, 1, 7)
    data, (_, rows) = log.path.read_bytes(), read_log(log.path)
    for size in range(len(data)):
        log.path.write_bytes(data[:size])
        _, left = read_log(log.path)
        assert left == rows[: max(0, data[:size].count(b"\n") - 1)]


@pytest.mark.parametrize("torn", [0, 1, 5, 9])
def test_a_killed_log_goes_on_to_the_file_of_one_that_was_not(torn, tmp_path):
    whole = CSVLog(tmp_path / "whole")
    log_steps(whole, 1, 12)
    killed = CSVLog(tmp_path / "killed")
    log_steps(killed, 1, 9)
    data = killed.path.read_bytes()
    killed.path.write_bytes(data[: len(data) - torn])
    again = CSVLog(tmp_path / "killed")
    again.cut(6)
    log_steps(again, 7, 12)
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_a_log_without_a_checkpoint_begins_again(tmp_path):
    log_steps(CSVLog(tmp_path), 1, 5)
    again = CSVLog(tmp_path)
    again.cut(0)
    log_steps(again, 1, 2)
    assert [row["step"] for row in read_log(again.path)[1]] == [1, 2]


def test_nan_and_a_late_column_are_kept(tmp_path):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": float("nan")}, 1)
    log.log_metrics({"b": 2.0}, 2)
    assert log.path.read_text() == "step,a,b\n1,nan,\n2,,2.0\n"


def test_a_foreign_file_in_the_logs_place_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("time,loss\n1,2\n")
    with pytest.raises(UserError, match="the first column is not step"):
        CSVLog(tmp_path)


# -- W&B ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config("model=massformer")))
    (tmp_path / "environment.yaml").write_text("commit: abc123\n")
    return tmp_path


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_the_wandb_run_keeps_its_id_config_and_commit_over_a_resume(folder, offline):
    ids = []
    for _ in range(2):
        log = WandbLog(folder, "a-project")
        ids.append(log.experiment.id)
        assert log.experiment.config["environment"]["commit"] == "abc123"
        assert log.experiment.config["model"]["_target_"] == "zoo.massformer.module.MaSSFormer"
        log.finalize("success")
    assert ids[0] == ids[1] == (folder / "wandb_id").read_text()
    assert list((folder / "wandb").glob(f"offline-run-*-{ids[0]}"))


def test_two_runs_of_one_process_get_wandb_runs_of_their_own(folder, offline, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name in ("config.yaml", "environment.yaml"):
        (other / name).write_text((folder / name).read_text())
    first, second = WandbLog(folder, "p"), WandbLog(other, "p")
    one = first.experiment.id
    first.finalize("success")
    assert second.experiment.id != one
    second.finalize("failed")


def test_without_a_key_wandb_stays_offline(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert mode() == "offline"
    (tmp_path / "netrc").write_text("machine elsewhere.org login user password x\n")
    assert mode() == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert mode() is None
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.net")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_key()


def test_what_wandb_mode_says_counts(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode() is None


def test_a_missing_wandb_is_one_line(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError) as caught:
        make(config("logger=wandb")["logger"]["wandb"], folder=folder)
    assert str(caught.value) == "logger=wandb: the package wandb is not installed; pip install wandb, or logger=csv"


def test_masks_of_few_classes_keep_their_numbers_and_ignored_is_255():
    labels = np.array([[0, 2], [255, 1]], np.uint8)
    (mask,) = masks({"truth": labels}, ["sky", "tree", "water"], 255, []).values()
    assert mask["mask_data"].tolist() == labels.tolist()
    assert mask["class_labels"] == {0: "sky", 1: "tree", 2: "water", 255: "ignored"}


@pytest.mark.parametrize(("classes", "present"), [(300, 5), (300, 300), (256, 256), (255, 255)])
def test_masks_of_many_classes_name_every_pixel_within_wandbs_256_values(classes, present):
    import wandb

    rng = np.random.default_rng(0)
    ignore = 255 if classes <= 255 else -1
    names = [f"class {i}" for i in range(classes)]
    truth = rng.choice(rng.permutation(classes)[:present], (60, 70)).astype(np.int32)
    truth[:5] = ignore
    made = masks({"truth": truth, "prediction": np.flip(truth, 1)}, names, ignore, [])
    shown, labels = made["truth"]["mask_data"], made["truth"]["class_labels"]
    assert shown.dtype == np.uint8 and labels == made["prediction"]["class_labels"]
    assert (shown[:5] == IGNORED).all() and labels[IGNORED] == "ignored"
    wrong = {t for s, t in zip(shown[5:].ravel(), truth[5:].ravel()) if labels[int(s)] != names[t]}
    assert len(wrong) == (0 if len(np.unique(truth[5:])) <= 255 else len(np.unique(truth[5:])) - OTHERS)
    wandb.Image(np.zeros((60, 70, 3), np.uint8), masks=made)


def test_a_pictures_numbers_keep_their_names_while_predictions_change():
    names, known = [f"class {i}" for i in range(1000)], []
    steps = [np.array([[700, 9]]), np.array([[3, 700]]), np.array([[9, 3]])]
    made = [masks({"prediction": prediction}, names, -1, known)["prediction"] for prediction in steps]
    assert [mask["mask_data"].tolist() for mask in made] == [[[1, 0]], [[2, 1]], [[0, 2]]]
    assert made[-1]["class_labels"] == {0: "class 9", 1: "class 700", 2: "class 3", 255: "ignored"}


# -- a run -------------------------------------------------------------------------------------------------------------
def test_a_stopped_run_goes_on_in_its_log_and_in_its_wandb_run(tmp_path, offline, capsys):
    class Interrupt(Exception):
        pass

    def raising(self, trainer, module, batch, index, original=Reseed.on_train_batch_start):
        if trainer.global_step == 3:
            raise Interrupt
        original(self, trainer, module, batch, index)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupt):
        patch.setattr(Reseed, "on_train_batch_start", raising)
        train.run(config("model=massformer", "logger=wandb", f"runs={tmp_path}", "run=r", *FEW))
    import wandb

    assert wandb.run is None
    folder = tmp_path / "massformer" / "demo_landscape" / "r"
    before, identity = (folder / "metrics.csv").read_text(), (folder / "wandb_id").read_text()
    results = train.run(config(f"resume={folder}"))
    columns, rows = read_log(folder / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (folder / "metrics.csv").read_text().startswith(before) and before.count("\n") == 4
    assert (folder / "wandb_id").read_text() == identity
    assert {path.name.split("-")[-1] for path in (folder / "wandb").glob("offline-run-*")} == {identity}
    assert len(list((folder / "wandb").rglob("*.mask.png"))) >= 4
    for name in ("train/loss", "val/mIoU", "val/IoU/tree", "lr/group0", "speed/seconds_per_step",
                 "speed/pictures_per_second", "speed/megapixels_per_second", "speed/waiting_for_data",
                 "memory/process_peak_gib"):  # fmt: skip
        assert name in columns and name in rows[-1], name
    assert max(row.get("val/mIoU", 0) for row in rows) == pytest.approx(results["trained"]["mIoU"])
    said = capsys.readouterr().out
    assert "step 4/4  loss " in said and "0:00:00 left" in said and "step 4/4  val/mIoU " in said


# -- pace --------------------------------------------------------------------------------------------------------------
def test_pictures_are_counted_wherever_they_are_in_a_batch():
    scenes = {"image": torch.zeros(4, 3, 8, 10), "labels": torch.zeros(4, 8, 10), "name": ["a"] * 4}
    pairs = {"query": torch.zeros(2, 3, 8, 8), "query_mask": torch.zeros(2, 8, 8)}
    episodes = pairs | {"supports": torch.zeros(2, 5, 3, 8, 8)}
    assert pictures(scenes) == (4, 4 * 80)
    assert pictures(episodes) == (12, 12 * 64)
    assert pictures({"labelled": scenes, "unlabelled": [scenes, None]}) == (8, 8 * 80)


class Slow(LightningModule):
    """Takes `step` seconds for a step and `validation` for a batch of validation; logs as `Method` does."""

    def __init__(self, step=0.01, validation=0.3):
        super().__init__()
        self.seconds = step, validation
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, index):
        time.sleep(self.seconds[0])
        self.log_dict({"train/loss": self.weight.detach(), "step": float(self.global_step + 1)})
        return self.weight.sum()

    def validation_step(self, batch, index):
        time.sleep(self.seconds[1])
        self.log_dict({"val/mIoU": self.weight.detach(), "step": float(self.global_step)})

    def configure_optimizers(self):
        return torch.optim.SGD([{"params": [self.weight], "lr": 0.5}])


class Pictures(torch.utils.data.Dataset):
    """Takes 10 ms for a picture."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.zeros(3, 10, 10)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stop", ["saved at 3", "saved at 4", "saved at 6", "stopped in 5", "stopped in 6"])
def test_a_resumed_run_logs_and_validates_at_the_steps_of_one_that_never_stopped(stop, accumulate, tmp_path):
    class Stop(Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if stop == f"stopped in {trainer.global_step + 1}":
                raise InterruptedError

    def fit(log, more=(), checkpoint=None):
        save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_exception=True)
        trainer = Trainer(max_steps=12, val_check_interval=4 * accumulate, check_val_every_n_epoch=None, logger=log,
                          log_every_n_steps=3, accumulate_grad_batches=accumulate, limit_val_batches=1,
                          callbacks=[Reseed(0), *more, save], default_root_dir=tmp_path,
                          **QUIET | {"enable_checkpointing": True})  # fmt: skip
        trainer.fit(Slow(0, 0), DataLoader(Pictures(), 2), DataLoader(Pictures(), 2), ckpt_path=checkpoint)

    log, at = CSVLog(tmp_path / "log"), int(stop[-1])
    if "stopped" in stop:
        at -= 1
        with pytest.raises(InterruptedError):
            fit(log, [Stop()])
    else:
        fit(log)
    log.cut(at)
    fit(log, checkpoint=max(tmp_path.glob(f"step={at}*.ckpt"), key=lambda p: p.stat().st_mtime))
    rows = read_log(log.path)[1]
    assert [row["step"] for row in rows if "train/loss" in row] == [3, 6, 9, 12]
    assert [row["step"] for row in rows if "val/mIoU" in row] == [4, 8, 12]


def test_waiting_for_data_is_told_from_work_and_validation_counts_nowhere(tmp_path):
    log = CSVLog(tmp_path)
    trainer = Trainer(max_steps=6, val_check_interval=2, log_every_n_steps=6, limit_val_batches=1, logger=log,
                      callbacks=[Throughput()], default_root_dir=tmp_path, **QUIET)  # fmt: skip
    trainer.fit(Slow(), DataLoader(Pictures(), 2), DataLoader(Pictures(), 2))
    row = next(row for row in read_log(log.path)[1] if "speed/seconds_per_step" in row)
    assert 0.03 <= row["speed/seconds_per_step"] < 0.13
    assert 0.02 / 0.13 < row["speed/waiting_for_data"] < 0.95
    assert row["speed/pictures_per_second"] == pytest.approx(2 / row["speed/seconds_per_step"], rel=1e-3)
    assert row["speed/megapixels_per_second"] == pytest.approx(200 / row["speed/seconds_per_step"] / 1e6, rel=1e-3)
    assert row["lr/group0"] == 0.5


# -- progress ----------------------------------------------------------------------------------------------------------
def test_the_bar_shows_steps_and_time_left_and_lines_say_the_same(tmp_path, monkeypatch, capsys):
    screen = io.StringIO()
    import rich.progress
    from rich.console import Console

    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(rich.progress, "get_console", lambda: console)
    for progress in (Bar(None), Lines(None, seconds=0)):
        trainer = Trainer(max_steps=3, val_check_interval=3, limit_val_batches=2, logger=False, callbacks=[progress],
                          default_root_dir=tmp_path, **QUIET)  # fmt: skip
        trainer.fit(Slow(), DataLoader(Pictures(), 2), DataLoader(Pictures(), 2))
    bar, lines = screen.getvalue(), capsys.readouterr().out
    assert "3/3" in bar and "0:00:00 left" in bar and "val" in bar and "Epoch" not in bar
    assert "step 3/3" in lines and "0:00:00 left" in lines and "val 2/2" in lines


def test_time_left_is_readable_from_seconds_to_days():
    assert [span(s) for s in (5, 65, 3725, 200000)] == ["0:00:05", "0:01:05", "1:02:05", "2 d 7:33:20"]
