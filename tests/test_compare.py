"""python -m zoo.tools.compare"""

import pytest
import yaml
from PIL import Image

from callbacks.csv_log import CSVLog
from datamodules.errors import UserError
from zoo.report import write_results
from zoo.tools import compare


def make_run(folder, lr=0.001, steps=40, done=True, figure="val/mIoU"):
    """A run's folder as training leaves it, with figures that are easy to foresee."""
    folder.mkdir(parents=True)
    settings = {"model": {"optimisation": {"lr": lr}}, "trainer": {"max_steps": 40}, "save": {"monitor": figure}}
    settings["run"] = folder.name
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "environment.yaml").write_text("commit: abc123\ntorch: '2.0'\n")
    log = CSVLog(folder)
    for step in range(1, steps + 1):
        pace = {"speed/seconds_per_step": 0.25, "memory/process_peak_gib": step / 10}
        log.log_metrics({"train/loss": 10 / step} | pace, step)
        if step % 10 == 0:
            log.log_metrics({figure: 0.5 - abs(step - 20) / 100, "val/nothing": float("nan")}, step)
    if done:
        write_results(folder, {"trained": {"mIoU": 0.5, "BF1": float("nan"), "IoU/sky": 0.1}})
    return folder


def call(capsys, *arguments):
    compare.main([str(a) for a in arguments])
    return " ".join(capsys.readouterr().out.split())


def test_two_runs_are_told_apart_by_figures_pace_and_settings(tmp_path, capsys):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", lr=0.01, steps=30, done=False)
    said = call(capsys, one, two, f"out={tmp_path / 'c.png'}")
    for line in ("final mIoU % │ 50.00 │ -", "final BF1 % │ - │ -", "steps │ 40 │ 30 of 40",
                 "best val/mIoU % (step) │ 50.00 (20) │ 50.00 (20)", "last train/loss │ 0.25 │ 0.333",
                 "s a step, median │ 0.25 │ 0.25", "peak GiB │ 4 │ 3",
                 "commit │ abc123 │ abc123", "model.optimisation.lr │ 0.001 │ 0.01"):  # fmt: skip
        assert line in said, line
    assert "trainer.max_steps" not in said and "torch │" not in said and "IoU/sky" not in said
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width > 1000 and len(set(picture.convert("RGB").resize((200, 100)).getdata())) > 20


def test_one_run_alone_is_fine_and_a_torn_last_row_is_left_out(tmp_path, capsys):
    folder = make_run(tmp_path / "one", steps=15, done=False)
    with open(folder / "metrics.csv", "a") as file:
        file.write("16,0.6")
    assert "steps │ 15 of 40" in call(capsys, folder, f"out={tmp_path / 'c.png'}")


def test_a_folder_of_runs_stands_for_all_of_them_and_equal_names_get_longer(tmp_path, capsys):
    make_run(tmp_path / "massformer" / "demo" / "first")
    make_run(tmp_path / "massformer" / "mass13k" / "first")
    runs = compare.named([compare.read(folder) for folder in compare.find(str(tmp_path))])
    assert [run.name for run in runs] == ["demo/first", "mass13k/first"]


def test_a_run_is_found_by_its_name_below_runs(tmp_path, monkeypatch):
    make_run(tmp_path / "runs" / "massformer" / "demo" / "first")
    monkeypatch.chdir(tmp_path)
    assert [str(p) for p in compare.find("first")] == ["runs/massformer/demo/first"]


def test_the_monitored_figure_is_drawn_whatever_it_is_called_and_any_column_on_request(tmp_path):
    run = compare.read(make_run(tmp_path / "one", figure="val/FB-IoU"))
    assert compare.chosen([run], "") == ["val/FB-IoU", "train/loss"]
    keys = compare.chosen([run], "speed/seconds_per_step,val/nothing,train/loss")
    assert compare.draw(compare.named([run]), keys, tmp_path / "c.png").stat().st_size > 5000


def test_a_running_mean_looks_back_only():
    assert compare.running_mean([4, 2, 0, 6], 2) == [4, 3, 1, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no run is named; python -m zoo.tools.compare <run>"),
        (["nowhere"], "nowhere: no such run; give a run's folder"),
        (["{}/begun"], "begun: no metrics.csv; the run has not logged a step yet"),
        (["{}/empty"], "empty: no metrics.csv in it or below it"),
        (["{}/one", "keys=val/foo"], "keys: no run has logged val/foo; choose of train/loss, "),
        (["{}/one", "out=c.pdf"], "out=c.pdf: the picture is a PNG; end the name in .png"),
        (["{}/torn"], "its files cannot be read"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path):
    make_run(tmp_path / "one")
    (make_run(tmp_path / "begun") / "metrics.csv").unlink()
    (make_run(tmp_path / "torn") / "metrics.json").write_text('{"resul')
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        compare.main([argument.format(tmp_path) for argument in arguments])
    assert said in str(caught.value) and "\n" not in str(caught.value)
