"""Weights by place: a run folder, an export folder, a .ckpt, a .safetensors or a name of hub.yaml mean the same.

    python -m zoo.hub list | get <name> | verify [<name>]

An export is `weights.safetensors` (which also carries its recipe, so that the one file is enough) and `model.yaml`, the
same recipe to read: the model's config, classes, palette, ignore, and where the weights come from.
"""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from datamodules.errors import UserError
from datamodules.files import check_zip, sha256_of, write_bytes, write_text
from datamodules.settings import check_values, make
from zoo import download
from zoo.settings import only_ours

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, RECIPE = "weights.safetensors", "model.yaml"
CHECKPOINTS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")


def build(model: dict, classes: list[str], palette=None, ignore: int = 255):
    """The method of a plain config (with `_target_`) for these classes; it remembers what it was built from."""
    recipe = {"model": model, "classes": list(classes), "palette": [list(c) for c in palette or []], "ignore": ignore}
    method = make(model, classes=recipe["classes"], palette=palette, ignore=ignore)
    method.recipe = recipe
    return method


def export(method, folder: str | Path, source: dict) -> Path:
    """Writes the slim export; `source` says where the weights come from (run, commit, seed, licence, ...)."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = method.saved_recipe() | {"source": source}
    if bases := method.bases():
        recipe["bases"] = bases
    tensors = {name: value.detach().cpu().contiguous() for name, value in method.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(tensors, {"recipe": json.dumps(recipe)}))
    recipe["sha256"] = sha256_of(folder / WEIGHTS)
    write_text(folder / RECIPE, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    return folder


def find(weights: str | Path) -> Path:
    """The file behind `weights=`."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        return _named(str(weights))
    for name in (WEIGHTS, *CHECKPOINTS):
        if (path / name).exists():
            return path / name
    raise UserError(f"this folder holds neither {WEIGHTS} nor a checkpoint", path, "give a run that has saved one")


def _named(name: str) -> Path:
    """The file of a name of hub.yaml: what its converter made, or the download itself where none is needed."""
    known = download.entries()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        mend = "give a run folder, an export folder, a .ckpt, a .safetensors or a name of python -m zoo.hub list"
        raise UserError("no such run, folder or file", name, mend + (f" ({near[0]}?)" if near else ""))
    converter, converted = known[name]["converter"], download.folder_of(name) / download.CONVERTED
    if (converted / WEIGHTS).exists():
        return converted / WEIGHTS
    if converter == download.NOTHING_YET:
        raise UserError("nothing converts these weights yet", name, "take others of python -m zoo.hub list")
    path = download.get(name)
    if converter != download.NOT_NEEDED:
        raise UserError("official weights, to be converted once", name, download.conversion(name, path))
    if path.is_dir():
        raise UserError("a base model of several files, not the weights of a method", name, f"it lies in {path}")
    return path


def best_of(run: Path) -> tuple[dict[str, Tensor], Path]:
    """State dict of a run's best checkpoint, or of its last where no best was kept or it is damaged; and its path."""
    for name in CHECKPOINTS:
        if (run / name).exists():
            try:
                return read(run / name)[0], run / name
            except UserError as error:
                print(error)
    raise UserError("this run has no checkpoint that can be read", run, "let it run to save.every steps or longer")


def sha256(weights: str | Path) -> str:
    """Of the file behind `weights=`."""
    return sha256_of(find(weights))


def read(weights: str | Path) -> tuple[dict[str, Tensor], dict]:
    """State dict and recipe of `weights=`."""
    import torch
    from safetensors import SafetensorError, safe_open

    path = find(weights)
    check_sums(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                recipe = json.loads((file.metadata() or {}).get("recipe", "{}"))
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            state, recipe = content["state_dict"] | content.get("ema", {}), content.get("zoo", {})
    except (SafetensorError, RuntimeError, OSError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"this file cannot be read ({_first_line(error)})", path, "it is torn or not of this zoo") from error
    except Exception as error:  # torch raises pickle's own errors for foreign or damaged files
        raise UserError(f"this file cannot be read ({type(error).__name__})", path, "it is torn or not of this zoo") from error
    if not isinstance(recipe, dict) or "model" not in recipe:
        mend = "official files: see each method's convert.py"
        raise UserError("these weights do not say which model they belong to", path, mend)
    if not {"classes", "palette", "ignore"} <= recipe.keys() or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError("these weights are not whole", path, "copy or download them again")
    only_ours(recipe["model"], path)
    return state, recipe


def check_sums(path: Path) -> None:
    """Refuses an export that is not the one its model.yaml was written for, and a checkpoint with a flipped bit."""
    if path.suffix == ".ckpt":
        check_zip(path)
    if path.name != WEIGHTS or not (path.parent / RECIPE).exists():
        return
    try:
        wanted = yaml.safe_load((path.parent / RECIPE).read_text())["sha256"]
    except Exception as error:  # damaged YAML may raise nearly anything
        raise UserError("cannot be read", path.parent / RECIPE, f"copy it again, or give {path.name} alone") from error
    if wanted != sha256_of(path):
        raise UserError(f"not the weights of the {RECIPE} beside it (sha256)", path, "copy or download both again")


def load(weights: str | Path, changes: dict | None = None):
    """The method with its weights, strict; changes: settings of its recipe's model that are to be others."""
    state, recipe = read(weights)
    palette = [tuple(c) for c in recipe["palette"]] or None
    settings = merged(recipe["model"], changes or {})
    if changes:
        check_values(settings, dict, "model")
    method = build(settings, recipe["classes"], palette, recipe["ignore"])
    check_bases(method, recipe, weights)
    fit(method, state, weights)
    return method


def merged(settings: dict, changes: dict) -> dict:
    """The settings with the changed ones in their places, at any depth."""
    inner = {key: merged(settings[key], value) for key, value in changes.items()
             if isinstance(value, dict) and isinstance(settings.get(key), dict)}  # fmt: skip
    return settings | changes | inner


def check_bases(method, recipe: dict, where) -> None:
    """Refuses weights that were trained on another frozen base."""
    wanted, here = recipe.get("bases", {}), method.bases()
    for name, sha in wanted.items():
        if here.get(name) != sha:
            what = f"made for another {name} (sha256 {sha[:12]}..., here {str(here.get(name))[:12]}...)"
            raise UserError(what, where, f"give the {name} they were trained on in the model's settings")


def fit(method, state: dict[str, Tensor], where) -> None:
    """Strict loading; what does not fit is said in one line."""
    wanted = method.state_dict()
    missing = [k for k in wanted if k not in state]
    extra = [k for k in state if k not in wanted]
    shapes = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if missing or extra or shapes:
        parts = []
        for what, keys in (("missing", missing), ("unexpected", extra), ("of another shape", shapes)):
            if keys:
                parts.append(f"{len(keys)} {what} (first: {keys[0]})")
        mend = "these weights belong to another model or class count; init= takes what fits"
        raise UserError("tensors " + ", ".join(parts), where, mend)
    method.load_state_dict(state)


def initialise(method, weights: str | Path) -> None:
    """`init=`: takes every tensor that fits and prints what was left as it was."""
    state, _ = read(weights)
    wanted = method.state_dict()
    fits = {k: v for k, v in state.items() if k in wanted and wanted[k].shape == v.shape}
    if not fits:
        raise UserError("no tensor of this file fits the model", weights, "give weights of the same method")
    method.load_state_dict(fits, strict=False)
    print(f"init: {len(fits)} of {len(wanted)} tensors taken from {weights}")
    for title, names in (
        ("kept at their start", [k for k in wanted if k not in fits]),
        ("not used", [k for k in state if k not in fits]),
    ):
        if names:
            print(f"  {len(names)} {title}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def main(arguments: list[str]) -> None:
    match arguments:
        case ["list"]:
            print(download.table())
        case ["get", name]:
            path = download.get(name)
            print(path)
            print(download.conversion(name, path))
        case ["verify"]:
            download.verify()
        case ["verify", name]:
            download.verify(name)
        case _:
            raise UserError("what to do?", mend="python -m zoo.hub list | get <name> | verify [<name>]")


if __name__ == "__main__":
    from datamodules.errors import door

    door(lambda: main(sys.argv[1:]))
