"""Parameters and multiply-adds: python -m zoo.massformer.cost [massformer_r50] [4096x3072] [7]

Arguments: a model preset of configs/model, width x height of the picture, number of classes. Nothing is computed: the net
runs on torch's meta device. One multiply-add is 1. Counted: convolutions, linear layers, attention, mask and class products;
not counted: norms, activations, resizing, the sampling at the deformable taps.
"""

import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from datamodules.errors import UserError, door
from zoo.massformer.layers import Deformable
from zoo.massformer.net import MaSSFormerNet

PARTS = {"encoder": "encoder", "pixel decoder": "pixels", "transformer decoder": "decoder"}


def count(net: MaSSFormerNet, width: int, height: int) -> dict[str, float]:
    """Multiply-adds by part, for one picture to its label map; `taps` are the tap products, counted apart."""
    net = net.to("meta").eval().requires_grad_(False)
    taps = []

    def hook(module: Deformable, inputs: tuple, output: torch.Tensor) -> None:
        taps.append(module.weight.numel() * output[:, 0].numel())

    for module in net.modules():
        if isinstance(module, Deformable):
            module.register_forward_hook(hook)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        out = net(torch.empty(1, 3, height, width, device="meta"))
        before = counter.get_total_flops()
        net.semantic_rows(out, 0, height)
    total = counter.get_total_flops()
    found = {title: sum(counter.flop_counts.get(f"MaSSFormerNet.{part}", {}).values()) / 2 for title, part in PARTS.items()}
    found["pixel decoder"] -= sum(taps)
    return found | {"last masks and classes": (total - before) / 2, "deformable taps": float(sum(taps)), "sum": total / 2}


def main(arguments: list[str]) -> None:
    from pathlib import Path

    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    model, size, classes = (arguments + ["massformer_r50", "4096x3072", "7"][len(arguments) :])[:3]
    try:
        width, height = map(int, size.split("x"))
        classes = int(classes)
    except ValueError:
        raise UserError(f"{size} and {classes}", "cost", "python -m zoo.massformer.cost massformer_r50 4096x3072 7") from None
    with initialize_config_dir(str(Path(__file__).parents[2] / "configs"), version_base="1.3"):
        cfg = compose("train", [f"model={model}"]).model
    cfg.net.encoder_weights = None
    net = instantiate(cfg.net, _convert_="all")(classes=classes)
    parameters = {title: sum(p.numel() for p in getattr(net, part).parameters()) for title, part in PARTS.items()}
    costs = count(net, width, height)
    print(f"{model}, {classes} classes, picture {width}x{height}")
    for title, cost in costs.items():
        number = f"{parameters[title]:>12,} parameters" if title in parameters else " " * 23
        print(f"  {title:<24}{number} {cost / 1e9:>9.1f} G multiply-adds")
    without = costs["sum"] - costs["deformable taps"]
    print(f"  {'sum without taps':<24}{sum(parameters.values()):>12,} parameters {without / 1e9:>9.1f} G multiply-adds")


if __name__ == "__main__":
    door(lambda: main(sys.argv[1:]))
