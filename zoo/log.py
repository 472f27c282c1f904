"""How a run's metrics.csv is read: `step` and one column a figure, empty where a step has none."""

import csv
from pathlib import Path

from datamodules.errors import UserError

LOG = "metrics.csv"


def read_log(path: Path) -> tuple[list[str], list[dict[str, float]]]:
    """Columns and rows, without a last line that a kill left half written; nothing where there is no file yet."""
    if not path.exists():
        return ["step"], []
    text = path.read_text(errors="replace")
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(whole.splitlines())
    columns = list(reader.fieldnames or ["step"])
    if columns[0] != "step":
        raise UserError("the first column is not step", path, "this is not a run's log; move it away")
    try:
        rows = [{name: float(value) for name, value in row.items() if value} for row in reader]
        return columns, [row | {"step": int(row["step"])} for row in rows if row]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"a row cannot be read ({error})", path, "correct or remove the row") from error
