"""Tables of results: on the screen and as JSON, with the paper's figures beside ours where the data set is the paper's."""

import json
from importlib.resources import files
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from datamodules.files import write_json

RESULTS = "metrics.json"
Figures = dict[str, float]


def published(method, data: str, split: str) -> dict[str, Figures]:
    """The paper's figures for a method on a data set and split, a column each variant; none where there are none."""
    source = files(type(method).__module__.rpartition(".")[0]) / "published.yaml"
    if not source.is_file():
        return {}
    columns = yaml.safe_load(source.read_text()).items()
    return {column: sets[data][split] for column, sets in columns if split in sets.get(data, {})}


def grouped(figures: Figures, data) -> Figures:
    """The figures with the mean IoU of each group of words that the data tell apart, and the two groups' harmonic mean where they
    are base and novel classes."""
    found = dict(figures)
    for group, words in getattr(data, "groups", {}).items():
        each = (figures.get(f"IoU/{word}", float("nan")) for word in words)
        values = [value for value in each if value == value]
        if values:
            found[f"mIoU_{group}"] = sum(values) / len(values)
    base, novel = found.get("mIoU_base", 0.0), found.get("mIoU_novel", 0.0)
    if base + novel > 0:
        found["harmonic_mean"] = 2 * base * novel / (base + novel)
    return found


def print_table(title: str, columns: dict[str, Figures]) -> None:
    """The means, in percent but for losses: columns e.g. {"untrained": {...}, "trained": {...}, "paper": {...}}; then each class
    of the last column that has classes (figures named <figure>/<class>).
    """
    columns = {name: column for name, column in columns.items() if column}
    means = dict.fromkeys(key for column in columns.values() for key in column if "/" not in key)
    if not means:                                            # of a generator without a judge, say
        return
    print_rows(title, "%", {row: [_cell(row, column.get(row)) for column in columns.values()] for row in means}, list(columns))
    detailed = [name for name, column in columns.items() if any("/" in key for key in column)]
    if detailed:
        split = [(*key.split("/", 1), value) for key, value in columns[detailed[-1]].items() if "/" in key]
        figures, classes = list(dict.fromkeys(f for f, _, _ in split)), list(dict.fromkeys(c for _, c, _ in split))
        values = {(figure, name): value for figure, name, value in split}
        rows = {name: [values.get((figure, name)) for figure in figures] for name in classes}
        print_rows(f"{title}, {detailed[-1]}, by class", "%", rows, figures)


def _cell(name: str, value: float | None) -> float | str | None:
    return f"{value:.4g}" if name.startswith("loss") and value is not None else value       # no fraction of anything


def print_rows(title: str, corner: str, rows: dict[str, list[float | str | None]], names: list[str]) -> None:
    """A table on the screen: fractions in percent, words as they are, - for what is unknown."""
    table = Table(title=title, title_justify="left")
    table.add_column(corner)
    for name in names:
        table.add_column(name, justify="right")
    for row, values in rows.items():
        table.add_row(row, *(v if isinstance(v, str) else "-" if v is None or v != v else f"{100 * v:.2f}" for v in values))
    Console(width=100 if not Console().is_terminal else None).print(table)


def write_results(folder: Path, results: dict[str, Figures], source: dict | None = None, name: str = RESULTS) -> Path:
    """Figures as fractions (null where a class does not occur) and where they come from."""
    clean = {column: {k: None if v != v else v for k, v in figures.items()} for column, figures in results.items()}
    write_json(folder / name, {"results": clean, "source": source or {}})
    return folder / name


def read_results(folder: Path, name: str = RESULTS) -> dict[str, Figures]:
    """What `write_results` wrote; empty where nothing was."""
    if not (folder / name).exists():
        return {}
    results = json.loads((folder / name).read_text())["results"]
    return {column: {k: float("nan") if v is None else v for k, v in f.items()} for column, f in results.items()}
