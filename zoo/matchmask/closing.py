"""The end of a MatchMask run: the adapter as a folder, a sheet of paintings, and how these follow their label maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.pytorch import Trainer

from datamodules.files import write_json
from zoo.base import Pair
from zoo.matchmask.adapter import save_adapter
from zoo.matchmask.filter import Readings, Relative
from zoo.matchmask.layers import NONE, WHOLE
from zoo.matchmask.lessons import squeezed
from zoo.matchmask.masks import resized
from zoo.matchmask.module import pair_of
from zoo.matchmask.net import OFF, MatchMaskNet
from zoo.matchmask.paint import Job, Painter, grouped
from zoo.metrics import count_pairs
from zoo.tiny.base import open_base
from zoo.visualize import PAPER, colourise, enlarged, panel, save_png, stack, to_picture

if TYPE_CHECKING:
    from zoo.matchmask.module import MatchMask

ADAPTER, SHEET, RESULTS = "adapter", "sheet.png", "agreement.json"
OURS, RECTIFIED, WORDS, FULL, REAL = "adapter", "base, rectified", "base, words alone", "whole UNet", "real pictures"
SHEET_MAPS, SHEET_K, K = 4, 5, 2         # label maps and pictures of each on the sheet; pictures of each that are judged
BATCH = 10                               # pictures painted at once
MAX_SIDE = 256                           # of the sheet's pictures
Paint = Callable[[list[Job]], list[Pair]]


def close(model: MatchMask, data, folder: Path) -> list[str]:
    """Writes into `folder`; returns what is to be said."""
    if model._trainer is not None:
        model.to(model.trainer.strategy.root_device)         # a finished training leaves it on the CPU
    model.eval()
    lines = []
    if model.net.layers:
        place = save_adapter(folder / ADAPTER, model.net, model.base, model.prompter, model.size)
        size = sum(file.stat().st_size for file in place.iterdir())
        lines.append(f"adapter: {place} ({size / 1e6:.1f} MB)")
    save_png(folder / SHEET, sheet(model, data.source("val")))
    lines.append(f"sheet: {folder / SHEET}")
    if not model.judged:
        return [*lines, f"nobody judges how the pictures follow their label maps: {model.judge.absence()}"]
    results = {name: figures(model, paint, data) for name, paint in painters(model, data).items()}
    results[REAL] = {"mIoU": agreement(model, real_pairs(model, data))["mIoU"]}
    known = {row: {key: value if value == value else None for key, value in values.items()} for row, values in results.items()}
    write_json(folder / RESULTS, {"results": known, "source": {"data": data.name, "judge": model.judge.said}})
    return [*said(results, data.name), model.judge.said, *lines, f"figures: {folder / RESULTS}"]


# -- who paints --------------------------------------------------------------------------------------------------------
def painters(model: MatchMask, data) -> dict[str, Paint]:
    """The run's own way, the base's without the adapter, and if it is wanted a fully tuned UNet's."""
    base = open_base(model.place).to(model.device)
    bare = MatchMaskNet(base.unet, layers=NONE, gate=OFF, reduce=model.net.reduce)

    def plain(rectify: bool) -> Paint:
        painter = Painter(base, bare, model.prompter, model.size, **model.painting | {"rectify": rectify})
        return lambda jobs: [pair_of(painted) for painted in painter.paint(jobs)]

    found: dict[str, Paint] = {OURS: model.paint, RECTIFIED: plain(True), WORDS: plain(False)}
    if model.full_tuning is not None and model._trainer is not None and model.trainer.global_step:       # at the end of a run
        found[FULL] = fully_tuned(model, data).to(model.device).eval().paint
    return found


def fully_tuned(model: MatchMask, data) -> MatchMask:
    """All of the base's UNet, trained on the same samples for as many steps."""
    from zoo import hub

    optimisation = {"_target_": "zoo.optim.Optimisation", "lr": model.full_tuning}
    changes = {"net": {"layers": WHOLE}, "optimisation": optimisation, "full_tuning": None}
    other = hub.build(hub.merged(model.recipe["model"], changes), model.classes, model.palette, model.ignore)
    other.check_data(data)
    old = model.trainer
    trainer = Trainer(
        accelerator="auto" if model.device.type != "cpu" else "cpu", devices=1, precision=old.precision, max_steps=old.max_steps,
        accumulate_grad_batches=old.accumulate_grad_batches, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    torch.manual_seed(data.seed)
    wrap, data.wrap = data.wrap, other.wrap
    trainer.fit(other, data)
    data.wrap = wrap
    return other


# -- how they follow ---------------------------------------------------------------------------------------------------
def figures(model: MatchMask, paint: Paint, data) -> dict[str, float]:
    """Agreement on label maps of validation, and on those it was trained with; how different the pictures of a map are."""
    val, train = (agreement(model, painted(model, paint, data.source(split))) for split in ("val", "train"))
    return {"mIoU": val["mIoU"], "aAcc": val["aAcc"], "mIoU_train": train["mIoU"], "difference": val["difference"]}


def painted(model: MatchMask, paint: Paint, source) -> list[Pair]:
    """K pictures of each of the first maps."""
    scenes = (source.read(index) for index in range(min(model.judge.maps, len(source))))
    jobs = (Job(scene["name"], scene["labels"], list(range(K))) for scene in scenes)
    return [pair for group in grouped(jobs, BATCH) for pair in paint(group)]


def real_pairs(model: MatchMask, data) -> list[Pair]:
    """Validation scenes themselves: what the judge can do at best."""
    source = data.source("val")
    scenes = (source.read(index) for index in range(min(model.judge.maps, len(source))))
    return [Pair(scene["name"], 0, squeezed(scene["image"], model.size), resized(scene["labels"], model.size), 0, "")
            for scene in scenes]


def agreement(model: MatchMask, pairs: list[Pair]) -> dict[str, float]:
    """mIoU and aAcc between what the judge sees and the labels, as `SceneMetrics` counts them, in this process alone; difference:
    mean distance of the colours, 0..1, at the same place of two pictures of a map (NaN without two)."""
    classes = len(model.classes)
    counts = torch.zeros(classes + 1, classes, dtype=torch.int64)
    for pair in pairs:
        counts += count_pairs(model.seen(pair.picture[None])[0].cpu(), pair.labels, classes, model.ignore)
    right, true, predicted = counts[:-1].diagonal().double(), counts[:-1].sum(1), counts[:-1].sum(0)
    apart = [(a.picture.float() - b.picture.float()).abs().mean().item() / 255
             for a, b in zip(pairs, pairs[1:]) if a.source == b.source]
    return {"mIoU": (right / (true + predicted - right)).nanmean().item(), "aAcc": (right.sum() / true.sum()).item(),
            "difference": float(np.mean(apart)) if apart else float("nan")}


def said(results: dict[str, dict[str, float]], name: str) -> list[str]:
    titles = {"mIoU": "mIoU", "aAcc": "pixels", "mIoU_train": "mIoU, maps it learnt from", "difference": "two of a map differ by"}
    lines = [f"{name} val: what the judge sees in painted pictures against their label maps, %"]
    for row, values in results.items():
        lines.append(f"  {row:<18} " + "   ".join(f"{titles[key]} {100 * value:5.1f}" for key, value in values.items()))
    return lines


# -- the sheet ---------------------------------------------------------------------------------------------------------
def sheet(model: MatchMask, source) -> np.ndarray:
    """A few label maps of validation with their pictures; below, what the relative filter would keep if it asked the judge."""
    indices = sorted({round(i * (len(source) - 1) / max(1, SHEET_MAPS - 1)) for i in range(SHEET_MAPS)})
    scenes = (source.read(index) for index in indices)
    jobs = [Job(scene["name"], scene["labels"], list(range(SHEET_K))) for scene in scenes]
    pictures = []
    for job in jobs:
        pairs = model.paint([job])
        labels, kept = pairs[0].labels, None
        if model.judged:
            seen = model.seen(torch.stack([pair.picture for pair in pairs])).to(labels)
            kept = Relative()(labels, Readings(seen, seen, seen), model.ignore)
        pictures += rows(model, pairs, kept)
    return stack(pictures)


def rows(model: MatchMask, pairs: list[Pair], kept: torch.Tensor | None) -> list[np.ndarray]:
    """A label map with its pictures; below, what is kept of it for each (white: dropped)."""

    def shown(labels: torch.Tensor) -> np.ndarray:
        picture = colourise(labels.numpy(), model.palette, model.ignore)
        picture[labels.numpy() == model.ignore] = PAPER
        return enlarged(picture)

    captions = ["label map", *(f"painted {pair.number}" for pair in pairs)]
    found = [panel([shown(pairs[0].labels), *(enlarged(to_picture(pair.picture)) for pair in pairs)], captions, MAX_SIDE)]
    if kept is not None:
        captions = ["", *(f"kept {pair.number}" for pair in pairs)]
        found.append(panel([shown(pairs[0].labels), *map(shown, kept)], captions, MAX_SIDE))
    return found

