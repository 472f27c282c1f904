"""Time and memory of MaSSFormer beside the authors' way and transformers' Mask2Former-R50, random weights, batch 1 (training: 2).

    python -m benchmarks.massformer [sizes=1024x1024,2048x1536,4096x3072] [crops=512,1024] [models=r50,r18] [repeats=3]
                                    [ways=ours,authors,mask2former] [out=massformer]

- ours: what `predict` does, picture -> label map; and a training step (forward, losses, backward; no optimiser).
- authors: the same weights run as the released code runs them: torchvision's deform_conv2d, norms of their own, the edge map, all
  seven predictions as full mask logits, attention with its weights formed, sigmoids at the picture's size.
- mask2former: transformers' net with a ResNet-50, its masks brought to the picture's size as its paper does. Inference only.
Each figure is from a process of its own, run in turn (A B C A B C ...), after one warm-up; medians are taken. GiB is the peak of
the process's resident memory above what stood there with the weights loaded (Linux), on a GPU torch's peak above the weights.
CPU s are seconds of all threads together: on a crowded machine they are the fairer figure. bf16 is measured on GPUs and on
processors with bf16 instructions; on others it is emulated and slower by far. sizes=none or crops=none leaves a part out.
"""

import multiprocessing
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import forget_peak, report, resident
from datamodules.errors import UserError, door

CLASSES, BATCH = 7, 2
ENCODERS = {"r50": {"encoder": "resnet50", "width": 128, "hidden": 2048},
            "r18": {"encoder": "resnet18", "width": 64, "hidden": 1024}}  # fmt: skip
DEFAULTS = {"sizes": "1024x1024,2048x1536,4096x3072", "crops": "512,1024", "models": "r50,r18", "repeats": "3",
            "ways": "ours,authors,mask2former", "out": "massformer"}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One thing to measure. model: of ENCODERS; task: predict or train."""

    way: str
    model: str
    task: str
    width: int
    height: int
    precision: str


# -- the authors' way --------------------------------------------------------------------------------------------------
def use_torchvisions_operator() -> None:
    """From here on this process's deformable layers run as the released ones do."""
    from torchvision.ops import deform_conv2d

    from zoo.massformer import layers

    layers.deform_conv2d = lambda x, offset, modulation, weight: deform_conv2d(
        x.float(), offset.float(), weight.float(), padding=weight.shape[-1] // 2, mask=modulation.float()
    )                                                                                   # the operator knows no bf16


def authors_predictions(net, image: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Class logits, mask logits (H/4, the last H/2) and edge logits, each layer's masks formed in full."""
    from zoo.massformer.layers import resize, sine_position

    features, edge, memories = net.pixels(image, net.encoder(image), edge=True)
    half = resize(features, [n // 2 for n in features.shape[-2:]])
    decoder = net.decoder
    tokens = [m.flatten(2).transpose(1, 2) + level for m, level in zip(memories, decoder.level.weight)]
    positions = [sine_position(*m.shape[-2:], m.shape[1], m.device).flatten(1).T for m in memories]
    q = decoder.query.weight.expand(len(image), -1, -1)
    position, logits, masks = decoder.query_position.weight, [], []

    def predict(features: Tensor) -> None:
        n = decoder.norm(q)
        logits.append(decoder.to_class(n))
        masks.append(torch.einsum("bqc,bchw->bqhw", decoder.to_mask(n), features))

    for i, layer in enumerate(decoder.layers):
        predict(half)
        level = i % 3
        blocked = (resize(masks[-1].detach(), memories[level].shape[-2:]).sigmoid() < 0.5).flatten(2)
        blocked &= ~blocked.all(-1, keepdim=True)
        blocked = blocked.repeat_interleave(layer.cross.heads, 0)
        q = layer.norms[0](q + formed(layer.cross, q + position, tokens[level] + positions[level], tokens[level], blocked))
        q = layer.norms[1](q + formed(layer.self_, q + position, q + position, q, None))
        q = layer.norms[2](q + layer.ffn(q))
    predict(features)
    return logits, masks, edge


def formed(attention, q: Tensor, k: Tensor, v: Tensor, blocked: Tensor | None) -> Tensor:
    """nn.MultiheadAttention as it is called there: with its weights."""
    mixed, _ = F.multi_head_attention_forward(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), q.shape[-1], attention.heads,
        attention.in_proj.weight, attention.in_proj.bias, None, None, False, 0.0,
        attention.out_proj.weight, attention.out_proj.bias, need_weights=True, attn_mask=blocked,
    )  # fmt: skip
    return mixed.transpose(0, 1)


def authors_scores(net, image: Tensor) -> Tensor:
    """1 K H W, at the size of a picture whose sides are multiples of 256."""
    logits, masks, _ = authors_predictions(net, image)
    masks = F.interpolate(masks[-1], image.shape[-2:], mode="bilinear").sigmoid()
    return torch.einsum("bqk,bqhw->bkhw", logits[-1].softmax(-1)[..., :-1], masks)


def authors_losses(net, criterion, image: Tensor, labels: Tensor) -> Tensor:
    """Our losses (so both learn the same) from mask logits that exist in full for all queries of all layers."""
    from zoo.massformer.loss import Target, edge_loss, edge_weight

    logits, masks, edge = authors_predictions(net, image)
    targets = [Target.of(one, 255) for one in labels]
    weights, extent = [edge_weight(t.masks) for t in targets], torch.ones(2, device=image.device)
    count = sum(len(t.classes) for t in targets)
    queries, total = torch.eye(logits[0].shape[1], device=image.device), criterion.edge * edge_loss(edge, labels, 255)
    for said, mask in zip(logits, masks):
        pairs = [criterion.match(said[b], queries, mask[b].detach(), t, extent) for b, t in enumerate(targets)]
        total = total + criterion.cls * criterion.class_loss(said, targets, pairs)
        for b, (target, (chosen, of)) in enumerate(zip(targets, pairs)):
            x = mask[b, chosen].float()
            points = criterion.choose(x, target, of, weights[b], extent)
            one_mask, one_dice = criterion.point_losses(x, points, target, of, weights[b], extent)
            total = total + (criterion.mask * one_mask + criterion.dice * one_dice) / count
    return total


# -- one measurement ---------------------------------------------------------------------------------------------------
def make_net(model: str):
    """Offsets of about a pixel, mask logits of either sign, everything else as at the start of a training."""
    from zoo.massformer.layers import Deformable
    from zoo.massformer.net import MaSSFormerNet

    torch.manual_seed(0)
    net = MaSSFormerNet(CLASSES, **ENCODERS[model])
    for module in net.modules():
        if isinstance(module, Deformable):
            torch.nn.init.normal_(module.offset.weight, std=0.02)
            torch.nn.init.normal_(module.offset.bias, std=0.5)
    return net


def work_of(work: Work, device: str):
    """The thing to be timed, with its weights loaded."""
    torch.manual_seed(1)
    image = torch.randn(1 if work.task == "predict" else BATCH, 3, work.height, work.width, device=device)
    if work.way == "mask2former":
        from zoo.mask2former.net import Mask2FormerNet

        whole = Mask2FormerNet(CLASSES, encoder="resnet").whole.to(device).eval()

        def ask():
            out = whole(pixel_values=image)
            masks = F.interpolate(out.masks_queries_logits, image.shape[-2:], mode="bilinear").sigmoid()
            classes = out.class_queries_logits.softmax(-1)[..., :-1]
            return torch.einsum("bqk,bqhw->bkhw", classes, masks).argmax(1)

        return torch.inference_mode()(ask)
    net = make_net(work.model).to(device).train(work.task == "train")
    if work.way == "authors":
        use_torchvisions_operator()
    return torch.inference_mode()(predicting(work.way, net, image)) if work.task == "predict" else training(work.way, net, image)


def predicting(way: str, net, image: Tensor):
    from zoo.inference import to_labels
    from zoo.massformer.fast import score_bands

    if way == "authors":
        return lambda: authors_scores(net, image).argmax(1)
    return lambda: torch.cat([to_labels(scores) for scores in score_bands(net, image, 256)])


def training(way: str, net, image: Tensor):
    from zoo.massformer.loss import Criterion, Target

    criterion = Criterion()
    cells = torch.randint(0, CLASSES, (len(image), 4, 4), device=image.device)
    labels = cells.repeat_interleave(image.shape[-2] // 4, 1).repeat_interleave(image.shape[-1] // 4, 2)

    def ours() -> Tensor:
        targets = [Target.of(one, 255) for one in labels]
        losses = criterion(net(image, auxiliary=True), targets, labels, 255, sum(len(t.classes) for t in targets))
        return sum(losses.values())

    def step() -> None:
        (ours() if way == "ours" else authors_losses(net, criterion, image, labels)).backward()
        net.zero_grad()

    return step


def measure(work: Work, device: str, threads: int) -> tuple[float, float, float]:
    """Seconds, CPU seconds and GiB above the weights."""
    torch.set_num_threads(threads)
    run = work_of(work, device)
    with torch.autocast(device, torch.bfloat16, enabled=work.precision == "bf16"):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            torch.cuda.synchronize()
            peak = (torch.cuda.max_memory_allocated() - before) / 2**30
        else:
            forget_peak()
            before = resident("VmRSS")
            run()
            peak = (resident("VmHWM") - before) / 2**20
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - wall, time.process_time() - cpu, peak


def difference(model: str, device: str) -> float:
    """Largest difference of the scores of ours and the authors' way at 512x512."""
    from zoo.massformer.fast import score_bands

    net, image = make_net(model).to(device).eval(), torch.randn(1, 3, 512, 512, device=device)
    with torch.inference_mode():
        ours = torch.cat(list(score_bands(net, image, 256)), 1)
        use_torchvisions_operator()
        return (ours - authors_scores(net, image)[0]).abs().max().item()


def alone(function, *arguments):
    """The function's answer from a process of its own; None where that was killed (for memory)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            return None


# -- the table ---------------------------------------------------------------------------------------------------------
def rows_of(works: list[Work], device: str, repeats: int) -> list[dict]:
    """A row each way of one task, model, size and precision, run in turn."""
    threads, found = torch.get_num_threads(), {work: [] for work in works}
    for repeat in range(repeats):
        for work in works:
            figures = alone(measure, work, device, threads)
            if figures:
                found[work].append(figures)
            said = "{:.2f} s, {:.2f} CPU s, {:.2f} GiB".format(*figures) if figures else "killed; too little memory?"
            what = f"{work.task} {work.model} {work.width}x{work.height} {work.precision}, {work.way}"
            print(f"  {what} [{repeat + 1}/{repeats}]: {said}", flush=True)
    medians = {work: [statistics.median(column) for column in zip(*rows)] for work, rows in found.items() if rows}
    ours = next((figures for work, figures in medians.items() if work.way == "ours"), None)
    return [
        {"task": work.task, "model": "r50" if work.way == "mask2former" else work.model, "size": f"{work.width}x{work.height}",
         "precision": work.precision, "way": work.way, "s": wall, "CPU s": cpu, "GiB": gib,
         "times ours": wall / ours[0] if ours else "-", "times ours, CPU": cpu / ours[1] if ours else "-"}
        for work, (wall, cpu, gib) in medians.items()
    ]  # fmt: skip


def read(arguments: list[str]) -> dict[str, list[str]]:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if strange := sorted(set(given) - set(DEFAULTS)):
        raise UserError(f"no argument is called {strange[0]}", " ".join(arguments), f"there are {', '.join(DEFAULTS)}")
    settings = {key: value.split(",") for key, value in (DEFAULTS | given).items()}
    settings |= {key: [] for key in ("sizes", "crops") if settings[key] == ["none"]}
    for key, shape in {"sizes": r"[1-9]\d*x[1-9]\d*", "crops": r"[1-9]\d*"}.items():
        if not all(re.fullmatch(shape, side) and all(int(n) % 256 == 0 for n in side.split("x")) for side in settings[key]):
            raise UserError("the authors' way needs multiples of 256", f"{key}={given[key]}", f"e.g. {key}={DEFAULTS[key]}")
    for key, known in {"models": set(ENCODERS), "ways": set(DEFAULTS["ways"].split(","))}.items():
        if strange := [value for value in settings[key] if value not in known]:
            raise UserError(f"{strange[0]} is not known", f"{key}={given[key]}", f"choose of {', '.join(sorted(known))}")
    if len(settings["repeats"]) != 1 or not settings["repeats"][0].isdigit() or settings["repeats"] == ["0"]:
        raise UserError("repeats must be a whole number, at least 1", f"repeats={given['repeats']}", "e.g. repeats=3")
    if len(settings["out"]) != 1 or not settings["out"][0]:
        raise UserError("one name is needed", f"out={given['out']}", "e.g. out=massformer")
    return settings


def precisions(device: str) -> list[str]:
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return ["fp32", "bf16"] if device == "cuda" or "avx512_bf16" in cpu or "amx_bf16" in cpu else ["fp32"]


def main(arguments: list[str]) -> None:
    settings = read(arguments)
    device, rows = "cuda" if torch.cuda.is_available() else "cpu", []
    repeats = int(settings["repeats"][0])
    tasks = [("predict", *map(int, size.split("x"))) for size in settings["sizes"]]
    tasks += [("train", int(crop), int(crop)) for crop in settings["crops"]]
    differences = {model: alone(difference, model, device) for model in settings["models"]}
    for task, width, height in tasks:
        for precision in precisions(device):
            for model in settings["models"]:
                ways = [way for way in settings["ways"] if way != "mask2former" or (task == "predict" and model == "r50")]
                rows += rows_of([Work(way, model, task, width, height, precision) for way in ways], device, repeats)
    title = f"MaSSFormer, {device}, batch 1 (training {BATCH}), median of {repeats}"
    report(f"{settings['out'][0]}_{device}", title, rows, settings=settings, largest_difference_of_scores=differences)


if __name__ == "__main__":
    door(lambda: main(sys.argv[1:]))
