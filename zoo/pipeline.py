"""Experiments of several stages: python train.py experiment=claim_... runs them one after another.

An experiment lists them, each with its door and what is given to it on the command line:

    pipeline: claim_x                  # stages are run folders in <runs>/claim_x
    stages:
      - {name: base, door: train, overrides: [model=massformer, "trainer.max_steps=${steps}"]}
      - {name: better, door: train, seeds: [0, 1, 2], overrides: ["init=<base>"]}
    tables:
      - {title: Does it help?, rows: [better], figures: {mIoU: metrics.json/trained/mIoU}}

`<base>` is the folder of an earlier stage, of the same seed where that stage has seeds. A stage with `seeds` is run once with
each, as seed=. A finished stage is marked by the file `done` with the hash of its resolved config and of the stages it stands
on (`begun` is the same of a training that has started); the same again is skipped, an unfinished training goes on, and a
training of another config, or on other stages, is refused before anything is run. `use: {base: <folder>}` puts a folder of the
user's in a stage's place. The tables print mean and standard deviation over the seeds; `mean: true` adds a row with the mean
over the others; `published: {row: {figure: fraction}}` adds rows of figures from a paper.
"""

import copy
import hashlib
import importlib
import json
import math
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from datamodules.errors import UserError
from datamodules.files import write_json, write_text
from zoo import runs
from zoo.report import print_rows

DOORS = {"train": "train", "evaluate": "evaluate", "generate": "zoo.generate"}  # config and module of each
FOLDER = {"train": "folder", "evaluate": "out", "generate": "out"}            # what each calls the place it writes to
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DONE, BEGUN = "done", "begun"


@dataclass
class Stage:
    """One run of a door. name: without the seed; needs: the earlier stages it names."""

    name: str
    door: str
    overrides: list[str]
    seed: int | None
    folder: Path
    needs: list["Stage"] = field(default_factory=list)
    given: bool = False                # the user's own folder

    @property
    def title(self) -> str:
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    @cached_property
    def config(self) -> dict:
        """The door's resolved config."""
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        GlobalHydra.instance().clear()                      # the experiment's own config is composed and done with
        try:
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                return OmegaConf.to_container(compose(self.door, self.overrides), resolve=True, throw_on_missing=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(str(error).splitlines()[0], f"stage {self.title}", "correct its overrides") from error

    def mark(self) -> str:
        """Hash of what this stage does: its config, and the same of the stages it stands on."""
        if self.given:
            return f"given {self.folder}"
        known = {key: value for key, value in self.config.items() if key not in (FOLDER[self.door], "resume")}
        text = json.dumps([known, [need.mark() for need in self.needs]], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def done(self) -> bool:
        file = self.folder / DONE
        return self.given or (file.exists() and file.read_text().strip() == self.mark())

    def begun(self) -> bool:
        """Whether its training has started; one of another config, or on other stages than today's, is refused."""
        if not (self.folder / "config.yaml").exists():
            return False
        mend = "remove it and what stands on it, or give another runs="
        was = {key: value for key, value in runs.read_config(self.folder).items() if key != "resume"}
        now = {key: value for key, value in self.config.items() if key != "resume"}
        if was != now:
            differs = sorted(key for key in now if now[key] != was.get(key))
            raise UserError(f"a stage of another {', '.join(differs) or 'config'} is here", self.folder, mend)
        marks = [(self.folder / name).read_text().strip() for name in (BEGUN, DONE) if (self.folder / name).exists()]
        if any(mark != self.mark() for mark in marks):
            stood = " or ".join(dict.fromkeys(need.name for need in self.needs))
            raise UserError(f"it was trained on another {stood or 'stage'}", self.folder, mend)
        return True


def stages_of(cfg: dict) -> list[Stage]:
    """The stages of an experiment's config in their order, one for each seed."""
    root, use = Path(str(cfg["runs"])) / cfg["pipeline"], cfg.get("use") or {}
    found: list[Stage] = []
    names = [entry["name"] for entry in cfg["stages"]]
    if strange := sorted(set(use) - set(names)):
        raise UserError(f"no stage is called {strange[0]}", f"use.{strange[0]}", f"stages are {', '.join(names)}")
    for entry in cfg["stages"]:
        for seed in entry.get("seeds") or [None]:
            name, door = entry["name"], entry.get("door", "train")
            folder = root / (name if seed is None else f"{name}_seed{seed}")
            stage = Stage(name, door, [], seed, Path(use[name]) if name in use else folder, given=name in use)
            if stage.given and not stage.folder.is_dir():
                raise UserError("no such folder", f"use.{name}={use[name]}", "give a stage's run folder")
            for override in () if stage.given else entry["overrides"]:
                stage.overrides.append(_filled(override, stage, found))
            if seed is not None:
                stage.overrides.append(f"seed={seed}")
            stage.overrides.append(f"{FOLDER[door]}={stage.folder}")
            found.append(stage)
    return found


def _filled(override: str, stage: Stage, earlier: list[Stage]) -> str:
    """An override with folders in place of `<stage>`; the stages named are noted as needed."""

    def folder(match: re.Match) -> str:
        for other in earlier:
            if other.name == match[1] and other.seed in (None, stage.seed):
                stage.needs.append(other)
                return str(other.folder)
        raise UserError(f"<{match[1]}> is no earlier stage", f"stage {stage.title}", "see the experiment's stages")

    return re.sub(r"<(\w+)>", folder, override)


def run(cfg: dict) -> dict[str, dict]:
    """All stages, then the tables, whose rows are returned by title."""
    stages = stages_of(cfg)
    for stage in stages:                                    # before hours are spent on those in front of it
        if stage.door == "train" and not stage.done():
            stage.begun()
    for number, stage in enumerate(stages, 1):
        head = f"[{number}/{len(stages)}] {stage.title}"
        if stage.done():
            print(f"{head}: {'given' if stage.given else 'done already'}, {stage.folder}", flush=True)
            continue
        print(f"{head}: {stage.door} {' '.join(stage.overrides)}", flush=True)
        perform(stage)
        if runs.rank() == 0:
            write_text(stage.folder / DONE, stage.mark() + "\n")
    return tables(cfg, stages) if runs.rank() == 0 else {}


def perform(stage: Stage) -> None:
    """Runs a stage's door, in this process unless it starts processes of its own."""
    cfg = copy.deepcopy(stage.config)
    if stage.door == "train":
        cfg["resume"] = str(stage.folder) if stage.begun() else None
        if runs.rank() == 0:
            write_text(stage.folder / BEGUN, stage.mark() + "\n")
    if cfg.get("trainer", {}).get("devices", 1) != 1:
        more = [f"resume={stage.folder}"] if cfg.get("resume") else []
        command = [sys.executable, *_script(stage.door), *stage.overrides, *more]
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)
        return
    importlib.import_module(DOORS[stage.door]).run(cfg)


def _script(door: str) -> list[str]:
    return ["-m", DOORS[door]] if "." in DOORS[door] else [str(CONFIGS.parent / f"{door}.py")]


# -- tables ------------------------------------------------------------------------------------------------------------
def tables(cfg: dict, stages: list[Stage]) -> dict[str, dict]:
    """Prints the experiment's tables and writes them to table.json: {title: {row: {figure: {mean, std, values}}}}."""
    written = {}
    for table in cfg.get("tables") or []:
        rows = {
            name: {heading: spread([figure(s.folder, path) for s in stages if s.name == name])
                   for heading, path in table["figures"].items()}
            for name in table["rows"]
        }
        if table.get("mean"):
            rows["mean"] = {heading: over([row[heading] for row in rows.values()]) for heading in table["figures"]}
        seeds = max((len(cell["values"]) for row in rows.values() for cell in row.values()), default=0)
        for name, values in (table.get("published") or {}).items():
            rows[name] = {heading: spread([values.get(heading, math.nan)]) for heading in table["figures"]}
        print_rows(f"{table['title']} (mean and standard deviation of {seeds} seed{'s' * (seeds != 1)})", "%",
                   {name: [said(cell) for cell in row.values()] for name, row in rows.items()}, list(table["figures"]))
        written[table["title"]] = rows
    if written:
        path = Path(str(cfg["runs"])) / cfg["pipeline"] / "table.json"
        write_json(path, {"tables": written, "source": runs.environment()})
        print(f"figures: {path}")
    return written


def figure(folder: Path, path: str) -> float:
    """A figure by `<file>/<column>/<name>` in a stage's folder; NaN where the run has none of that name."""
    file, column, name = path.split("/", 2)
    if not (folder / file).exists():
        raise UserError("a table asks for a file that the stage did not write", folder / file, "correct the experiment's tables")
    value = json.loads((folder / file).read_text())["results"].get(column, {}).get(name)
    return math.nan if value is None else float(value)


def spread(values: list[float]) -> dict:
    """Mean and standard deviation (of the sample; null for one value) of those that are numbers."""
    known = [value for value in values if value == value]
    return {
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "values": [value if value == value else None for value in values],
    }


def over(cells: list[dict]) -> dict:
    """The mean over rows, seed by seed: over folds, say."""
    return spread([statistics.fmean(values) if None not in values else math.nan
                   for values in zip(*(cell["values"] for cell in cells))])  # fmt: skip


def said(cell: dict) -> str:
    if cell["mean"] is None:
        return "-"
    return f"{100 * cell['mean']:.1f}" + ("" if cell["std"] is None else f" ± {100 * cell['std']:.1f}")
