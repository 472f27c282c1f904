"""Experiments of several stages: what is run, skipped, gone on with, refused, and what the tables say."""

import json
import math
import subprocess
import sys

import pytest

from datamodules.errors import UserError
from tests.conftest import ROOT
from tests.doors.test_doors import FEW
from zoo import pipeline

STAGES = [
    {"name": "base", "door": "train", "overrides": ["model=massformer", "seed=3", *FEW]},
    {"name": "better", "door": "train", "seeds": [0, 1], "overrides": ["model=massformer", "init=<base>", *FEW]},
    {"name": "judged", "door": "evaluate", "seeds": [0, 1], "overrides": ["weights=<better>", "split=test"]},
]
TABLE = {"title": "In small", "rows": ["base", "better"], "figures": {"mIoU": "metrics.json/trained/mIoU"}}


def experiment(folder, **more):
    return {"pipeline": "claim_small", "runs": str(folder), "stages": STAGES, "tables": [TABLE]} | more


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, pipeline.run(experiment(folder))


def test_every_stage_is_a_run_folder_of_its_own_and_later_ones_start_from_earlier_ones(ran, capsys):
    folder, _ = ran
    root = folder / "claim_small"
    assert sorted(p.name for p in root.iterdir()) == [
        "base", "better_seed0", "better_seed1", "judged_seed0", "judged_seed1", "table.json"]  # fmt: skip
    assert f"init: {root / 'base'}" in (root / "better_seed1" / "config.yaml").read_text()
    assert "seed: 1" in (root / "better_seed1" / "config.yaml").read_text()
    judged = json.loads((root / "judged_seed1" / "evaluation_test.json").read_text())
    assert judged["source"]["weights"] == str(root / "better_seed1")


def test_the_table_holds_mean_and_deviation_over_the_seeds(ran):
    folder, tables = ran
    runs = [folder / "claim_small" / f"better_seed{seed}" for seed in (0, 1)]
    values = [json.loads((run / "metrics.json").read_text())["results"]["trained"]["mIoU"] for run in runs]
    cell = tables["In small"]["better"]["mIoU"]
    assert cell["values"] == pytest.approx(values) and cell["mean"] == pytest.approx(sum(values) / 2)
    assert cell["std"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert tables["In small"]["base"]["mIoU"]["std"] is None
    assert json.loads((folder / "claim_small" / "table.json").read_text())["tables"] == tables


def test_a_second_start_skips_what_is_done_and_goes_on_with_what_is_not(ran, capsys):
    folder, tables = ran
    root = folder / "claim_small"
    kept = (root / "better_seed0" / "metrics.csv").stat().st_mtime_ns
    (root / "better_seed1" / "done").unlink()
    assert pipeline.run(experiment(folder)) == tables
    said = capsys.readouterr().out
    assert said.count("done already") == 4 and "going on from step 4" in said
    assert (root / "better_seed0" / "metrics.csv").stat().st_mtime_ns == kept


def test_another_config_in_a_stages_folder_is_refused_with_what_differs(ran):
    folder, _ = ran
    other = [STAGES[0] | {"overrides": [*STAGES[0]["overrides"], "model.net.queries=5"]}]
    with pytest.raises(UserError, match="a stage of another model is here"):
        pipeline.run(experiment(folder, stages=other, tables=[]))


@pytest.mark.parametrize("killed", [False, True], ids=["finished", "killed"])
def test_a_training_on_another_earlier_stage_is_refused_before_anything_is_run(killed, ran):
    folder, _ = ran
    root = folder / "claim_small"
    other = [STAGES[0] | {"overrides": [*STAGES[0]["overrides"], "seed=4"]}, *STAGES[1:]]
    done = (root / "better_seed0" / "done").read_text()
    (root / "base").rename(root / "elsewhere")               # as the refusal of another base asks for
    if killed:
        (root / "better_seed0" / "done").unlink()
    try:
        with pytest.raises(UserError, match="better_seed0: it was trained on another base; remove it"):
            pipeline.run(experiment(folder, stages=other))
        assert not (root / "base").exists()
    finally:
        (root / "elsewhere").rename(root / "base")
        (root / "better_seed0" / "done").write_text(done)


def test_a_folder_of_the_users_stands_in_for_a_stage(ran, tmp_path, capsys):
    folder, _ = ran
    stages = pipeline.stages_of(experiment(tmp_path, use={"base": str(folder / "claim_small" / "base")}))
    assert stages[0].given and stages[0].done()
    assert f"init={folder / 'claim_small' / 'base'}" in stages[1].overrides
    for use, what in (({"base": str(tmp_path / "none")}, "no such folder"), ({"bas": "x"}, "no stage is called bas")):
        with pytest.raises(UserError, match=what):
            pipeline.stages_of(experiment(tmp_path, use=use))


def test_mistakes_of_an_experiment_are_one_line(tmp_path):
    unknown = [{"name": "a", "door": "train", "overrides": ["init=<b>"]}]
    with pytest.raises(UserError, match="<b> is no earlier stage"):
        pipeline.run(experiment(tmp_path, stages=unknown))
    wrong = [{"name": "a", "door": "train", "overrides": ["model=massformer", "no.such=1"]}]
    with pytest.raises(UserError, match="stage a"):
        pipeline.run(experiment(tmp_path, stages=wrong))


@pytest.mark.slow
def test_the_command_runs_stages_inside_hydras_own_main(tmp_path):
    quoted = "[" + ",".join(f"'{word}'" for word in ["model=massformer", *FEW]) + "]"
    words = ["+pipeline=p", "+stages=[{name:a,door:train,overrides:" + quoted + "}]", f"runs={tmp_path}"]
    done = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p" / "a" / "done").exists()
