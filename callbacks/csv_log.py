"""metrics.csv, one row a logged step. It survives a resume: rows past the checkpoint are dropped, the rest is kept."""

import csv
import io
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.files import write_text


class CSVLog(Logger):
    """Rows are appended as they come; a new column rewrites the file."""

    def __init__(self, folder: Path):
        super().__init__()
        self.path, self.columns, self.rows = Path(folder) / "metrics.csv", ["step"], []
        self.row: dict[str, float] = {}
        if self.path.exists():
            with open(self.path, newline="") as file:
                reader = csv.DictReader(file)
                self.rows = [{k: v for k, v in row.items() if v} for row in reader if row["step"]]
                self.columns = list(reader.fieldnames or self.columns)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        """The run's config.yaml already holds them."""

    def cut(self, step: int) -> None:
        """Forgets rows past a checkpoint's step."""
        self.rows = [row for row in self.rows if int(row["step"]) <= step]
        self._rewrite()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        if self.row and self.row["step"] != step:
            self._write()
        self.row = {"step": step} | self.row | {k: float(v) for k, v in metrics.items() if k != "epoch"}

    @rank_zero_only
    def save(self) -> None:
        if self.row:
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _write(self) -> None:
        row, self.row = self.row, {}
        same = self.rows and int(self.rows[-1]["step"]) == row["step"]
        if same:
            self.rows[-1] = self.rows[-1] | row
        else:
            self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        self.columns += new
        if new or same or len(self.rows) == 1:
            self._rewrite()
        else:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self.columns, restval="", lineterminator="\n").writerow(row)

    def _rewrite(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())
