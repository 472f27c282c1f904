"""A run's folder: where it is, what it holds, how it is found again."""

import contextlib
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import yaml

from datamodules.errors import UserError
from datamodules.files import make_folder, write_text
from zoo.settings import check, only_ours

RUN_FOLDER = "ZOO_RUN_FOLDER"
PACKAGES = ("torch", "torchvision", "lightning", "timm", "torchmetrics", "numpy")
BUILT = ("model", "data", "trainer", "inference")
NEEDED = (*BUILT, "callbacks", "logger", "save", "seed", "runs", "run", "init", "untrained")


def open_run(config: dict, data: str) -> Path:
    """A new folder runs/<model>/<data>/<run> with its resolved config, or the one that `resume=` names.

    Of several processes the first makes it; the others find its name in the environment (processes that Lightning
    starts) or agree on one by the launcher's job (torchrun, SLURM).
    """
    if config["resume"]:
        return Path(config["resume"])
    if config.get("folder"):
        folder = Path(str(config["folder"]))
        if rank() == 0:
            if (folder / "config.yaml").exists():
                raise UserError("a run is here", folder, f"go on with resume={folder}, or give another folder")
            make_folder(folder)
            save_config(folder, config)
        return folder
    if rank() and RUN_FOLDER in os.environ:
        return Path(os.environ[RUN_FOLDER])
    room = config["model"]["_target_"].split(".")[1]
    parent = Path(str(config["runs"])) / room / data
    name = str(config["run"] or "") or job() or time.strftime("%Y-%m-%d_%H-%M-%S")
    if rank():
        return parent / name
    make_folder(parent)
    folder, count = parent / name, 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=False)
            break
        except PermissionError as error:
            raise UserError(f"no folder can be made here ({error.strerror})", parent, "give another place: runs=") from error
        except FileExistsError:
            if config["run"] or job():
                mend = f"take another run=..., or go on with resume={folder}"
                raise UserError("a run of this name exists", folder, mend) from None
            count += 1
            folder = parent / f"{name}_{count}"
    os.environ[RUN_FOLDER] = str(folder)
    save_config(folder, config)
    return folder


@contextlib.contextmanager
def opened(config: dict, data: str):
    """`open_run`'s folder; a new one is taken away again when the block ends with a mistake of the user's."""
    folder = open_run(config, data)
    try:
        yield folder
    except UserError:
        if not config["resume"] and rank() == 0:
            for name in ("config.yaml", "environment.yaml"):
                (folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def rank() -> int:
    """This process among those of its run, before any process group exists."""
    return next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0)


def job() -> str | None:
    """A name all processes of a launcher's job share; None where there is no launcher."""
    for name, prefix in (("TORCHELASTIC_RUN_ID", "torchrun"), ("SLURM_JOB_ID", "slurm")):
        if os.environ.get(name, "none") != "none":
            return f"{prefix}_{os.environ[name][:12]}"
    return None


def save_config(folder: Path, config: dict) -> None:
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    write_text(folder / "environment.yaml", yaml.safe_dump(environment(), sort_keys=False))


def find_run(name: str, runs: str) -> Path:
    """A run folder by path, or by its name alone when that is unique below `runs`."""
    if (Path(str(name)) / "config.yaml").exists():
        return Path(str(name))
    found = sorted(p.parent for p in Path(str(runs)).glob(f"*/*/{name}/config.yaml"))
    if len(found) == 1:
        return found[0]
    what = "no such run" if not found else f"{len(found)} runs have this name: " + ", ".join(map(str, found))
    raise UserError(what, f"resume={name}", "give the run folder's path")


def read_config(folder: Path) -> dict:
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except Exception as error:                              # damaged YAML may raise nearly anything
        raise UserError("this run has no readable config.yaml", folder, "restore it, or start a new run") from error
    lacks = [key for key in NEEDED if key not in config] if isinstance(config, dict) else list(NEEDED)
    if lacks:
        raise UserError(f"this run's config.yaml lacks {', '.join(lacks)}", folder, "restore it, or start a new run")
    for key in BUILT:
        if not isinstance(config[key], dict) or not isinstance(config[key].get("_target_"), str):
            raise UserError(f"this run's config.yaml builds no {key}", folder, "restore it, or start a new run")
    return check(config)


def resumed(cfg: dict) -> dict:
    """The config of the run that `resume=` names: a run goes on as it began."""
    folder = find_run(cfg["resume"], cfg["runs"])
    return read_config(folder) | {"resume": str(folder)}


def with_run_data(cfg: dict) -> dict:
    """evaluate's config with the data settings of the run its weights belong to, changed by `+data.key=value`;
    `data=<set>` on the command line replaces them."""
    if "_target_" in cfg["data"]:
        return cfg
    path = Path(cfg["weights"])
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "config.yaml").exists():
            run = read_config(folder)
            only_ours(run["data"], folder)
            return check(cfg | {"data": run["data"] | cfg["data"], "seed": run["seed"]})
    raise UserError("these weights are not in a run folder, so their data are unknown", path, "add data=<set> data.root=...")


def environment() -> dict:
    """What a figure needs beside it: versions, machine, commit."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def commit() -> str:
    """Commit of this repository, with + behind it when files differ; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "unknown"
    run = lambda *a: subprocess.run(["git", "-C", str(root), *a], capture_output=True, text=True).stdout.strip()
    return (run("rev-parse", "--short=12", "HEAD") or "none") + ("+" if run("status", "--porcelain", "-uno") else "")
