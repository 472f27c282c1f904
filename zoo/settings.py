"""Whether a config's values are of the types that the constructors they go to are annotated with."""

from typing import Any, Literal

from datamodules.errors import UserError
from datamodules.settings import check_values, named_object

NAME = str | int | None                 # run=7 is read as a number
DOORS = {                               # the keys of the doors themselves
    "model": dict, "data": dict, "trainer": dict, "inference": dict, "callbacks": dict, "logger": dict, "save": dict,
    "seed": int, "runs": str | int, "run": NAME, "folder": str | None, "resume": NAME, "init": str | None, "weights": str | None,
    "out": str | None, "untrained": bool, "closing": bool, "overwrite": bool, "compile": bool,
    "device": str, "split": Literal["val", "test"],
    "save.monitor": str | None, "save.every": int,
    "k": int, "batch": int, "precision": Literal["fp32", "bf16"], "format": Literal["png", "jpeg"], "filter": dict,
    "filter.weights": str | None, "flip": bool, "by": str, "painted": str | None, "unlabelled": bool, "pseudo": dict,
    "share": float, "fss": dict,
    "pseudo.weights": str | None, "pseudo.pictures": str | None, "pseudo.least": float, "pseudo.join": bool,
}  # fmt: skip


def check(config: dict) -> dict:
    """The resolved config of a door, as it is; a value of a wrong type is one line with its key."""
    for key, value in config.items():
        check_values(value, DOORS.get(key, Any), key, DOORS)
    if config.get("seed", 0) < 0:
        raise UserError(f"{config['seed']} is negative", "seed", "give 0 or more")
    return config


def only_ours(config, where) -> None:
    """Refuses a config out of somebody's file that would call anything but classes of this repository."""
    if isinstance(config, dict) and "_target_" in config:
        target = config["_target_"]
        made = named_object(target, f"{where}: _target_") if str(target).startswith(("zoo.", "datamodules.")) else None
        if not isinstance(made, type) or target != f"{made.__module__}.{made.__qualname__}":
            raise UserError(f"its config names {target!r}, which is no class of this zoo", where, "it is not built")
    if isinstance(config, (dict, list)):
        for inner in config.values() if isinstance(config, dict) else config:
            only_ours(inner, where)
