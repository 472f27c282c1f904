"""The end of an AlignDiff run: the bank as files, a sheet of what was painted, and how the masks agree with the oracle's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from datamodules.errors import UserError
from datamodules.files import write_json
from zoo.aligndiff.bank import save_bank
from zoo.aligndiff.making import Result, SetMaking
from zoo.visualize import enlarged, panel, save_png, stack, to_picture

if TYPE_CHECKING:
    from zoo.aligndiff.module import AlignDiff

BANK, SHEET, RESULTS = "bank", "sheet.png", "masks.json"
SETS = 24                                # of which pictures are painted
SHOWN = 2                                # of each kind on the sheet
COARSE_ONLY = {"_target_": "zoo.aligndiff.segmenter.FewShotSettings", "_recursive_": False}


def close(model: AlignDiff, data, folder: Path) -> list[str]:
    """Writes into `folder`; returns what is to be said."""
    if model._trainer is not None:
        model.to(model.trainer.strategy.root_device)         # a finished training leaves it on the CPU
    model.eval()
    model.take_classes(data.classes, data.palette, "closing")
    lines = [keep_bank(model, folder / BANK)] if model.known else []
    if not model.shown:
        return lines
    settings = {"k": model.shown, "seed": 0, "share": 0.5, "batch": 16, "out": None, "painted": None,
                "fss": model.recipe["model"].get("fss") or COARSE_ONLY}
    making = SetMaking(model, data, model.sets_of(data)[:SETS], settings)
    results = []
    with torch.inference_mode():
        for one in tqdm(making.sets, "painted", unit=" classes", mininterval=2, leave=False):
            try:
                results.append(making.result(one))
            except UserError as error:
                lines.append(f"{one.word}: {error}")
    if not results:
        return lines
    save_png(folder / SHEET, stack([row(model, data, result) for result in results]))
    rows = [{"word": result.examples.word, "filter": result.figures(place)}
            for result in results for place in range(len(result.paintings))]
    figures = making.summary(rows)
    known = {name: {key: value if value == value else None for key, value in each.items()} for name, each in figures.items()}
    judge = str(making.oracle) if making.oracle else "nobody judges photographs here"
    aligned = f"f is {making.matcher.name}" if making.matcher else "masks are coarse"
    write_json(folder / RESULTS, {"results": known, "source": {"data": data.name, "judge": judge, "fss": making.fss.about()}})
    return [f"{data.name}: {len(rows)} pictures of {len(results)} sets, {aligned}, %", *said(figures), judge, *lines,
            f"sheet: {folder / SHEET}", f"figures: {folder / RESULTS}"]


def keep_bank(model: AlignDiff, folder: Path) -> str:
    about = {key: getattr(model, key) for key in ("template", "placement", "masking", "bg_lambda", "start")}
    if model._trainer is not None:
        about |= {"steps": model.trainer.global_step, "seed": model.trainer.datamodule.seed}
    save_bank(folder, model.instances, list(model.bank), [prompt.text for prompt in model.prompts], model.base, about)
    return f"bank: {folder} ({len(model.instances)} pairs)"


def said(figures: dict[str, dict[str, float]]) -> list[str]:
    """A table: a line for each kind of picture, a column for each figure that there is of all."""
    columns = [key for key in next(iter(figures.values())) if "from" not in key]
    widths = [max(6, len(key)) for key in columns]
    lines = ["  ".join([f"  {'':<24}", *(f"{key:>{width}}" for key, width in zip(columns, widths))])]
    for name, values in figures.items():
        cells = (values.get(key, float("nan")) for key in columns)
        texts = (f"{100 * value:.1f}" if value == value else "-" for value in cells)
        lines.append("  ".join([f"  {name:<24}", *(f"{text:>{width}}" for text, width in zip(texts, widths))]))
    return lines


def row(model: AlignDiff, data, result: Result) -> np.ndarray:
    """A real pair, then some pictures by plain text and by a learnt word, with their masks."""
    from zoo.aligndiff.module import dark

    shown = {}
    for picture, mask in model.real_pairs(data, result.examples)[:1]:        # none, where no example can be used
        shown = {f"{result.examples.word}: real": to_picture(picture), "its mask": dark(to_picture(picture), mask)}
    masks = result.masks()
    for learnt, title in ((False, "text"), (True, "learnt")):
        places = [place for place, painting in enumerate(result.paintings) if painting.learnt == learnt][:SHOWN]
        for count, place in enumerate(places, 1):
            painted = to_picture(result.paintings[place].picture)
            shown |= {f"{title} {count}": painted, f"coarse {title} {count}": dark(painted, result.paintings[place].coarse)}
            if result.aligned:
                shown[f"aligned {title} {count}"] = dark(painted, masks[place])
    return panel([enlarged(one) for one in shown.values()], list(shown), 128)
