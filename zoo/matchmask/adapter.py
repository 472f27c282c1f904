"""An adapter as a folder: what diffusers' own loader takes, the gates beside it, and what both belong to.

    pytorch_lora_weights.safetensors     unet.load_lora_adapter(folder, prefix=None, use_safetensors=True) of diffusers reads it
    gate.safetensors                     <attention>.gate.weight, .bias
    adapter.json                         layers, rank, gate, words, free, size of the pictures, and the base's name and sha256
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from datamodules.errors import UserError
from datamodules.files import sha256_of, write_bytes, write_json
from zoo.diffusion.base import Base
from zoo.matchmask.net import MatchMaskNet
from zoo.matchmask.prompts import Prompter

LORA, GATE, ABOUT = "pytorch_lora_weights.safetensors", "gate.safetensors", "adapter.json"
MADE_OF = ("layers", "rank", "alpha", "gate", "gate_start", "gate_layers", "reduce")       # the net's own arguments
MEND = "copy or train it again"


def save_adapter(folder: str | Path, net: MatchMaskNet, base: Base, prompter: Prompter, size: tuple[int, int]) -> Path:
    """size: (H, W) of the pictures it was trained on. adapter.json comes last, and names the other two by their sha256."""
    from safetensors.torch import save

    if not net.layers:
        raise UserError("this net has no adapter", folder, "an export of the run holds what it learnt")
    folder = Path(folder)
    settings = net.unet.peft_config["default"].to_dict()
    notes = json.dumps({key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()})
    write_bytes(folder / LORA, save(_tensors(net.lora), {"format": "pt", "lora_adapter_metadata": notes}))
    write_bytes(folder / GATE, save(_tensors(net.gates), {"format": "pt"}))
    about = {key: getattr(net, key) for key in MADE_OF} | {
        "classes": prompter.classes, "words": prompter.words, "free": prompter.free, "size": list(size),
        "base": base.record("unet", "text_encoder", "vae"), "sha256": {name: sha256_of(folder / name) for name in (LORA, GATE)},
    }
    write_json(folder / ABOUT, about)
    return folder


def load_adapter(folder: str | Path, base: Base) -> tuple[MatchMaskNet, dict]:
    """The net on this base, and adapter.json. The base's UNet is taken over."""
    folder = Path(folder)
    about = _read_about(folder / ABOUT)
    base.expect(about["base"])
    for name, sha256 in about["sha256"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != sha256:
            raise UserError(f"it is missing, or not the one {ABOUT} was written for", folder / name, MEND)
    net = MatchMaskNet(base.unet, **{key: about[key] for key in MADE_OF})
    for name, part in ((LORA, net.lora), (GATE, net.gates)):
        _fill(part, folder / name)
    return net, about


def _read_about(path: Path) -> dict:
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        mend = f"give a folder with {LORA} and {ABOUT}"
        raise UserError(f"no adapter can be read ({type(error).__name__})", path, mend) from error
    wanted = {*MADE_OF, "classes", "words", "free", "size", "base", "sha256"}
    if not isinstance(about, dict) or (missing := sorted(wanted - about.keys())) or set(about["sha256"]) != {LORA, GATE}:
        lacking = missing[0] if isinstance(about, dict) and missing else "its files' sha256"
        raise UserError(f"not whole: {lacking} is missing", path, MEND)
    return about


def _fill(part, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot be read ({error})", path, MEND) from error
    own = part.state_dict()
    wrong = sorted({name for name in own.keys() | tensors.keys() if name not in own or name not in tensors
                    or own[name].shape != tensors[name].shape})
    if wrong:
        what = f"{len(wrong)} of its tensors do not fit this base (first: {wrong[0]})"
        raise UserError(what, path, "give the base it was made for")
    part.load_state_dict(tensors)


def _tensors(part) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in part.state_dict().items()}
