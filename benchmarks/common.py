"""What all benchmarks share: paired timing, the machine's description, a table and a JSON in benchmarks/results/."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from datamodules.files import write_json
from zoo.runs import environment

RESULTS = Path(__file__).parent / "results"


def paired(works: dict[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Median seconds of each, run in turn (A B A B ...) after one warm-up, so that a drifting machine is fair to all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> dict:
    """Processor, threads, GPU and versions a figure was measured with."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":", 1)[1].strip() if lines else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu} | environment()


def report(name: str, title: str, rows: list[dict], **extra) -> None:
    """Prints the rows and writes benchmarks/results/<name>.json."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="right" if isinstance(rows[0][column], (int, float)) else "left")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=120 if not Console().is_terminal else None).print(table)
    path = RESULTS / f"{name}.json"
    write_json(path, {"title": title, "rows": rows, "machine": machine(), **extra})
    print(f"-> {path.relative_to(RESULTS.parents[1])}")


def resident(key: str) -> int:
    """KiB of this process on Linux: VmRSS, now; VmHWM, at most since the start or `forget_peak`."""
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def forget_peak() -> None:
    """The most resident memory is counted from here (a child's getrusage begins with its parent's)."""
    Path("/proc/self/clear_refs").write_text("5")
