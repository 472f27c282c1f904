"""Layers of a diffusion UNet: what kind each is, where it stands, and which of them an adapter is put on.

    python -m zoo.matchmask.layers [base=sd14|<folder>] [layers=finest] [rank=32] [gate=picture] [gate_layers=all]

prints the layers that would learn, with their parameters; nothing is loaded but the UNet's settings.

A preset says its layers by the level of the UNet they stand at, level 0 being as fine as the latents, so it means the same for
every base. With rank r a layer gets r (in + out) parameters. On Stable Diffusion v1:

    finest      level 0: queries, keys, values of the text's attentions, time projections      rank 32: 706,560 parameters
    finest_out  the same, and the projections after the attentions                               rank 28: 707,840
    fine_text   levels 0, 1: all four of the text's attentions                                  rank 16: 706,560
    fine_time   levels 0, 1: queries, keys, time projections; the time embedding                rank 16: 701,440
    fine_words  levels 0, 1: keys, values, time projections                                     rank 16: 680,960
    all         all levels: all four of the text's attentions, time projections                rank  5: 738,880
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from datamodules.errors import UserError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

WHOLE, NONE = "whole", "none"            # instead of a preset: every weight learns, or none
QUERY, KEY, VALUE, OUT = (f"attn2.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0"))
TIME, EMBEDDING = "time_emb_proj", ("time_embedding.linear_1", "time_embedding.linear_2")
PRESETS = {                              # levels (None: all), ends of the layers' names
    "finest": (1, (QUERY, KEY, VALUE, TIME)),
    "finest_out": (1, (QUERY, KEY, VALUE, OUT, TIME)),
    "fine_text": (2, (QUERY, KEY, VALUE, OUT)),
    "fine_time": (2, (QUERY, KEY, TIME, *EMBEDDING)),
    "fine_words": (2, (KEY, VALUE, TIME)),
    "all": (None, (QUERY, KEY, VALUE, OUT, TIME)),
}
SD14 = {"sample_size": 64, "cross_attention_dim": 768}                          # the rest are diffusers' defaults
KINDS = ("time_emb_proj", "time_embedding", "attn1", "attn2", "ff", "conv", "norm", "proj", "in/out")


@dataclass(frozen=True)
class Layer:
    """One module with a weight.

    block: "in", "time", "down 0", ..., "mid", ..., "up 3", "out". level: 0 is as fine as the latents. parameters: its own. cost:
    those of an adapter of rank 1; 0 where none can be put.
    """

    name: str
    kind: str
    block: str
    level: int
    parameters: int
    cost: int


def layers_of(unet: UNet2DConditionModel) -> list[Layer]:
    """All layers of a UNet without adapters, from its input to its output."""
    depth = len(unet.config.block_out_channels)
    found = []
    for name, module in unet.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)):
            block, level, place = _place(name, depth)
            own = sum(p.numel() for p in module.parameters(recurse=False))
            found.append((place, Layer(name, _kind(name, module), block, level, own, _cost(module))))
    return [layer for _, layer in sorted(found, key=lambda each: each[0])]                   # stable: within a block as they are


def _place(name: str, depth: int) -> tuple[str, int, int]:
    """Block, level, and a number that grows from input to output."""
    if match := re.match(r"(down|up)_blocks\.(\d+)\.", name):
        way, number = match[1], int(match[2])
        return f"{way} {number}", number if way == "down" else depth - 1 - number, 2 + number + (depth + 1) * (way == "up")
    if name.startswith("mid_block"):
        return "mid", depth - 1, 2 + depth
    if name.startswith("time_embedding"):
        return "time", 0, 1
    return ("in", 0, 0) if name == "conv_in" else ("out", 0, 3 + 2 * depth)


def _kind(name: str, module: nn.Module) -> str:
    if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
        return "norm"
    for kind in ("time_emb_proj", "time_embedding", "attn1", "attn2", "ff"):
        if kind in name.split("."):
            return kind
    if name in ("conv_in", "conv_out"):
        return "in/out"
    return "proj" if name.endswith(("proj_in", "proj_out")) else "conv"


def _cost(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features + module.out_features
    if isinstance(module, nn.Conv2d):                        # rank x in x k x k, then 1 x 1 to out
        return module.weight[0].numel() + module.out_channels
    return 0


# -- which of them learn -----------------------------------------------------------------------------------------------
def choose(unet: UNet2DConditionModel, layers: str | int | list[str], rank: int) -> tuple[list[str], int]:
    """Names of the layers that get an adapter, from input to output, and its rank.

    layers: a preset; "none"; a .json of the gradient probe; names; or a number of parameters, of which as large a rank as they
    suffice for is made on the preset `finest` (`rank` counts for nothing then).
    """
    known = {layer.name: layer for layer in layers_of(unet)}
    if isinstance(layers, int):
        names = _of_preset(known.values(), "finest")
        rank = layers // sum(known[name].cost for name in names)
        if rank < 1:
            raise UserError(f"{layers} parameters do not suffice for rank 1", "layers", "give more, or name single layers")
        return names, rank
    if rank < 1:
        raise UserError(f"rank {rank}", "rank", "give 1 or more")
    if isinstance(layers, str):
        names = _read(layers) if layers.endswith(".json") else [] if layers == NONE else _of_preset(known.values(), layers)
    else:
        names = layers
    for name in names:
        if name not in known or not known[name].cost:
            raise UserError(f"{name!r} is no linear layer or convolution of this UNet", "layers", "a probe of another base?")
    return [name for name in known if name in set(names)], rank


def _of_preset(layers, preset: str) -> list[str]:
    if preset not in PRESETS:
        raise UserError(f"no layers are called {preset!r}", "layers",
                        f"give {', '.join(PRESETS)}, {WHOLE}, {NONE}, a number of parameters or a probe's .json")
    levels, ends = PRESETS[preset]
    chosen = [layer.name for layer in layers if layer.name.endswith(ends) and (levels is None or layer.level < levels)]
    if not any(".attn2." in name for name in chosen):
        raise UserError(f"no text is attended to at the levels of {preset!r}", "layers", "give another preset, or names")
    return chosen


def _read(path: str) -> list[str]:
    try:
        names = json.loads(Path(path).read_text())["layers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"no list of layers can be read ({type(error).__name__})", path,
                        "give the layers.json of python -m zoo.matchmask.probe") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        raise UserError("its `layers` are no list of names", path, "give the layers.json of python -m zoo.matchmask.probe")
    return names


def fill_budget(order: list[Layer], rank: int, budget: int) -> list[str]:
    """Names of the first layers whose adapters are together no larger than `budget`; larger ones on the way are left out."""
    names, left = [], budget
    for layer in order:
        if 0 < layer.cost * rank <= left:
            names.append(layer.name)
            left -= layer.cost * rank
    return names


# -- a table -----------------------------------------------------------------------------------------------------------
def table(unet: UNet2DConditionModel, names: list[str], rank: int, gate: int = 0) -> str:
    """Lines with the layers that learn, their frozen parameters and those that are trained. unet: without adapters; gate: its
    parameters."""
    known = {layer.name: layer for layer in layers_of(unet)}
    width = max(map(len, [*names, "layer"]))
    rows = [f"{'layer':<{width}}  {'block':<6} {'kind':<14} {'frozen':>12} {'trained':>10}"]
    for name in names:
        layer = known[name]
        rows.append(f"{name:<{width}}  {layer.block:<6} {layer.kind:<14} {layer.parameters:>12,} {rank * layer.cost:>10,}")
    trained, whole = rank * sum(known[name].cost for name in names), sum(p.numel() for p in unet.parameters())
    rows += [f"{len(names)} layers, rank {rank}: {trained:,} parameters + gate {gate:,} = {trained + gate:,}, "
             f"{(trained + gate) / whole:.3%} of the UNet's {whole:,}"]
    return "\n".join(rows)


def unet_like(place: str) -> UNet2DConditionModel:
    """A UNet without weights (torch's meta device): "sd14", or as a folder in diffusers' format says."""
    from diffusers import UNet2DConditionModel

    config = dict(SD14)
    if place != "sd14":
        path = Path(place).expanduser() / "unet" / "config.json"
        try:
            config = UNet2DConditionModel.load_config(str(path.parent), local_files_only=True)
        except OSError as error:
            raise UserError("cannot be read", path, "give the folder of a base in diffusers' format") from error
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def main(arguments: list[str]) -> None:
    from zoo.matchmask.net import GATES, gated

    asked = {"base": "sd14", "layers": "finest", "rank": "32", "gate": GATES[0], "gate_layers": "all"}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in asked or not value:
            raise UserError(f"{argument!r} is not understood", "layers", f"its keys are {', '.join(asked)}")
        asked[key] = value
    if not asked["rank"].isdecimal():
        raise UserError(f"rank {asked['rank']}", "layers", "give a whole number")
    if asked["layers"] == WHOLE:
        raise UserError("all of the UNet learns then, and no adapter", "layers=whole", "give a preset")
    unet = unet_like(asked["base"])
    layers = int(asked["layers"]) if asked["layers"].isdecimal() else asked["layers"]
    names, rank = choose(unet, layers, int(asked["rank"]))
    gates = gated(unet, asked["gate"], asked["gate_layers"], names)
    print(table(unet, names, rank, sum(p.numel() for gate in gates.values() for p in gate.parameters())))


if __name__ == "__main__":
    from datamodules.errors import door

    door(lambda: main(sys.argv[1:]))
