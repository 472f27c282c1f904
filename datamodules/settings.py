"""Settings: configs composed for commands of this package, their values checked, and what their `_target_` builds."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from datamodules.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SAID = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null", dict: "a group"}


# -- building ----------------------------------------------------------------------------------------------------------
def make(config: dict, **given):
    """What a config's `_target_` builds, from plain containers; a mistake in its settings is one line."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(config, dict) or "_target_" not in config:
        raise UserError("this config names no class (_target_)", str(config)[:60], "it is damaged")
    of_lightning = (AssertionError, MisconfigurationException)
    mistakes = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, *of_lightning)
    try:
        return instantiate(config, **given, _convert_="all")
    except OmegaConfBaseException as error:                 # a value that looks like an interpolation and is none
        raise UserError(str(error).splitlines()[0], config["_target_"], "correct it in config.yaml") from error
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, mistakes):
            what = str(cause) if isinstance(cause, (ValueError, TypeError)) else f"{type(cause).__name__}: {cause}"
            raise UserError(what, config["_target_"], "see the settings in config.yaml or --cfg job") from error
        raise


# -- types -------------------------------------------------------------------------------------------------------------
def check_values(value, hint, key: str, known: dict | None = None) -> None:
    """Refuses a value, or one inside it, of another type than the annotation it goes to. known: annotations of keys that no
    `_target_` explains."""
    if not (isinstance(value, dict) and "_target_" in value) and not fits(value, hint):
        raise UserError(f"{value!r} is not {spelt(hint)}", key, "correct it on the command line or in config.yaml")
    if isinstance(value, dict):
        hints = _annotations(value["_target_"], key) if "_target_" in value else {}
        for name, inner in value.items():
            check_values(inner, hints.get(name, (known or {}).get(f"{key}.{name}", Any)), f"{key}.{name}", known)


def named_object(target, key: str):
    from hydra.utils import get_object

    try:
        return get_object(target)
    except Exception as error:                              # an import may raise anything
        raise UserError(f"nothing of the name {target!r} can be imported", key, "correct it") from error


def _annotations(target: str, key: str) -> dict:
    """The annotations of the arguments of what `_target_` names."""
    made = named_object(target, f"{key}._target_")
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


# -- commands about a data set -----------------------------------------------------------------------------------------
def read_settings(command: str, arguments: list[str], usage: str) -> dict:
    """The composed configs/<command>.yaml as plain containers; a mistake is one line, and `data=` must be given."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose(command, arguments)
        if "_target_" not in config.data:
            raise UserError("data=<set> is missing", mend=f"{usage}; sets: {', '.join(sets())}")
        missing = sorted(OmegaConf.missing_keys(config.data))
        if missing:
            raise UserError(f"{missing[0]}= is missing", mend=usage)
        return OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        named = named_set(arguments)
        mend = f"--help data={named} shows the settings" if named in sets() else f"sets: {', '.join(sets())}"
        raise UserError(str(error).splitlines()[0].rstrip("."), " ".join(arguments), mend) from error


def sets() -> list[str]:
    """Names that `data=` takes."""
    names = (path.stem for path in sorted((CONFIGS / "data").glob("*.yaml")))
    return [name for name in names if not name.startswith(("_", "for_"))]


def named_set(arguments: list[str]) -> str:
    return next((argument.removeprefix("data=") for argument in arguments if argument.startswith("data=")), "")


def help_text(text: str, arguments: list[str]) -> str:
    """A command's words, and the sets with their first lines or the settings of the one that is named."""
    named = named_set(arguments)
    if named in sets():
        return f"{text}\nSettings of data={named}, each as data.<key>=<value>:\n\n{settings_text(named)}"
    rows = [f"  {name:<16} {settings_text(name).splitlines()[0].removeprefix('# ')}" for name in sets()]
    return "\n".join([text, "Sets (--help data=<set> shows the settings of one):", *rows])


def settings_text(name: str) -> str:
    """The file of a set, with those it stands on."""
    import yaml

    text = (CONFIGS / "data" / f"{name}.yaml").read_text()
    bases = (base.removeprefix("/data/").partition("@")[0] for base in yaml.safe_load(text).get("defaults", []))
    return text + "".join(map(settings_text, bases))
