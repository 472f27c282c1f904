"""Make pictures with labels: python -m zoo.generate weights=<generator's run> out=<folder> [k=5] [data=<set>] [filter=relative]

Without data= the run's own set is taken, with the settings of its config.yaml. The folder is one that data.synthetic=<folder> and
data=folder read (images/, masks/, classes.txt, manifest.jsonl), and generate.json says what it was made with. What is made is
shared among the processes of torchrun or SLURM. Every file appears whole; a second start goes on where the first one stopped,
whoever stopped it; classes.txt and the manifest come last, when all is there.

What else there is to set depends on the generator; see configs/generate.yaml and its card.
"""

import hashlib
import json
import os
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import UserError, door

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")
FIGURES = "figures.json"


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="generate")
def main(cfg: DictConfig) -> None:
    door(lambda: run(OmegaConf.to_container(cfg, resolve=True)))


def run(cfg: dict) -> dict[str, dict[str, float]]:
    """Makes this process's share; returns the figures of all pairs, fractions by column, once the last one is there."""
    import torch
    from tqdm import tqdm

    from datamodules.settings import make
    from zoo import runs
    from zoo.synthetic import Folder

    runs.check(cfg)
    for key in ("weights", "out"):
        if not cfg[key]:
            raise UserError(f"{key}= is missing", mend="python -m zoo.generate weights=<generator's run> out=<folder>")
    model = generator(cfg)
    data = make(runs.with_run_data(cfg)["data"])
    model.check_data(data)
    model.take_classes(data.classes, data.palette, cfg["weights"])
    work = model.making(data, cfg)
    folder = Folder(Path(cfg["out"]), work.names, settings(cfg, data, work), cfg["format"])
    mine = range(runs.rank(), len(work.names), processes())
    todo = [unit for unit in mine if folder.rows(unit) is None]
    if todo:
        folder.reopen()
        print(f"{len(todo)} of {len(mine)} are to be made here, of {len(work.names)} in all", flush=True)
    with torch.inference_mode():
        for unit, pairs in tqdm(work.make(todo), "made", len(todo), mininterval=2):
            folder.keep(unit, pairs, model.palette)
    return finish(folder, work, model, cfg)


def generator(cfg: dict):
    """The generator, on its device, in the precision that is wanted."""
    import torch

    from zoo import hub
    from zoo.base import Generator
    from zoo.predict import check_device

    device = cfg["device"]
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    check_device(device)
    model = hub.load(cfg["weights"], cfg["model"])
    if not isinstance(model, Generator):
        raise UserError(f"{type(model).__name__} makes no pictures", f"weights={cfg['weights']}", "give a generator's run")
    return model.to(device=device, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[cfg["precision"]]).eval()


def settings(cfg: dict, data, work) -> dict:
    """Plain: all that the pairs depend on."""
    from zoo import hub

    names = hashlib.sha256(json.dumps(work.names).encode()).hexdigest()
    return {"weights": hub.sha256(cfg["weights"]), "model": cfg["model"], "seed": cfg["seed"], "precision": cfg["precision"],
            "format": cfg["format"], "data": data.name, "classes": list(data.classes), "names": names, **work.about}


def processes() -> int:
    """How many share the work, by the launcher's word."""
    pairs = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
    return next((int(os.environ[count]) for own, count in pairs if own in os.environ and count in os.environ), 1)


def finish(folder, work, model, cfg: dict) -> dict[str, dict[str, float]]:
    """The manifest and figures, if everything is there; else says what is not."""
    from zoo import report, runs

    units = [folder.rows(unit) for unit in range(len(work.names))]
    if left := sum(rows is None for rows in units):
        print(f"{left} of {len(units)} are not there yet: other processes make them, or the same command started again")
        return {}
    rows = [row for unit in units for row in unit]
    if not rows:
        raise UserError(f"not one pair came of {len(units)} units", folder.path, "see the lines above, then remove the folder")
    results = work.summary(rows)
    if not folder.finished():
        report.write_results(folder.path, results, {"weights": str(cfg["weights"]), **runs.environment()}, FIGURES)
        folder.close(rows, model.classes, model.palette)
    if results:
        report.print_table(f"{len(rows)} pairs", results)
    print(f"{len(rows)} pairs of {len(units)}: train with data.synthetic={folder.path}, or data=folder data.root={folder.path}")
    return results


if __name__ == "__main__":
    main()
