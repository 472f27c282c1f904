"""What do the exact rewrites of Mask-Adapter's head save? python -m benchmarks.mask_adapter [masks ...] [repeats=1] [half]

The head of the large model (random weights that matter) on a picture of 896 pixels, 28 x 28 cells: all masks at once in fp32 as
released (plain), and the form used for answers (fast): time, and peak memory above what stands there before. Each form's
memory is measured in a process of its own. On a GPU both are measured there. `half` adds the linear layers in bf16 where it pays.
"""

import json
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import forget_peak, paired, report, resident
from zoo.mask_adapter import fast
from zoo.mask_adapter.layers import shrink
from zoo.mask_adapter.net import AdapterHead

GRID, CELL = 28, 8                       # cells a side; masks come with 8 pixels a cell, as a generator's at stride 4
KINDS = ("objects", "half empty or equal", "large", "everywhere")
COMPARED = 24                            # the first masks are compared cell by cell


def made(kind: str, count: int) -> Tensor:
    """bool N 224 224. objects: ellipses 3 to 11 cells wide; half ...: every other mask is empty or a copy; large: ellipses of 20
    to 40 cells, cut by the border; everywhere: noise, on which nothing can be saved."""
    generator = torch.Generator().manual_seed(0)
    side = GRID * CELL
    if kind == "everywhere":
        return torch.rand(count, side, side, generator=generator) > 0.5
    least, most = (20, 40) if kind == "large" else (3, 11)
    axes = CELL * (least + (most - least) * torch.rand(count, 2, generator=generator)) / 2
    middle = torch.rand(count, 2, generator=generator) * side
    middle = middle.clamp(axes, side - axes) if kind != "large" else middle
    places = torch.arange(side) + 0.5
    y, x = ((places - middle[:, i, None]) / axes[:, i, None] for i in (0, 1))
    masks = y[:, :, None] ** 2 + x[:, None] ** 2 <= 1
    if kind.startswith("half"):
        masks[1::4] = False
        masks[3::4] = masks[0::4][: len(masks[3::4])]
    return masks


def case(kind: str, count: int) -> tuple[AdapterHead, Tensor, Tensor]:
    """Head, CLIP's features and masks, on the GPU where there is one."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    head = AdapterHead(768, 768, 16, 16).eval().to(device)
    for block in head.blocks:
        block.gamma.data.fill_(0.5)                                        # as if trained; they begin with 1e-6
    return head, torch.randn(768, GRID, GRID).to(device), made(kind, count).to(device)


def plain(head: AdapterHead, dense: Tensor, masks: Tensor) -> Tensor:
    return head(dense[None].expand(len(masks), -1, -1, -1), shrink(masks, (4 * GRID, 4 * GRID)))


def forms(head: AdapterHead, dense: Tensor, masks: Tensor) -> dict[str, Callable[[], Tensor]]:
    return {
        "plain": lambda: plain(head, dense, masks),
        "fast": lambda: fast.maps(head, dense, masks)[0],
        "fast, bf16": lambda: fast.maps(head, dense, masks, half=True)[0],
    }


# -- memory ------------------------------------------------------------------------------------------------------------
def memory(kind: str, count: int, form: str) -> int:
    """MiB, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.mask_adapter", "memory", kind, str(count), form]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def peak(kind: str, count: int, form: str) -> int:
    """MiB above what stands there once head and masks are made and the library has warmed up."""
    work = case(kind, count)
    warm = fast.maps if form != "plain" else plain
    warm(work[0], work[1], work[2][:1])
    on_gpu = work[1].is_cuda
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
    before = torch.cuda.memory_allocated() if on_gpu else 1024 * resident("VmRSS")
    forms(*work)[form]()
    after = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resident("VmHWM")
    return (after - before) // 2**20


# -- the table ---------------------------------------------------------------------------------------------------------
def row(kind: str, count: int, repeats: int, half: bool) -> dict:
    work = case(kind, count)
    asked = ["plain", "fast"] + ["fast, bf16"] * half
    seconds = paired({form: forms(*work)[form] for form in asked}, repeats)
    used = {form: memory(kind, count, form) for form in ("plain", "fast")}
    head, dense, masks = work[0], work[1], work[2][:COMPARED]
    maps, which = fast.maps(head, dense, masks)
    found = {
        "masks": f"{count}, {kind}", "plain s": seconds["plain"], "fast s": seconds["fast"],
        "times faster": seconds["plain"] / seconds["fast"], "plain MiB": used["plain"], "fast MiB": used["fast"],
        "times less": used["plain"] / max(used["fast"], 1),
        "difference": float((plain(head, dense, masks) - maps[which]).abs().max()),
    }  # fmt: skip
    return found | ({"bf16 s": seconds["fast, bf16"]} if half else {})


@torch.inference_mode()
def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["memory"]:
        print(peak(arguments[1], int(arguments[2]), arguments[3]))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    repeats = next((int(a.removeprefix("repeats=")) for a in arguments if a.startswith("repeats=")), 1)
    counts = [int(a) for a in arguments if a.isdecimal()] or [100, 250]
    half = "half" in arguments and fast.bf16_pays(device)
    rows = [row(kind, count, repeats, half) for count in counts for kind in KINDS]
    title = f"Mask-Adapter's head at 896 px on {device}"
    report(f"mask_adapter_{device}", title, rows, repeats=repeats, bf16_pays=fast.bf16_pays(device))


if __name__ == "__main__":
    main()
