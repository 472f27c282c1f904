"""A run that is killed and started again ends as one that never was: same losses, same weights, bit for bit."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT

TINY = ["model=massformer", "trainer.max_steps=8", "trainer.val_check_interval=4", "trainer.log_every_n_steps=1", "save.every=3",
        "data.n_val=3", "data.n_train=6", "data.size=96", "data.crop=64", "data.batch_size=2", "callbacks.panels.count=1",
        "model.criterion.points=64", "model.net.encoder_options.channels=[8,8,16,16]", "model.net.width=16"]  # fmt: skip


def command(folder, name, *more):
    return [sys.executable, "train.py", *TINY, f"runs={folder}", f"run={name}", *more]


def call(arguments, expect=0):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


def run_folder(folder, name):
    return folder / "massformer" / "demo_landscape" / name


def same_end(a, b):
    """Weights, their mean, every logged loss and every validation of two runs are equal."""
    one, two = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (a, b))
    assert one["global_step"] == two["global_step"]
    for part in ("state_dict", "ema"):
        for name, value in one.get(part, {}).items():
            assert torch.equal(value, two[part][name]), name
    rows = [[line.split(",") for line in (f / "metrics.csv").read_text().splitlines()] for f in (a, b)]
    figures = [[(r[0], *(dict(zip(t[0], r)).get(k) for k in ("train/loss", "val/mIoU"))) for r in t[1:]] for t in rows]
    assert figures[0] == figures[1]
    assert len(figures[0]) >= 8 and sum(bool(row[2]) for row in figures[0]) == 2


def kill(folder, **keys):
    given = {"batch": 6, "once": folder / "killed"} | keys
    return ["+callbacks.kill._target_=tests.faults.killer.Kill", *(f"+callbacks.kill.{k}={v}" for k, v in given.items())]


HARD = ["data.workers=2", "trainer.accumulate_grad_batches=2", "callbacks=ema", "trainer.max_steps=8"]
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        pytest.param(HARD, {"batch": 9, "moment": "end"}, id="workers, accumulation, EMA", marks=pytest.mark.slow),
        pytest.param([], {"batch": 6}, id="plain", marks=pytest.mark.slow),
        pytest.param(["save.every=2"], {"batch": 4, "moment": "validation"}, id="in a validation", marks=pytest.mark.slow),
        pytest.param(["save.every=4"], {"batch": 8, "moment": "validation"}, id="in the last one", marks=pytest.mark.slow),
        pytest.param([], {"batch": 2, "moment": "end"}, id="before the first checkpoint", marks=pytest.mark.slow),
        pytest.param(TWO, {"batch": 6}, id="two processes", marks=pytest.mark.slow),
        pytest.param([*TWO, *HARD], {"batch": 9}, id="two processes, everything", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_one_that_was_not(more, keys, tmp_path):
    call(command(tmp_path, "whole", *more))
    arguments = command(tmp_path, "killed", *more, *kill(tmp_path, **keys))
    if "trainer.devices=2" in more:
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode != 0
    else:
        call(arguments, expect=-signal.SIGKILL)
    folder = run_folder(tmp_path, "killed")
    call([sys.executable, "train.py", f"resume={folder}"])
    same_end(run_folder(tmp_path, "whole"), folder)


@pytest.mark.parametrize(("how", "status"), [pytest.param("SIGTERM", 143, marks=pytest.mark.slow), ("SIGINT", 130)])
def test_a_stopped_run_saves_says_so_and_ends_with_the_signals_status(how, status, tmp_path):
    said = call(command(tmp_path, "stopped", *kill(tmp_path, batch=6, how=how)), expect=status)
    folder = run_folder(tmp_path, "stopped")
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step >= 5
    assert f"stopped at step {step}; go on with: python train.py resume=" in said


@pytest.mark.slow
def test_a_run_stopped_in_a_validation_does_it_again(tmp_path):
    call(command(tmp_path, "whole", "save.every=2"))
    call(command(tmp_path, "stopped", "save.every=2", *kill(tmp_path, batch=4, moment="validation", how="SIGTERM")), expect=143)
    call([sys.executable, "train.py", f"resume={run_folder(tmp_path, 'stopped')}"])
    same_end(run_folder(tmp_path, "whole"), run_folder(tmp_path, "stopped"))


@pytest.mark.slow
def test_two_processes_train_to_equal_weights_and_judge_as_one(tmp_path):
    call(command(tmp_path, "two", *TWO, "data.n_val=5"))
    folder = run_folder(tmp_path, "two")
    said = call([sys.executable, "evaluate.py", f"weights={folder}"])
    import json

    ours = json.loads((folder / "metrics.json").read_text())["results"]["trained"]
    one = json.loads((folder / "evaluation_val.json").read_text())["results"]["ours"]
    assert ours == one, said
