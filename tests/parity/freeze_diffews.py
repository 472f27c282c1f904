"""Cuts the small copy that a clone tests with out of a full fixture: python -m tests.parity.freeze_diffews <folder>

Weights are kept as one row of numbers of 24 bits (a relative error of 2**-17), in the order of their names.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from zoo.diffews.net import REFERENCE, random_unet

PLACE = Path(__file__).parent / "diffews"
CASES = ("a1", "e_odd", "mask_a", "pic1")
LEFT_OUT = ("a1.memory", "e_odd.grad")
OTHERS = ("init.", "mi2m.", "text.tokens2")


def main(folder: str) -> None:
    folder = Path(folder)
    about = json.loads((folder / "diffews_cases.json").read_text())
    about["cases"] = {name: facts for name, facts in about["cases"].items() if name in CASES}
    tensors = load_file(folder / "diffews_cases.safetensors")
    starts = (*OTHERS, *(f"{name}." for name in CASES))
    kept = {k: v.numpy() for k, v in tensors.items() if k.startswith(starts) and not k.startswith(LEFT_OUT)}
    kept |= {f"metric.{k}": v.numpy() for k, v in load_file(folder / "diffews_metric.safetensors").items()}
    weights = load_file(folder / "diffews_weights.safetensors")
    row = torch.cat([weights[name].flatten() for name in sorted(weights)]).numpy().view(np.uint32)
    about["metric"] = json.loads((folder / "diffews_metric.json").read_text())
    PLACE.mkdir(exist_ok=True)
    (PLACE / "diffews_frozen.json").write_text(json.dumps(about) + "\n")
    np.savez_compressed(PLACE / "diffews_frozen.npz", weights=(row + 128).view(np.uint8).reshape(-1, 4)[:, 1:], **kept)


def thaw() -> tuple[dict, dict, dict, dict]:
    """Facts, tensors of the cases, weights, tensors of the metric: as the full fixture's files hold them."""
    about = json.loads((PLACE / "diffews_frozen.json").read_text())
    tensors = {k: torch.from_numpy(v) for k, v in np.load(PLACE / "diffews_frozen.npz").items()}
    row = torch.nn.functional.pad(tensors.pop("weights"), (1, 0)).contiguous().view(torch.float32).flatten()
    shapes, weights = _shapes(about), {}
    for name, part in zip(sorted(shapes), row.split([shapes[name].numel() for name in sorted(shapes)])):
        weights[name] = part.view(shapes[name])
    metric = {k.removeprefix("metric."): tensors.pop(k) for k in list(tensors) if k.startswith("metric.")}
    return about, tensors, weights, metric


def _shapes(about: dict) -> dict[str, torch.Size]:
    nets = {"unet.": random_unet(about["unet_config"]), "vae.": AutoencoderKL(**about["vae_config"])}
    shapes = {prefix + name: value.shape for prefix, net in nets.items() for name, value in net.state_dict().items()}
    first, channels, *kernel = shapes["unet.conv_in.weight"]
    weight, bias = (f"unet.{name}" for name in REFERENCE)
    return shapes | {weight: torch.Size((first, 2 * channels, *kernel)), bias: torch.Size((first,))}


if __name__ == "__main__":
    main(sys.argv[1])
