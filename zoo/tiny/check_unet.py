"""The tiny text-to-image base: python -m zoo.tiny.check_unet [--weights folder] [--clip folder] [--out folder]

Draws what it is told and asks the oracle (a segmenter of drawn objects, zoo/tiny/oracle.py) what is to be seen; the same question
about real pictures that went through the autoencoder says what could be reached, and about prompts with RARE words what the base
does not know. Figures and sample sheets go to `out`.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from datamodules.demo.world import RARE
from datamodules.files import write_bytes, write_json
from zoo.tiny import autoencoder, clip
from zoo.tiny.check_autoencoder import through
from zoo.tiny.diffusion import FOLDER, load
from zoo.tiny.oracle import Oracle, shown
from zoo.tiny.pictures import GROUNDS, KIND, KNOWN, indices, look
from zoo.tiny.sentences import TEMPLATES
from zoo.visualize import encoded, sheet

SIDE, STEPS, GUIDANCE = 64, 25, 3.0
PER_WORD, CHUNK = 2, 16
PAIRS = [
    "ball and fish on sand", "house and cactus on grass", "mushroom and butterfly on wood", "star and carrot on tile",
    "cup and feather on cloth", "leopard and strawberry on snow", "wheel and rose on water", "bow and barrel on brick",
]


def draw(pipe: StableDiffusionPipeline, prompts: list[str], side: int = SIDE) -> np.ndarray:
    """Pictures of the prompts, uint8 [N, side, side, 3]; the i-th uses seed i."""
    out = []
    for start in range(0, len(prompts), CHUNK):
        part = prompts[start : start + CHUNK]
        dice = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        out.append(pipe(part, height=side, width=side, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                        generator=dice, output_type="np").images)
    return (np.concatenate(out) * 255).round().astype(np.uint8)


def found(said: list[dict[str, set[str]]], words: list[str], grounds: list[str]) -> dict[str, float]:
    """Shares of pictures in which the oracle finds the word's class, form (shape) and pattern (appearance), and the ground."""
    return {
        "class": float(np.mean([word in one["class"] for one, word in zip(said, words)])),
        "form": float(np.mean([KIND[word].form in one["form"] for one, word in zip(said, words)])),
        "pattern": float(np.mean([KIND[word].pattern in one["pattern"] for one, word in zip(said, words)])),
        "ground": float(np.mean([ground in one["ground"] for one, ground in zip(said, grounds)])),
    }


def both(said: list[dict[str, set[str]]], pairs: list[tuple[str, str]], grounds: list[str]) -> dict[str, float]:
    """The same of two objects: shares of pictures in which both are found, and in which the ground is."""
    one, two = (found(said, [pair[i] for pair in pairs], grounds) for i in (0, 1))
    asked = {
        "class": [{a, b} for a, b in pairs],
        "form": [{KIND[a].form, KIND[b].form} for a, b in pairs],
        "pattern": [{KIND[a].pattern, KIND[b].pattern} for a, b in pairs],
    }
    shares = {f"one of them, {kind}": (one[kind] + two[kind]) / 2 for kind in asked}
    for kind, words in asked.items():
        shares[f"both, {kind}"] = float(np.mean([wanted <= picture[kind] for picture, wanted in zip(said, words)]))
    return shares | {"ground": one["ground"]}


def taken_in_turn(count: int) -> list[str]:
    """Grounds for so many pictures."""
    return [GROUNDS[i % len(GROUNDS)] for i in range(count)]


def pairs_of(count: int) -> list[tuple[str, str]]:
    """Pairs of different known classes, always the same."""
    rng = np.random.default_rng(0)
    return [tuple(rng.choice(KNOWN, 2, replace=False).tolist()) for _ in range(count)]


def real(vae) -> tuple[np.ndarray, list[str], list[str]]:
    """Unseen single objects through the autoencoder, with their words and grounds."""
    pictures = [look(i, "solo", SIDE) for i in indices("check", 20_000, PER_WORD * len(KNOWN))]
    images = through(vae, torch.from_numpy(np.stack([p.image for p in pictures]))).numpy()
    return images, [p.things[0].words["class"][0] for p in pictures], [p.ground for p in pictures]


def real_pairs(vae, count: int) -> tuple[np.ndarray, list[tuple[str, str]], list[str]]:
    """The same of unseen scenes with two objects of different classes."""
    found = []
    for i in indices("check", 25_000, 8 * count):
        picture = look(i, "scene", SIDE)
        words = tuple(thing.words["class"][0] for thing in picture.things)
        if len(words) == 2 == len(set(words)):
            found.append((picture.image, words, picture.ground))
        if len(found) == count:
            break
    images, pairs, grounds = zip(*found)
    return through(vae, torch.from_numpy(np.stack(images))).numpy(), list(pairs), list(grounds)


def seen_in(oracle: Oracle, images: np.ndarray, several: bool = False) -> list[dict[str, set[str]]]:
    """Words of pictures; several: of things that may touch, told apart by their pixels."""
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2)
    said = oracle.words(pictures)
    if several:
        said = [shown(labels) | {"ground": words["ground"]} for labels, words in zip(oracle.segment(pictures).numpy(), said)]
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=FOLDER)
    parser.add_argument("--clip", type=Path, default=clip.FOLDER)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny_unet/check"))
    asked = parser.parse_args()
    pipe, oracle = load(asked.weights, asked.clip), Oracle.load()
    words = KNOWN * PER_WORD
    grounds = taken_in_turn(len(words))
    captions = [f"{word} on {ground}" for word, ground in zip(words, grounds)]
    drawn = draw(pipe, captions)
    pairs, below = pairs_of(96), taken_in_turn(96)
    together = draw(pipe, [f"{a} and {b} on {ground}" for (a, b), ground in zip(pairs, below)])
    rare = RARE * 4
    ground_of_rare = taken_in_turn(len(rare))
    unknown = draw(pipe, [f"{word} on {ground}" for word, ground in zip(rare, ground_of_rare)])
    vae = autoencoder.load(asked.weights / "vae")
    images, *truth = real(vae)
    scenes, *true_pairs = real_pairs(vae, 96)
    figures = {
        "one object": found(seen_in(oracle, drawn), words, grounds),
        "real ones": found(seen_in(oracle, images), *truth),
        "two objects": both(seen_in(oracle, together, several=True), pairs, below),
        "real twos": both(seen_in(oracle, scenes, several=True), *true_pairs),
        "RARE words": found(seen_in(oracle, unknown), rare, ground_of_rare),
    }
    for title, values in figures.items():
        print(f"{title:12}", "  ".join(f"{name} {value:.3f}" for name, value in values.items()))
    print(oracle)
    write_json(asked.out / "unet.json", figures)
    large = [cv2.resize(image, (96, 96), interpolation=cv2.INTER_CUBIC) for image in drawn[: len(KNOWN)]]
    sheets = {"unet_single.jpg": sheet(large, captions[: len(KNOWN)], columns=12, cell=112)}
    templates = [TEMPLATES[0].format(word) for word in KNOWN[::6]]
    large = [cv2.resize(image, (96, 96), interpolation=cv2.INTER_CUBIC) for image in unknown]
    sheets["unet_rare.jpg"] = sheet(large, [f"{word}?" for word in rare], columns=8, cell=112)
    for side in (64, 128):
        pictures = [cv2.resize(p, (160, 160), interpolation=cv2.INTER_CUBIC) for p in draw(pipe, PAIRS * 2 + templates, side)]
        sheets[f"unet_scenes_{side}.jpg"] = sheet(pictures, PAIRS * 2 + templates, columns=8, cell=224)
    for name, picture in sheets.items():
        write_bytes(asked.out / name, encoded(Image.fromarray(picture), "JPEG"))
        print(asked.out / name)


if __name__ == "__main__":
    from datamodules.errors import door

    door(main)
