"""Whether a config's values are of the types that the constructors they go to are annotated with."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from datamodules.errors import UserError

NAME = str | int | None                 # run=7 is read as a number
DOORS = {                               # the keys of the doors themselves
    "model": dict, "data": dict, "trainer": dict, "inference": dict, "callbacks": dict, "logger": dict, "save": dict,
    "seed": int, "runs": str | int, "run": NAME, "resume": NAME, "init": str | None, "weights": str | None,
    "out": str | None, "untrained": bool, "overwrite": bool, "device": str, "split": Literal["val", "test"],
    "save.monitor": str | None, "save.every": int,
}  # fmt: skip
SAID = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null", dict: "a group"}


def check(config: dict) -> dict:
    """The resolved config of a door, as it is; a value of a wrong type is one line with its key."""
    for key, value in config.items():
        _check(value, DOORS.get(key, Any), key)
    if config.get("seed", 0) < 0:
        raise UserError(f"{config['seed']} is negative", "seed", "give 0 or more")
    return config


def _check(value, hint, key: str) -> None:
    if not (isinstance(value, dict) and "_target_" in value) and not fits(value, hint):
        raise UserError(f"{value!r} is not {spelt(hint)}", key, "correct it on the command line or in config.yaml")
    if isinstance(value, dict):
        hints = _hints(value["_target_"], key) if "_target_" in value else {}
        for name, inner in value.items():
            _check(inner, hints.get(name, DOORS.get(f"{key}.{name}", Any)), f"{key}.{name}")


def only_ours(config, where) -> None:
    """Refuses a config out of somebody's file that would call anything but classes of this repository."""
    if isinstance(config, dict) and "_target_" in config:
        target = config["_target_"]
        made = _object(target, f"{where}: _target_") if str(target).startswith(("zoo.", "datamodules.")) else None
        if not isinstance(made, type) or target != f"{made.__module__}.{made.__qualname__}":
            raise UserError(f"its config names {target!r}, which is no class of this zoo", where, "it is not built")
    if isinstance(config, (dict, list)):
        for inner in config.values() if isinstance(config, dict) else config:
            only_ours(inner, where)


def _object(target, key: str):
    from hydra.utils import get_object

    try:
        return get_object(target)
    except Exception as error:                              # an import may raise anything
        raise UserError(f"nothing of the name {target!r} can be imported", key, "correct it") from error


def _hints(target: str, key: str) -> dict:
    """The annotations of the arguments of what `_target_` names."""
    made = _object(target, f"{key}._target_")
    return get_type_hints(made.__init__ if isinstance(made, type) else made)


def fits(value, hint) -> bool:
    """Whether a plain value is what an annotation asks for; a list will do for a tuple, a whole number for a float."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if kind is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if kind is Any or not isinstance(kind, type):
        return True
    if kind in (int, float, bool, str):
        return type(value) is kind or (kind is float and type(value) is int)
    if isinstance(value, (list, tuple)):
        right = kind is tuple or issubclass(list, kind)
        if kind is tuple and ... not in inner:
            return len(value) == len(inner) and all(map(fits, value, inner))
        return right and all(fits(one, inner[0]) for one in value if inner)
    if isinstance(value, dict) and inner:
        return issubclass(dict, kind) and all(fits(one, inner[-1]) for one in value.values())
    return isinstance(value, kind)


def spelt(hint) -> str:
    """An annotation in words."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(spelt, inner)))
    if kind is Literal:
        return " or ".join(map(str, inner))
    if kind in (list, tuple) and inner:
        return f"[{', '.join('...' if one is ... else spelt(one) for one in inner)}]"
    return SAID.get(kind, getattr(kind, "__name__", str(kind)))
