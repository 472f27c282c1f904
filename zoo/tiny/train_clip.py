"""Trains the tiny CLIP from nothing on the demo world: python -m zoo.tiny.train_clip [--out runs/tiny_clip] [--seed 0]

A curriculum: objects that fill the picture, objects of any size and place, crops of scenes, then whole scenes with their
captions as well. Pictures are matched with sentences about what is in them, never with masks. Run it again to go on.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from datamodules.files import write_bytes, write_text
from zoo.tiny import clip
from zoo.tiny.pictures import Picture, Pool, Seen
from zoo.tiny.sentences import GROUPS, all_words, ask
from zoo.tiny.training import arguments, average, cosine, descend, optimiser, train

ATTRIBUTE_WEIGHT = 0.5
CAPTION_WEIGHT = 0.2


@dataclass(frozen=True)
class Phase:
    """zoom: side of what is shown, in radii of one of its objects; scenes: every second batch is one of whole scenes.

    text: whether the text tower learns. Where it does not, the phase starts from the mean of the weights and leaves the text
    tower as it is from then on: the text-to-image UNet reads the same tower, and need not wait for the rest.
    """

    pool: str
    steps: int
    side: int  # pixels
    batch: int
    lr: float
    zoom: tuple[float, float]
    scenes: bool = False
    text: bool = True


PHASES = [
    Phase("solo", 1300, 48, 64, 2e-3, (1.9, 2.3)),
    Phase("single", 1100, 64, 48, 1e-3, (2.2, 8.0)),
    Phase("scene", 3000, 64, 64, 1e-3, (2.0, 4.5)),
    Phase("scene", 1400, 96, 32, 5e-4, (2.0, 4.5), scenes=True),
    Phase("scene", 2600, 64, 64, 1e-3, (1.9, 3.6), text=False),
    Phase("scene", 700, 96, 32, 4e-4, (1.9, 4.0), scenes=True, text=False),
    Phase("scene", 2400, 64, 64, 1e-3, (1.9, 3.2), text=False),
    Phase("scene", 500, 96, 32, 4e-4, (1.9, 4.0), scenes=True, text=False),
]
WHOLE = (128, 24)  # pixels and batch of whole scenes
POOLS = {"solo": (0, 6000, 64), "single": (10_000, 6000, 96), "scene": (20_000, 5000, 256)}  # start, count, pixels


# -- what a picture shows ----------------------------------------------------------------------------------------------
def view(picture: Picture, zoom: tuple[float, float], side: int, rng: np.random.Generator) -> tuple[np.ndarray, list, list]:
    """A square part of the picture around one of its objects; the objects inside, and those of which too little is inside."""
    target = picture.things[rng.integers(len(picture.things))]
    size = min(1.0, target.radius * rng.uniform(*zoom))
    core = 0.6 * target.radius
    low = np.clip([target.x + core - size, target.y + core - size], 0, 1 - size)
    high = np.clip([target.x - core, target.y - core], 0, 1 - size)
    left, top = rng.uniform(np.minimum(low, high), np.maximum(low, high))
    pixels = len(picture.image)
    x, y, n = int(left * pixels), int(top * pixels), max(int(size * pixels), 1)
    image = cv2.resize(picture.image[y : y + n, x : x + n], (side, side), interpolation=cv2.INTER_AREA)
    shares = [1.0 if thing is target else share_inside(thing, left, top, size) for thing in picture.things]
    inside = [thing for thing, share in zip(picture.things, shares) if share >= 0.5]
    unsure = [thing for thing, share in zip(picture.things, shares) if 0.1 <= share < 0.5]
    return image, inside, unsure


def share_inside(thing: Seen, left: float, top: float, size: float) -> float:
    """How much of the square around an object lies in the part shown."""
    wide = min(thing.x + thing.radius, left + size) - max(thing.x - thing.radius, left)
    high = min(thing.y + thing.radius, top + size) - max(thing.y - thing.radius, top)
    return max(wide, 0) * max(high, 0) / (2 * thing.radius) ** 2


def target(group: str, inside: list[Seen], unsure: list[Seen], ground: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a group's words (sum 1) and which words count at all: those of half-seen objects do not."""
    words = GROUPS[group]
    right = [ground] if group == "ground" else [word for thing in inside for word in thing.words[group]]
    weights = np.array([right.count(word) for word in words], np.float32)
    open_words = set() if group == "ground" else {word for thing in unsure for word in thing.words[group]} - set(right)
    return weights / weights.sum(), np.array([word not in open_words for word in words])


# -- the losses --------------------------------------------------------------------------------------------------------
def match(logits: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Cross entropy of soft targets; logits, weights, counts: B K."""
    return -(weights * logits.masked_fill(~counts, -1e4).log_softmax(-1)).sum(-1).mean()


def sentence_loss(model: open_clip.CLIP, features: Tensor, shown: list, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Pictures against one sentence for each word; shown: (inside, unsure, ground) of every picture. Also the hit rate."""
    asked = {group: ask(group, rng) for group in GROUPS}
    text = clip.encode_text(model, clip.tokens([s for group in asked.values() for s in group]))
    logits = model.logit_scale.exp() * features @ F.normalize(text, dim=-1).T  # B (all words)
    loss, hits = torch.zeros(()), 0.0
    for group, part in zip(asked, logits.split([len(part) for part in asked.values()], 1)):
        weights, counts = (torch.from_numpy(np.stack(v)) for v in zip(*[target(group, *one) for one in shown]))
        loss = loss + match(part, weights, counts) * (1 if group == "class" else ATTRIBUTE_WEIGHT / (len(asked) - 1))
        if group == "class":
            hits = (weights.gather(1, part.argmax(1, keepdim=True)) > 0).float().mean().item()
    return loss, hits


def caption_loss(model: open_clip.CLIP, features: Tensor, captions: list[str]) -> Tensor:
    """Every scene against every caption of the batch, both ways."""
    text = F.normalize(clip.encode_text(model, clip.tokens(captions)), dim=-1)
    logits = model.logit_scale.exp() * features @ text.T
    same = torch.tensor([[float(a == b) for b in captions] for a in captions])
    every = torch.ones_like(same, dtype=torch.bool)
    return (match(logits, same / same.sum(1, keepdim=True), every) + match(logits.T, same / same.sum(1, keepdim=True), every)) / 2


# -- the training ------------------------------------------------------------------------------------------------------
class Curriculum:
    def __init__(self, seed: int, phases: list[Phase]):
        torch.manual_seed(seed)
        self.phases, self.model = phases, clip.untrained(all_words())
        self.average = average(self.model, 0.998)
        self.optimizer = optimiser(self.model, 1e-3, decay=0.02)
        self.pools = {name: Pool("clip", start, count, name, side) for name, (start, count, side) in POOLS.items()}

    def step(self, number: int, rng: np.random.Generator) -> dict[str, float]:
        phase = self.phases[0]
        for phase in self.phases:
            if number < phase.steps:
                break
            number -= phase.steps
        if not phase.text:
            self.keep_text(start=number == 0)
        whole = phase.scenes and number % 2 == 1
        side, batch = WHOLE if whole else (phase.side, phase.batch)
        pool = self.pools[phase.pool]
        pictures = [pool[i] for i in rng.integers(len(pool), size=batch)]
        if whole:
            shrunk = [cv2.resize(p.image, (side, side), interpolation=cv2.INTER_AREA) for p in pictures]
            views = [(image, p.things, []) for image, p in zip(shrunk, pictures)]
        else:
            views = [view(p, phase.zoom, side, rng) for p in pictures]
        images = clip.normalised(torch.from_numpy(np.stack([v[0] for v in views])))
        features = self.model.encode_image(images, normalize=True)
        shown = [(inside, unsure, p.ground) for (_, inside, unsure), p in zip(views, pictures)]
        loss, hits = sentence_loss(self.model, features, shown, rng)
        if whole:
            loss = loss + CAPTION_WEIGHT * caption_loss(self.model, features, [p.caption for p in pictures])
        descend(loss, self.model, self.optimizer, phase.lr * cosine(number, phase.steps))
        self.model.logit_scale.data.clamp_(max=np.log(100))
        self.average.update_parameters(self.model)
        return {"loss": loss.item(), "hits": hits}


    def keep_text(self, start: bool) -> None:
        """From the start of such a phase on, the text tower is its mean and learns no more."""
        if start:
            self.model.load_state_dict(self.average.module.state_dict())
        for name, weights in self.model.named_parameters():
            weights.requires_grad_(name.startswith("visual.") or name == "logit_scale")


def write(model: open_clip.CLIP, folder: Path) -> None:
    """The folder open_clip loads: its config and the weights in half precision."""
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    write_text(folder / "open_clip_config.json", (clip.FOLDER / "open_clip_config.json").read_text())
    write_bytes(folder / "open_clip_model.safetensors", save(tensors, {"format": "pt"}))


def main() -> None:
    asked = arguments("Trains the tiny CLIP.", "runs/tiny_clip")
    phases = [Phase(**asdict(p) | {"steps": max(2, round(p.steps * asked.share))}) for p in PHASES]
    run = Curriculum(asked.seed, phases)
    recipe = {"seed": asked.seed, "phases": json.dumps([asdict(p) for p in phases])}
    parts = {"model": run.model, "average": run.average, "optimizer": run.optimizer}
    train(asked.out, recipe, sum(p.steps for p in phases), parts, run.step)
    write(run.average.module, asked.out)
    print(f"weights: {asked.out}")


if __name__ == "__main__":
    from datamodules.errors import door

    door(main)
