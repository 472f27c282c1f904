"""The tiny CLIP on scenes it has never seen: python -m zoo.tiny.check_clip [--weights folder] [--out folder]

Prints its figures and writes them with sample sheets to `out`. Here, and only here, masks are used: to cut objects out and to
pool the grid over them.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datamodules.demo import objects
from datamodules.demo.world import FAMILIES, NOVEL, RARE, WORLD_SEED
from datamodules.files import write_bytes, write_json
from zoo.tiny import clip
from zoo.tiny.pictures import KNOWN, LAYOUTS, indices
from zoo.tiny.sentences import FRAMES, GROUPS, TEMPLATES, described
from zoo.visualize import encoded, sheet

SCENES, RARE_SCENES = 600, 200
CROP = 64  # pixels
GRIDS = (128, 192, 256)  # sizes of pictures whose grid is pooled
CHUNK = 64


@dataclass
class Object:
    """One object of a scene: cut out, cut out without its background, and pooled on the grid at each size."""

    word: str
    pattern: str
    form: str
    crop: np.ndarray
    alone: np.ndarray
    pooled: list[Tensor]


# -- sentences and answers ---------------------------------------------------------------------------------------------
@torch.inference_mode()
def rows(model: open_clip.CLIP, names: list[str]) -> Tensor:
    """One unit vector a name: the mean over the templates, [K, D]."""
    text = clip.encode_text(model, clip.tokens([t.format(name) for name in names for t in TEMPLATES]))
    text = F.normalize(text, dim=-1).view(len(names), len(TEMPLATES), -1).mean(1)
    return F.normalize(text, dim=-1)


def right(features: Tensor, text: Tensor, names: list[str], truth: list[str]) -> float:
    """The share of objects whose best name is the true one."""
    best = (features @ text.T).argmax(1).tolist()
    return float(np.mean([names[b] == t for b, t in zip(best, truth)]))


# -- objects of scenes -------------------------------------------------------------------------------------------------
def square(mask: np.ndarray, margin: float = 0.08) -> tuple[int, int, int]:
    """The square around a mask: left, top, side; inside the picture."""
    ys, xs = np.nonzero(mask)
    side = min(int((1 + 2 * margin) * (max(np.ptp(ys), np.ptp(xs)) + 1)), min(mask.shape))
    top, left = (int(np.clip((v.min() + v.max() + 1 - side) / 2, 0, n - side)) for v, n in zip((ys, xs), mask.shape))
    return left, top, side


@torch.inference_mode()
def found(model: open_clip.CLIP, start: int, count: int, words: list[str]) -> list[Object]:
    """The objects of `count` scenes; the scenes are drawn at every size of GRIDS."""
    kept = []
    for index in indices("check", start, count):
        scenes = [objects(WORLD_SEED, index, (side, side), classes=words, family=list(FAMILIES)[index % 2], **LAYOUTS["scene"])
                  for side in GRIDS]
        grids = [clip.dense(model, clip.normalised(torch.from_numpy(scene.image)[None]))[0] for scene in scenes]
        large = scenes[-1]
        for thing, mask in zip(large.things, large.masks):
            pooled = [pool(grid, scene, thing) for grid, scene in zip(grids, scenes)]
            if any(p is None for p in pooled):  # too little of it is visible in a small picture
                continue
            x, y, n = square(mask)
            box = np.s_[y : y + n, x : x + n]
            mean = np.array(open_clip.OPENAI_DATASET_MEAN) * 255
            alone = np.where(mask[..., None], large.image, mean.round().astype(np.uint8))
            crop, alone = (cv2.resize(a[box], (CROP, CROP), interpolation=cv2.INTER_AREA) for a in (large.image, alone))
            kept.append(Object(thing.kind.word, thing.kind.pattern, thing.kind.form, crop, alone, pooled))
    return kept


def pool(grid: Tensor, scene, thing) -> Tensor | None:
    """The grid's mean weighted by how much of each cell the object covers, [C]; None if it is not in this picture."""
    same = [mask for other, mask in zip(scene.things, scene.masks) if (other.x, other.y) == (thing.x, thing.y)]
    if not same:
        return None
    weights = F.adaptive_avg_pool2d(torch.from_numpy(same[0]).float()[None], grid.shape[1:])[0]
    return (grid * weights).sum((1, 2)) / weights.sum()


@torch.inference_mode()
def ways(model: open_clip.CLIP, things: list[Object]) -> dict[str, Tensor]:
    """Unit vectors of the objects by every way of looking at them, [N, D] each."""
    seen = {}
    for title, pictures in (("crop", [t.crop for t in things]), ("crop without background", [t.alone for t in things])):
        parts = torch.from_numpy(np.stack(pictures)).split(CHUNK)
        seen[title] = torch.cat([model.encode_image(clip.normalised(part), normalize=True) for part in parts])
    for i, side in enumerate(GRIDS):
        seen[f"mask pooling at {side} px"] = clip.project(model, torch.stack([t.pooled[i] for t in things]))
    return seen


# -- the figures -------------------------------------------------------------------------------------------------------
def measure(model: open_clip.CLIP, known: list[Object], rare: list[Object]) -> dict[str, dict[str, float]]:
    """Shares named rightly, by question and way of looking."""
    seen, new = ways(model, known), ways(model, rare)
    combinations = [described(word) for word in RARE]
    every = KNOWN + combinations
    novel = [i for i, thing in enumerate(known) if thing.word in NOVEL]
    known_words, new_words = [thing.word for thing in known], [described(thing.word) for thing in rare]

    def share(features: dict[str, Tensor], names: list[str], truth: list[str]) -> dict[str, float]:
        text = rows(model, names)
        return {way: right(f, text, names, truth) for way, f in features.items()}

    figures = {
        f"{len(KNOWN)} seen classes": share(seen, KNOWN, known_words),
        f"the {len(NOVEL)} NOVEL ones of these": share(
            {way: f[novel] for way, f in seen.items()}, KNOWN, [known_words[i] for i in novel]
        ),
        f"seen classes in the list of all {len(every)}": share(seen, every, known_words),
        f"{len(RARE)} unseen combinations among themselves": share(new, combinations, new_words),
        f"unseen combinations in the list of all {len(every)}": share(new, every, new_words),
        "unseen classes by their own words, which the model has not read": share(new, RARE, [thing.word for thing in rare]),
    }
    for group in ("form", "pattern"):
        names = [FRAMES[group].format(word) for word in GROUPS[group]]
        for title, features, things in (("seen", seen, known), ("unseen", new, rare)):
            truth = [FRAMES[group].format(getattr(thing, group)) for thing in things]
            figures[f"{group} of {title} classes, of {len(names)}"] = share(features, names, truth)
    return figures


def table(figures: dict[str, dict[str, float]]) -> str:
    heads = list(next(iter(figures.values())))
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(f"{v:.3f}" for v in values.values()) + " |" for row, values in figures.items()]
    return "\n".join(lines)


def answers(model: open_clip.CLIP, things: list[Object], names: list[str], truth: list[str], way: str) -> np.ndarray:
    """A sheet of objects, each under the best name; an x marks a wrong one."""
    best = (ways(model, things)[way] @ rows(model, names).T).argmax(1).tolist()
    captions = [names[b] if names[b] == right_name else f"x {names[b]}" for b, right_name in zip(best, truth)]
    large = [cv2.resize(t.crop, (96, 96), interpolation=cv2.INTER_CUBIC) for t in things]
    return sheet(large, captions, columns=12, cell=96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=clip.FOLDER)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny_clip/check"))
    asked = parser.parse_args()
    model = clip.load(asked.weights)
    known = found(model, 0, SCENES, KNOWN)
    rare = found(model, SCENES, RARE_SCENES, RARE)
    figures = measure(model, known, rare)
    print(f"{len(known)} objects of seen classes, {len(rare)} of unseen ones; share named rightly\n{table(figures)}")
    write_json(asked.out / "clip.json", figures)
    every = KNOWN + [described(word) for word in RARE]
    shown, new = known[:72], rare[:72]
    words = [thing.word for thing in shown]
    pictures = {
        "clip_crops.jpg": answers(model, shown, KNOWN, words, "crop"),
        "clip_pooling.jpg": answers(model, shown, KNOWN, words, f"mask pooling at {GRIDS[-1]} px"),
        "clip_unseen.jpg": answers(model, new, every, [described(thing.word) for thing in new], "crop"),
    }
    for name, picture in pictures.items():
        write_bytes(asked.out / name, encoded(Image.fromarray(picture), "JPEG"))
        print(asked.out / name)


if __name__ == "__main__":
    from datamodules.errors import door

    door(main)
