"""metrics.csv, one row a logged step. It survives a resume: rows past the checkpoint are dropped, the rest is kept."""

import csv
import io
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.errors import UserError
from datamodules.files import disk_is_full, write_bytes
from zoo.log import LOG, read_log


class CSVLog(Logger):
    """A row is in the file as soon as it is logged: appended, or written over the last one when that is of the same
    step. A new column rewrites the file."""

    def __init__(self, folder: Path):
        super().__init__()
        self.path = Path(folder) / LOG
        self.columns, self.rows = read_log(self.path)
        self.last = self.end = 0            # where the last row begins and ends; known once the file is ours

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        """The run's config.yaml already holds them."""

    @rank_zero_only
    def cut(self, step: int) -> None:
        """Forgets rows past a checkpoint's step, and what a kill left of a last line."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        if self.path.exists():
            self._rewrite()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": int(step or 0)} | {name: float(value) for name, value in metrics.items() if name != "epoch"}
        same = bool(self.rows) and self.rows[-1]["step"] == row["step"]
        if same:
            row = self.rows.pop() | row
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        self.columns += new
        if new or not self.end:
            self._rewrite()
        else:
            self._write_last(same)

    def _write_last(self, over: bool) -> None:
        """The last row, behind the others or over the one that stands last in the file."""
        line = self._lines([self.rows[-1]])
        try:
            with open(self.path, "r+b") as file:
                file.seek(self.last if over else self.end)
                file.write(line)                            # a row gains figures and so covers what it was
                file.truncate()
        except OSError as error:
            if not disk_is_full(error):
                raise
            raise UserError("the disk is full", self.path, "free some space, then go on with resume=") from error
        self.last = self.last if over else self.end
        self.end = self.last + len(line)

    def _rewrite(self) -> None:
        data = self._lines([dict(zip(self.columns, self.columns)), *self.rows])
        write_bytes(self.path, data)
        self.end = len(data)
        self.last = data.rfind(b"\n", 0, -1) + 1

    def _lines(self, rows: list[dict]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue().encode()
