"""A short run killed 200 times at random moments and resumed each time by the same command."""

import csv
import json
import os
import random
import signal
import time

import pytest
import torch
import yaml

import callbacks.panels  # noqa: F401  (what a run imports is imported before it is forked)
import callbacks.trainer  # noqa: F401
import datamodules.demo.data  # noqa: F401
import train
import zoo.hub  # noqa: F401
import zoo.massformer.module  # noqa: F401
from datamodules.files import check_zip
from tests.doors.test_doors import FEW, config

KILLS = int(os.environ.get("ZOO_KILLS", "200"))
RUN = ["model=massformer", "trainer.log_every_n_steps=1", *FEW, "trainer.max_steps=60", "trainer.val_check_interval=20",
       "save.every=2", "callbacks=ema", "callbacks.panels.count=1"]  # fmt: skip


def child(*overrides):
    """Starts a run in a forked process (the imports are paid once) and gives its number."""
    number = os.fork()
    if not number:
        status = 1
        try:
            os.environ.pop("ZOO_RUN_FOLDER", None)
            torch.set_num_threads(1)
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                train.run(config("train", *overrides))
            status = 0
        finally:
            os._exit(status)
    return number


def ended(number, seconds):
    """The exit status of a child that ends within `seconds`, None of one that does not."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def torn(folder):
    """Files of a run that cannot be read whole."""
    found = []
    readers = {".ckpt": check_zip, ".json": lambda p: json.loads(p.read_text()), ".yaml": lambda p: yaml.safe_load(p.read_text()),
               ".csv": lambda p: list(csv.DictReader(p.read_text().splitlines()))}  # fmt: skip
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in readers:
            try:
                readers[path.suffix](path)
            except Exception as error:
                found.append((path, error))
    return found


def weights(folder):
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content["state_dict"] | {f"ema.{name}": value for name, value in content["ema"].items()}


@pytest.mark.slow
def test_200_kills_tear_no_file_and_change_no_weight(tmp_path):
    place = tmp_path / "massformer" / "demo_landscape"
    assert ended(child(*RUN, f"runs={tmp_path}", "run=whole"), 600) == 0
    wanted = weights(place / "whole")
    rng, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        runs += 1
        folder = place / f"killed{runs}"
        while True:
            started = (folder / "config.yaml").exists()
            number = child(f"resume={folder}") if started else child(*RUN, f"runs={tmp_path}", f"run=killed{runs}")
            status = ended(number, rng.uniform(0.3, 4.0) if kills < KILLS else 600)
            if status is not None:
                assert status == 0
                break
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
            kills += 1
            assert torn(folder) == []
        for name, value in weights(folder).items():
            assert torch.equal(value, wanted[name]), name
    print(f"{kills} kills over {runs} runs: 0 torn files, final weights equal to the undisturbed run's")
