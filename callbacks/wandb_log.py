"""Weights & Biases: the log, the config, the commit and labelled validation panels. Offline where there is no key."""

import json
import netrc
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import yaml
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.errors import UserError
from datamodules.files import write_json, write_text
from zoo.runs import read_config
from zoo.visualize import shrink, shrink_labels, to_picture

IGNORED, OTHERS = 255, 254              # values of W&B's masks, which go from 0 to 255
MAX_SIDE = 512


class WandbLog(WandbLogger):
    """One W&B run a run folder, kept below <run>/wandb; its id in <run>/wandb_id lets a resume go on in it."""

    def __init__(self, folder: Path, project: str, entity: str | None = None, group: str | None = None,
                 tags: tuple[str, ...] = ()):  # fmt: skip
        need_wandb()
        environment = yaml.safe_load((folder / "environment.yaml").read_text())
        super().__init__(
            name=folder.name,
            save_dir=folder,
            id=run_id(folder),
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            config=read_config(folder) | {"folder": str(folder), "environment": environment},
            mode=mode(),
        )

    @rank_zero_only
    def log_panels(self, method, source, indices: list[int], step: int) -> None:
        """method: a Segmenter in evaluation mode; source: of scenes, each shown with truth and prediction as masks."""
        import wandb

        path = Path(self.save_dir) / "wandb_classes.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        for index in indices:
            scene = source.read(index)
            guess = method.inference.labels(method, scene["image"].to(method.device)).cpu().numpy()
            maps = {"truth": scene["labels"].numpy(), "prediction": guess}
            maps = {name: shrink_labels(labels, MAX_SIDE) for name, labels in maps.items()}
            shown = masks(maps, method.classes, method.ignore, known.setdefault(scene["name"], []))
            picture = wandb.Image(shrink(to_picture(scene["image"]), MAX_SIDE), masks=shown)
            self.log_metrics({f"panels/{scene['name']}": picture}, step)
        if any(known.values()):
            write_json(path, known)

    def log_picture(self, picture: np.ndarray, step: int) -> None:
        """A drawn panel (H W 3 uint8), of methods whose samples are not label maps."""
        import wandb

        self.log_metrics({"panels": wandb.Image(picture)}, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Ends the W&B run, so that the next run of this process gets one of its own."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status in ("success", "finished") else 1)
            self._experiment = None


def need_wandb() -> None:
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        mend = "pip install wandb, or logger=csv"
        raise UserError("the package wandb is not installed", "logger=wandb", mend) from error


def run_id(folder: Path) -> str | None:
    """The id in <run>/wandb_id, made by the first process; the others log nothing and need none."""
    path = folder / "wandb_id"
    if rank_zero_only.rank:
        return None
    if not path.exists():
        write_text(path, secrets.token_hex(4))
    return path.read_text().strip()


def mode() -> str | None:
    """What WANDB_MODE says where it is set (None leaves it to W&B); else offline without a key."""
    return None if os.environ.get("WANDB_MODE") or has_key() else "offline"


def has_key() -> bool:
    """Whether a key is in WANDB_API_KEY or, for the server of WANDB_BASE_URL, in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    candidates = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    path = next((p for p in (Path(c).expanduser() for c in candidates if c) if p.exists()), None)
    try:
        return path is not None and netrc.netrc(path).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False


def masks(maps: dict[str, np.ndarray], classes: list[str], ignore: int, known: list[int]) -> dict[str, dict]:
    """Label maps H W of one picture -> W&B's masks, all with the same class labels; ignored pixels are 255.

    W&B knows 256 values, and one list of names for a picture in all steps. So a class of a larger set gets its place in
    `known`, which grows by the classes that this picture shows for the first time; from the 255th on they share one.
    """
    if len(classes) <= IGNORED:
        known = list(range(len(classes)))
    else:
        for labels in maps.values():
            known += sorted(set(np.unique(labels).tolist()) - {ignore, *known})
    table = np.full(len(classes) + 1, IGNORED, np.uint8)            # the last one: ignored
    table[known] = np.minimum(np.arange(len(known)), OTHERS)
    names = {value: classes[label] for value, label in enumerate(known[:IGNORED])} | {IGNORED: "ignored"}
    if len(known) > IGNORED:
        names[OTHERS] = "others"
    data = {name: table[np.where(labels == ignore, len(classes), labels)] for name, labels in maps.items()}
    return {name: {"mask_data": mask, "class_labels": names} for name, mask in data.items()}
