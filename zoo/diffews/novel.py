"""Figures on the classes of the test split, which training has not seen, beside what is had without any training.

all foreground    every pixel is the object
prototypes        each cell of the query is what it is more like (cosine): the mean feature of the supports' objects, or that of
                  the rest; features of an up block of the base's UNet before fine-tuning, at time 1 with the empty prompt. Which
                  block, the validation classes decide, on which neither method was trained
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from datamodules.files import write_json
from zoo.diffews.bases import Start, open_base
from zoo.diffews.episodes import moments_of
from zoo.diffews.net import TIME
from zoo.diffews.show import pictures_of
from zoo.diffusion.latents import mean
from zoo.metrics import EpisodeIoU
from zoo.nn.prototypes import prototypes, similarity
from zoo.visualize import panel, save_png, stack

OURS, ALL, PROTOTYPES = "DiffewS", "all foreground", "prototypes"
RESULTS, SHEET = "novel.json", "novel.png"
ROWS = 8                                                     # of the sheet
TOKENS = 2                                                   # of the empty prompt: its start and its end


class Matcher:
    """Segments a query by the supports' mean features."""

    def __init__(self, base: Start, device: torch.device):
        self.vae, self.unet, self.text, self.device = base.vae.to(device), base.unet.to(device), base.text.to(device), device

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> list[Tensor]:
        """N C h w of each up block, for uint8 N 3 H W."""
        latents = mean(moments_of(self.vae, pictures), self.vae.config.scaling_factor)
        found: list[Tensor] = []
        hooks = [block.register_forward_hook(lambda _, given, out: found.append(out)) for block in self.unet.up_blocks]
        try:
            self.unet(latents, TIME, self.text[:TOKENS].expand(len(latents), -1, -1))
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def masks(self, episode: dict) -> list[Tensor]:
        """uint8 h w of the query, by each block's features."""
        pictures = torch.cat([episode["query"][None], episode["supports"]]).to(self.device)
        shots = episode["support_masks"].to(self.device)
        return [self.match(found[:1], found[1:], shots, tuple(episode["query_mask"].shape)) for found in self.features(pictures)]

    @staticmethod
    def match(query: Tensor, supports: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
        """query: 1 C h w; supports: S C h w; masks: S H W."""
        thing, rest = prototypes(supports, masks)
        alike = similarity(query, torch.stack([rest, thing]))
        return F.interpolate(alike, size, mode="bilinear", align_corners=False)[0].argmax(0).to(torch.uint8)


def judge(model, data, folder: Path) -> list[str]:
    """Writes novel.json and novel.png into `folder`; returns what is to be said."""
    device = model.trainer.strategy.root_device
    model.to(device).eval()
    matcher = Matcher(open_base(model.base, "base"), device)
    block = best_block(matcher, data)
    source = data.source("test")
    sums = {name: EpisodeIoU(data.classes, data.class_ids("test"), alone=True).to(device) for name in (OURS, ALL, PROTOTYPES)}
    drawn = {round(i * (len(source) - 1) / max(1, ROWS - 1)) for i in range(ROWS)}
    rows = []
    for number in tqdm(range(len(source)), f"{data.name} test", unit=" episodes", mininterval=2):
        episode = source.read(number)
        found = masks_of(model, matcher, block, episode)
        for name, mask in found.items():
            sums[name].update(mask, episode["query_mask"].to(device), episode["class_id"])
        if number in drawn:
            shown = pictures_of(episode, {"prediction": found[OURS], PROTOTYPES: found[PROTOTYPES]})
            rows.append(panel(list(shown.values()), [f"{episode['word']}: query", *list(shown)[1:]]))
    results = {name: {key: float(value) for key, value in each.compute().items()} for name, each in sums.items()}
    about = {"data": data.name, "split": "test", "episodes": len(source), "up_block": block}
    write_json(folder / RESULTS, {"results": results, "source": about})
    save_png(folder / SHEET, stack(rows))
    return said(results, data, about) + [f"sheet: {folder / SHEET}", f"figures: {folder / RESULTS}"]


def best_block(matcher: Matcher, data) -> int:
    """The number of the up block that matches best on the validation classes."""
    source = data.source("val")
    sums = [EpisodeIoU(data.classes, data.class_ids("val"), alone=True).to(matcher.device) for _ in matcher.unet.up_blocks]
    for number in range(len(source)):
        episode = source.read(number)
        for each, mask in zip(sums, matcher.masks(episode), strict=True):
            each.update(mask, episode["query_mask"].to(matcher.device), episode["class_id"])
    return int(np.argmax([each.compute()["mIoU"] for each in sums]))


@torch.inference_mode()
def masks_of(model, matcher: Matcher, block: int, episode: dict) -> dict[str, Tensor]:
    ours = model.found_in(episode)
    return {OURS: ours.to(torch.uint8), ALL: torch.ones_like(ours, dtype=torch.uint8), PROTOTYPES: matcher.masks(episode)[block]}


def said(results: dict, data, about: dict) -> list[str]:
    words = [data.classes[i] for i in data.class_ids("test")]
    listed = ", ".join(words[:12]) + (", ..." if len(words) > 12 else "")
    notes = {ALL: "", OURS: "", PROTOTYPES: f"(base's UNet, up block {about['up_block']}, t = {TIME})"}
    lines = [f"{data.name}: {about['episodes']} test episodes of {len(words)} classes that training does not show ({listed}), %"]
    for name, figures in results.items():
        both = "   ".join(f"{key} {100 * figures[key]:5.1f}" for key in ("mIoU", "FB-IoU"))
        lines.append(f"  {name:<16} {both}   {notes[name]}".rstrip())
    return lines
