"""Runs side by side, offline: python -m zoo.tools.compare <run> <run> ... [out=compare.png] [keys=val/mIoU,train/loss]

<run>: a run's folder, a folder of runs, or a name below runs/. Prints a table (final figures, best validation, pace,
settings that differ) and draws the curves of `keys` into the PNG `out`.
"""

import sys
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from statistics import median

from datamodules.errors import UserError, door

USAGE = "python -m zoo.tools.compare <run> <run> ... [out=compare.png] [keys=val/mIoU,train/loss]"
ITSELF = ("run", "runs", "resume", "logger")    # settings that name a run or tell where its log goes
SMOOTH = 10                             # training curves are drawn as means over a tenth of their rows
PACE = {
    "speed/seconds_per_step": "s a step, median",
    "speed/megapixels_per_second": "megapixels/s, median",
    "speed/waiting_for_data": "share of time waiting for data, median",
    "memory/process_peak_gib": "memory of the process, peak GiB",
    "memory/gpu_peak_gib": "memory of the GPU, peak GiB",
}
Row = tuple[str, list[str]]             # a table's line: what it is, and each run's value


@dataclass
class Run:
    """What a run's folder tells. rows: of metrics.csv; results: of metrics.json, fractions by column."""

    folder: Path
    config: dict
    environment: dict
    columns: list[str]
    rows: list[dict[str, float]]
    results: dict[str, dict[str, float]]
    name: str = ""

    @cached_property
    def monitor(self) -> str | None:
        return self.config.get("save", {}).get("monitor")

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a column, without empty ones and NaN."""
        points = [(row["step"], row[key]) for row in self.rows if row.get(key, float("nan")) == row.get(key)]
        return [step for step, _ in points], [value for _, value in points]


def main(arguments: list[str]) -> None:
    names, options = parse(arguments)
    runs = named([read(folder) for name in names for folder in find(name)])
    keys = chosen(runs, options["keys"])
    print_table(runs, keys)
    print(f"picture: {draw(runs, keys, Path(options['out']))}")


def parse(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    options, names = {"out": "compare.png", "keys": ""}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in options:
            options[key] = value
        else:
            names.append(argument)
    if not names:
        raise UserError("no run is named", mend=USAGE)
    if not options["out"].endswith(".png"):
        raise UserError("the picture is a PNG", f"out={options['out']}", "end the name in .png")
    return names, options


# -- reading -----------------------------------------------------------------------------------------------------------
def find(name: str) -> list[Path]:
    """The folders of a run or of all runs below a folder."""
    path = Path(name)
    if (path / "config.yaml").exists():
        return [path]
    if path.is_dir():
        logs = [log for depth in (1, 2, 3) for log in path.glob("/".join(["*"] * depth) + "/metrics.csv")]
        found = sorted(log.parent for log in logs if (log.parent / "config.yaml").exists())
        if found:
            return found
        raise UserError("no metrics.csv in it or below it", path, "name the folder of a run that has begun to train")
    found = sorted(p.parent for p in Path("runs").glob(f"*/*/{path.name}/config.yaml")) if path.name == name else []
    if len(found) != 1:
        what = f"{len(found)} runs have this name" if found else "no such run"
        raise UserError(what, name, "give a run's folder")
    return found


def read(folder: Path) -> Run:
    import yaml

    from zoo.log import LOG, read_log
    from zoo.report import read_results

    if not (folder / LOG).exists():
        raise UserError(f"no {LOG}", folder, "the run has not logged a step yet")
    texts = {name: folder / f"{name}.yaml" for name in ("config", "environment")}
    try:
        config, environment = (yaml.safe_load(p.read_text()) if p.exists() else {} for p in texts.values())
        return Run(folder, config, environment, *read_log(folder / LOG), read_results(folder))
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise UserError(f"its files cannot be read ({error})", folder, "compare it without this run") from error


def named(runs: list[Run]) -> list[Run]:
    """The runs, each once, with the shortest names that tell them apart: <run>, <data>/<run>, <model>/<data>/<run>."""
    runs = list({run.folder.resolve(): run for run in runs}.values())
    for parts in (1, 2, 3, 99):
        names = ["/".join(run.folder.resolve().parts[-parts:]) for run in runs]
        if len(set(names)) == len(runs):
            break
    for run, name in zip(runs, names):
        run.name = name
    return runs


def chosen(runs: list[Run], keys: str) -> list[str]:
    """The columns to draw: those asked for, else each run's monitored figure and the loss."""
    have = dict.fromkeys(column for run in runs for column in run.columns if column != "step")
    asked = [key for key in keys.split(",") if key]
    for key in asked:
        if key not in have:
            means = [c for c in have if c.count("/") == 1]
            raise UserError(f"no run has logged {key}", "keys", f"choose of {', '.join(means or have) or 'nothing'}")
    usual = dict.fromkeys([run.monitor for run in runs] + ["train/loss"])
    return asked or [key for key in usual if key in have]


# -- table -------------------------------------------------------------------------------------------------------------
def print_table(runs: list[Run], keys: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("")
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    for section in (figures(runs), course(runs, keys), differences(runs)):
        for what, values in section:
            table.add_row(what, *values)
        table.add_section()
    wide = max(100, 44 + 24 * len(runs))
    Console(width=None if Console().is_terminal else wide, highlight=False).print(table)


def figures(runs: list[Run]) -> list[Row]:
    """The final figures (of the best checkpoint) as the runs' own tables have them, in percent."""
    names = dict.fromkeys(name for run in runs for name in run.results.get("trained", {}) if "/" not in name)
    return [(f"final {name} %", [percent(run.results.get("trained", {}).get(name)) for run in runs]) for name in names]


def course(runs: list[Run], keys: list[str]) -> list[Row]:
    """Best and last of what was logged, and the pace."""
    rows = [("steps", [steps(run) for run in runs])]
    for key in dict.fromkeys([run.monitor for run in runs] + keys):
        values = [run.curve(key) for run in runs]
        if is_figure(key) and any(v for _, v in values):
            rows.append((f"best {key} % (step)", [best(*curve) for curve in values]))
        elif key not in PACE and any(v for _, v in values):
            rows.append((f"last {key}", [number(v[-1]) if v else "-" for _, v in values]))
    for key, what in PACE.items():
        values = [run.curve(key)[1] for run in runs]
        if any(values):
            summary = max if "peak" in key else median
            rows.append((what, [number(summary(v)) if v else "-" for v in values]))
    return rows


def differences(runs: list[Run]) -> list[Row]:
    """Settings and surroundings that are not the same in all runs; the commit always."""
    configs = [flat(run.config) for run in runs]
    rows = [("commit", [str(run.environment.get("commit", "-")) for run in runs])]
    for key in dict.fromkeys(key for run in runs for key in run.environment if key != "commit"):
        rows += differing(key, [run.environment.get(key, "-") for run in runs])
    for key in dict.fromkeys(key for config in configs for key in config if key.split(".")[0] not in ITSELF):
        rows += differing(key, [config.get(key, "-") for config in configs])
    return rows


def differing(key: str, values: list) -> list[Row]:
    texts = ["null" if value is None else str(value) for value in values]
    return [(key, [text if len(text) <= 60 else text[:57] + "..." for text in texts])] if len(set(texts)) > 1 else []


def flat(config: dict, prefix: str = "") -> dict:
    """{"data.crop": 256, ...} of nested settings."""
    found = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def is_figure(key: str | None) -> bool:
    """Whether a column holds fractions that are better when larger: validation figures, not losses."""
    return bool(key) and key.startswith(("val/", "test/")) and "loss" not in key


def steps(run: Run) -> str:
    done, planned = run.rows[-1]["step"] if run.rows else 0, run.config.get("trainer", {}).get("max_steps")
    return f"{done} of {planned}" if planned and done < planned else str(done)


def best(at: list[int], values: list[float]) -> str:
    if not values:
        return "-"
    top = max(range(len(values)), key=values.__getitem__)
    return f"{100 * values[top]:.2f} ({at[top]})"


def percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.2f}"


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


# -- picture -----------------------------------------------------------------------------------------------------------
def draw(runs: list[Run], keys: list[str], out: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from datamodules.files import write_bytes

    if not keys:
        raise UserError("nothing to draw: no run has logged its monitored figure or train/loss", "keys", "name columns")
    columns = min(len(keys), 2)
    lines = -(-len(keys) // columns)
    size = (5.6 * columns, 3.6 * lines + 0.4)
    figure, axes = plt.subplots(lines, columns, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axis, key in zip(axes.flat, keys):
        panel(axis, runs, key)
    for axis in list(axes.flat)[len(keys):]:
        axis.set_axis_off()
    handles = [plt.Line2D([], [], **style(i), linewidth=2, label=run.name) for i, run in enumerate(runs)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(runs), 3), frameon=False)
    data = BytesIO()
    figure.savefig(data, format="png", dpi=110)
    plt.close(figure)
    write_bytes(out, data.getvalue())
    return out


def panel(axis, runs: list[Run], key: str) -> None:
    """One column's curves: figures in percent with a dot a validation, training's with a running mean."""
    from matplotlib.ticker import MaxNLocator

    label, windows = f"{key} (%)" if is_figure(key) else key, set()
    for i, run in enumerate(runs):
        at, values = run.curve(key)
        if is_figure(key):
            axis.plot(at, [100 * v for v in values], marker="o", markersize=3.5, linewidth=1.6, **style(i))
        elif key.startswith("train/") and (window := len(values) // SMOOTH) > 1:
            windows.add(window)
            axis.plot(at, values, linewidth=0.7, alpha=0.3, **style(i))
            axis.plot(at, running_mean(values, window), linewidth=1.8, **style(i))
        else:
            axis.plot(at, values, linewidth=1.4, marker="o" if len(values) == 1 else None, **style(i))
    if windows:
        spread = f"{min(windows)}" if len(windows) == 1 else f"{min(windows)} to {max(windows)}"
        axis.set_title(f"bold: mean of the last {spread} logged values; thin: as logged", fontsize=8, color="0.35")
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(labelbottom=True)                      # also where axes stand above others
    axis.set_ylabel(label)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def running_mean(values: list[float], window: int) -> list[float]:
    """Mean of each value and up to window - 1 before it."""
    starts = (max(0, i + 1 - window) for i in range(len(values)))
    return [sum(values[start : i + 1]) / (i + 1 - start) for i, start in enumerate(starts)]


def style(i: int) -> dict:
    """Ten colours, then the same dashed and dotted."""
    return {"color": f"C{i % 10}", "linestyle": ("-", "--", ":", "-.")[i // 10 % 4]}


if __name__ == "__main__":
    door(lambda: main(sys.argv[1:]))
