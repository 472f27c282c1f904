"""Weights as a graph for other programs: python -m zoo.export weights=<run> out=<file> [format=onnx|torch.export]

The graph takes `image` (1 3 H W, float32, RGB 0..255) and gives `scores` (1 K H W; the label is the largest). H and W are free;
what a method asks of them is printed. torch.export writes a .pt2 file for torch.export.load; ONNX (opset 19) runs in onnxruntime.
The graph is run on a picture of another size and compared with PyTorch before the file is written. It needs memory for all masks
at full size: for large photographs on little memory, python -m zoo.predict is the better way.
"""

import io
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from datamodules.errors import UserError, door
from datamodules.files import atomic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

PLAIN = ("weights", "out")                  # values that may hold anything: taken before Hydra reads the rest
FORMATS = ("onnx", "torch.export")
LEAST = {"onnx": 1, "torch.export": 2}      # units a side: torch.export takes a size of 1 for one that never changes
OPSET = 19                                  # the first with DeformConv
FURTHEST = 1e-3                             # from PyTorch's scores; more is no rounding
CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")
USAGE = "python -m zoo.export weights=<run> out=<file> [format=onnx|torch.export]"


@runtime_checkable
class Exportable(Protocol):
    """A method that can be written as a graph."""

    def exportable(self) -> "nn.Module":
        """1 3 H W, float32 RGB 0..255 -> scores 1 K H W; its `multiple`: of the sides, in torch.export's graph."""


def main(arguments: list[str]) -> None:
    run(*parse(arguments))


def parse(arguments: list[str]) -> tuple[dict[str, str], dict]:
    """{"weights": ..., "out": ...} and the composed config of everything else, checked."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    given = {key: value for key, _, value in (argument.partition("=") for argument in arguments) if key in PLAIN}
    rest = [argument for argument in arguments if argument.partition("=")[0] not in PLAIN]
    for key in PLAIN:
        if not given.get(key):
            raise UserError(f"{key}= is missing", mend=USAGE)
    try:
        with initialize_config_dir(CONFIGS, version_base="1.3"):
            cfg = OmegaConf.to_container(compose("export", rest), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error).splitlines()[0], " ".join(rest), f"{USAGE}, see configs/export.yaml") from error
    if cfg["format"] not in FORMATS:
        raise UserError(f"no format {cfg['format']}", "format", f"choose one of {', '.join(FORMATS)}")
    size = cfg["size"]
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise UserError(f"{size} is no height and width", "size", "e.g. size=[256,512]")
    return given, cfg


def run(given: dict[str, str], cfg: dict) -> Path:
    """Writes the file; returns its path."""
    import torch

    from zoo import hub

    model, out = hub.load(given["weights"]), Path(given["out"])
    if not isinstance(model, Exportable):
        raise UserError(f"{type(model).__name__} cannot be exported as a graph", given["weights"], "use it through zoo.load")
    graph = model.exportable().eval()
    unit = graph.multiple if cfg["format"] == "torch.export" else 1
    height, width = (max(LEAST[cfg["format"]], -(-n // unit)) * unit for n in cfg["size"])
    picture = lambda *size: 255 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    write = {"onnx": to_onnx, "torch.export": to_torch_export}[cfg["format"]]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")                     # of tracing
        data, answer = write(graph, picture(height, width), unit)
        other = picture(height + unit, width + 2 * unit)
        away = (answer(other) - graph(other)).abs().max().item()
    print(f"largest difference from PyTorch's scores at {other.shape[-1]}x{other.shape[-2]}: {away:.1e}")
    if not away <= FURTHEST:
        raise UserError(f"the graph's scores are {away:.1e} off PyTorch's", out, "nothing is written")
    with atomic(out) as file:
        file.write(data)
    free = f"multiples of {unit}, from {LEAST[cfg['format']] * unit} on" if unit > 1 else "any"
    print(f"height and width: {free}; classes: {', '.join(model.classes)}\n-> {out}")
    return out


def to_torch_export(graph: "nn.Module", example: "Tensor", unit: int) -> "tuple[bytes, Callable[[Tensor], Tensor]]":
    """The file's content, and the graph as a function."""
    import torch

    units = {"min": LEAST["torch.export"], "max": 2**16 // unit}
    sides = {axis: unit * torch.export.Dim(name, **units) for axis, name in ((2, "h"), (3, "w"))}
    program = torch.export.export(
        graph, (example,), dynamic_shapes={"image": sides}, prefer_deferred_runtime_asserts_over_guards=True
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue(), program.module()


def to_onnx(graph: "nn.Module", example: "Tensor", unit: int) -> "tuple[bytes, Callable[[Tensor], Tensor]]":
    """The same for ONNX; without onnxruntime there is nothing to compare with, so it is asked for."""
    import torch

    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnx and onnxruntime are not installed", "format=onnx", "pip install onnx onnxruntime") from None
    torch.onnx.register_custom_op_symbolic("torchvision::deform_conv2d", deform_conv, OPSET)
    sides, file = {2: "height", 3: "width"}, io.BytesIO()
    torch.onnx.export(
        graph, (example,), file, dynamo=False, opset_version=OPSET,         # by tracing: the newer way wants onnxscript
        input_names=["image"], output_names=["scores"], dynamic_axes={"image": sides, "scores": sides},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return file.getvalue(), lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def deform_conv(graph, x, weight, offset, mask, bias, *settings):
    """torchvision's operator as ONNX's. settings: stride, padding, dilation (y, x each), groups, offset groups, mask or none."""
    from torch.onnx.symbolic_helper import _get_const

    stride_y, stride_x, top, left, down, right, groups, offset_groups, _ = (_get_const(s, "i", "settings") for s in settings)
    return graph.op(
        "DeformConv", x, weight, offset, bias, mask, strides_i=[stride_y, stride_x], pads_i=[top, left, top, left],
        dilations_i=[down, right], group_i=groups, offset_group_i=offset_groups,
    )  # fmt: skip


if __name__ == "__main__":
    door(lambda: main(sys.argv[1:]))
