"""The tiny text-to-image base: python -m zoo.tiny.check_unet [--weights folder] [--clip folder] [--out folder]

Draws what it is told and asks the tiny CLIP what is to be seen; the same question about real pictures that went through the
autoencoder says what could be reached. Figures and sample sheets go to `out`.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import open_clip
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from datamodules.files import write_bytes, write_json
from zoo.tiny import autoencoder, clip
from zoo.tiny.check_autoencoder import through
from zoo.tiny.check_clip import rows
from zoo.tiny.diffusion import FOLDER, load
from zoo.tiny.pictures import GROUNDS, KIND, KNOWN, indices, look
from zoo.tiny.sentences import FRAMES, TEMPLATES
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


@torch.inference_mode()
def best(model: open_clip.CLIP, images: np.ndarray, names: list[str]) -> list[int]:
    """The place of the best name of every picture."""
    features = model.encode_image(clip.normalised(torch.from_numpy(images)), normalize=True)
    return (features @ rows(model, names).T).argmax(1).tolist()


def obeyed(model: open_clip.CLIP, images: np.ndarray, words: list[str], grounds: list[str]) -> dict[str, float]:
    """The shares of pictures named rightly by class, form, pattern and ground; form and pattern are those of the class named."""
    named = [KNOWN[i] for i in best(model, images, KNOWN)]
    below = [GROUNDS[i] for i in best(model, images, [FRAMES["ground"].format(word) for word in GROUNDS])]
    return {
        "class": float(np.mean([a == b for a, b in zip(named, words)])),
        "form": float(np.mean([KIND[a].form == KIND[b].form for a, b in zip(named, words)])),
        "pattern": float(np.mean([KIND[a].pattern == KIND[b].pattern for a, b in zip(named, words)])),
        "ground": float(np.mean([a == b for a, b in zip(below, grounds)])),
    }


def real(vae) -> tuple[np.ndarray, list[str], list[str]]:
    """Unseen single objects through the autoencoder, with their words and grounds."""
    pictures = [look(i, "solo", SIDE) for i in indices("check", 20_000, PER_WORD * len(KNOWN))]
    images = through(vae, torch.from_numpy(np.stack([p.image for p in pictures]))).numpy()
    return images, [p.things[0].words["class"][0] for p in pictures], [p.ground for p in pictures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=FOLDER)
    parser.add_argument("--clip", type=Path, default=clip.FOLDER)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny_unet/check"))
    asked = parser.parse_args()
    pipe, model = load(asked.weights, asked.clip), clip.load(asked.clip)
    words = KNOWN * PER_WORD
    grounds = [GROUNDS[i % len(GROUNDS)] for i in range(len(words))]
    captions = [f"{word} on {ground}" for word, ground in zip(words, grounds)]
    drawn = draw(pipe, captions)
    seen = real(autoencoder.load(asked.weights / "vae"))
    figures = {"drawn": obeyed(model, drawn, words, grounds), "real": obeyed(model, *seen)}
    for title, values in figures.items():
        print(f"{title:8}", "  ".join(f"{name} {value:.3f}" for name, value in values.items()))
    write_json(asked.out / "unet.json", figures)
    large = [cv2.resize(image, (96, 96), interpolation=cv2.INTER_CUBIC) for image in drawn[: len(KNOWN)]]
    sheets = {"unet_single.jpg": sheet(large, captions[: len(KNOWN)], columns=12, cell=112)}
    templates = [TEMPLATES[0].format(word) for word in KNOWN[::6]]
    for side in (64, 128):
        pictures = [cv2.resize(p, (160, 160), interpolation=cv2.INTER_CUBIC) for p in draw(pipe, PAIRS * 2 + templates, side)]
        sheets[f"unet_scenes_{side}.jpg"] = sheet(pictures, PAIRS * 2 + templates, columns=8, cell=224)
    for name, picture in sheets.items():
        write_bytes(asked.out / name, encoded(Image.fromarray(picture), "JPEG"))
        print(asked.out / name)


if __name__ == "__main__":
    from datamodules.errors import door

    door(main)
