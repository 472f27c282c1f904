"""Does the deformable convolution as tap products beat torchvision's operator? python -m benchmarks.deformable [repeats]

The layers of MaSSFormer-R50 at the picture sides named, batch 1, offsets of about a pixel, forward, and forward + backward.
"""

import sys

import torch
from torchvision.ops import deform_conv2d as torchvision_deform

from benchmarks.common import paired, report
from zoo.massformer.deform import deform_conv2d

LAYERS = [  # name, inputs, outputs, kernel, side of the map
    ("LSE, picture 512", 67, 64, 3, 256),
    ("EGF, picture 512", 64, 64, 3, 256),
    ("RFB 3x3, picture 1024", 128, 32, 3, 128),
    ("RFB 5x5, picture 1024", 128, 32, 5, 128),
    ("RFB 7x7, picture 1024", 128, 32, 7, 128),
    ("CST /32, picture 1024", 128, 128, 3, 32),
    ("CST /16, picture 1024", 128, 128, 3, 64),
]


def layer(name: str, inputs: int, outputs: int, kernel: int, side: int, repeats: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=generator)
    x, offset = draw(1, inputs, side, side), draw(1, 2 * kernel**2, side, side)
    modulation, weight = draw(1, kernel**2, side, side).sigmoid(), draw(outputs, inputs, kernel, kernel)
    leaves = [t.clone().requires_grad_() for t in (x, offset, modulation, weight)]

    def theirs(x, offset, modulation, weight):
        return torchvision_deform(x, offset, weight, padding=kernel // 2, mask=modulation)

    def backward(work):
        return lambda: torch.autograd.grad(work(*leaves).sum(), leaves)

    with torch.no_grad():
        a, b = deform_conv2d(x, offset, modulation, weight), theirs(x, offset, modulation, weight)
        forward = paired({"ours": lambda: deform_conv2d(x, offset, modulation, weight),
                          "torchvision": lambda: theirs(x, offset, modulation, weight)}, repeats)  # fmt: skip
    both = paired({"ours": backward(deform_conv2d), "torchvision": backward(theirs)}, max(1, repeats // 2))
    return {
        "layer": name,
        "Cin->Cout": f"{inputs}->{outputs}",
        "ours s": forward["ours"],
        "torchvision s": forward["torchvision"],
        "ratio": forward["torchvision"] / forward["ours"],
        "ours s, with backward": both["ours"],
        "ratio, with backward": both["torchvision"] / both["ours"],
        "difference": float((a - b).abs().max() / b.abs().max()),
    }


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows = [layer(*shape, repeats) for shape in LAYERS]
    report("deformable", "Deformable convolution: tap products against torchvision", rows, repeats=repeats)


if __name__ == "__main__":
    main()
