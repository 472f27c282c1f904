"""The tiny autoencoder on what it has never seen: python -m zoo.tiny.check_autoencoder [--weights folder] [--out folder]

Prints its figures beside those of a PCA of 4 x 4 patches with as many components, and writes them with sample sheets to `out`.
Masks of scenes are used here, never in the training.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.demo import objects
from datamodules.demo.world import FAMILIES, WORLD_SEED
from datamodules.files import write_bytes, write_json
from zoo.tiny.autoencoder import FOLDER, PCA, load, output_to_pictures, pictures_to_input
from zoo.tiny.pictures import KNOWN, LAYOUTS, indices, look, look_outside
from zoo.tiny.silhouettes import line
from zoo.visualize import encoded, sheet

SIDES = (64, 128)
PICTURES, LANDSCAPES, LINES = 96, 32, 48
WIDTHS = (1.5, 2.0, 3.0)  # pixels
CHUNK = 16
DIFFEWS_SHARE = 0.25  # DiffewS takes as foreground what is brighter than this share of the picture's brightest pixel


# -- what is carried ---------------------------------------------------------------------------------------------------
def pictures(side: int) -> dict[str, Tensor]:
    """Unseen pictures by kind, uint8 [N, side, side, 3]."""
    scenes = [look(i, "scene", side).image for i in indices("check", 0, PICTURES)]
    outside = [look_outside(i, side) for i in indices("check", 10_000, LANDSCAPES)]
    return {"scenes": torch.from_numpy(np.stack(scenes)), "landscapes": torch.from_numpy(np.stack(outside))}


def masks(side: int) -> dict[str, Tensor]:
    """Masks of unseen scenes' objects and lines, bool [N, side, side]."""
    found = []
    for index in indices("check", 0, PICTURES):
        scene = objects(WORLD_SEED, index, (side, side), classes=KNOWN, family=list(FAMILIES)[index % 2], **LAYOUTS["scene"])
        found += list(scene.masks)
    kinds = {"objects": torch.from_numpy(np.stack(found))}
    for width in WIDTHS:
        drawn = [line(np.random.default_rng((1, side, i)), side, width) for i in range(LINES)]
        kinds[f"lines of {width:g} px"] = torch.from_numpy(np.stack(drawn))
    return kinds


def white_on_black(mask: Tensor) -> Tensor:
    """bool [N, H, W] -> uint8 [N, H, W, 3]."""
    return mask.to(torch.uint8)[..., None].expand(-1, -1, -1, 3) * 255


# -- there and back ----------------------------------------------------------------------------------------------------
@torch.inference_mode()
def through(net, shown: Tensor) -> Tensor:
    """Pictures encoded and decoded, uint8 [N, H, W, 3]."""
    parts = [net.decode(net.encode(pictures_to_input(part)).latent_dist.mean).sample for part in shown.split(CHUNK)]
    return output_to_pictures(torch.cat(parts))


def through_pca(pca: PCA, shown: Tensor) -> Tensor:
    return output_to_pictures(pca.decode(pca.encode(pictures_to_input(shown))))


def learnt_pca() -> PCA:
    """The bar, learnt from pictures of the training and a quarter of masks, as the net is."""
    shown = [look(i, "scene", 64).image for i in indices("autoencoder", 0, 150)]
    white = white_on_black(torch.from_numpy(np.stack([line(np.random.default_rng((2, i)), 64, 4.0) for i in range(50)])))
    return PCA(pictures_to_input(torch.cat([torch.from_numpy(np.stack(shown)), white])))


# -- the figures -------------------------------------------------------------------------------------------------------
def closeness(shown: Tensor, back: Tensor) -> dict[str, float]:
    """Mean absolute difference (of -1..1) and signal to noise."""
    difference = (shown.float() - back.float()) / 127.5
    return {"L1": difference.abs().mean().item(), "dB": (10 * torch.log10(4 / difference.square().mean())).item()}


def iou(mask: Tensor, back: Tensor) -> dict[str, float]:
    """Of all pixels together: at half grey, and at DiffewS's share of the brightest value."""
    grey = back.float().mean(-1)
    brightest = back.flatten(1).amax(1).float()[:, None, None]
    at = {"IoU": grey >= 127.5, "IoU, DiffewS's threshold": grey > DIFFEWS_SHARE * brightest}
    return {name: ((mask & got).sum() / (mask | got).sum()).item() for name, got in at.items()}


def measure(net, pca: PCA) -> dict[str, dict[str, float]]:
    figures = {}
    for side in SIDES:
        for kind, shown in pictures(side).items():
            figures[f"{kind}, {side} px"] = closeness(shown, through(net, shown))
            figures[f"{kind}, {side} px, PCA"] = closeness(shown, through_pca(pca, shown))
        for kind, mask in masks(side).items():
            figures[f"{kind}, {side} px"] = iou(mask, through(net, white_on_black(mask)))
            figures[f"{kind}, {side} px, PCA"] = iou(mask, through_pca(pca, white_on_black(mask)))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny_autoencoder/check"))
    asked = parser.parse_args()
    net, pca = load(asked.weights), learnt_pca()
    figures = measure(net, pca)
    for title, values in figures.items():
        print(f"{title:32}", "  ".join(f"{name} {value:.3f}" for name, value in values.items()))
    print("scaling_factor", net.config.scaling_factor)
    write_json(asked.out / "autoencoder.json", figures)
    for side in SIDES:
        shown = torch.cat([v[:6] for v in pictures(side).values()] + [white_on_black(v[:3]) for v in masks(side).values()])
        rows = zip(shown.split(8), through(net, shown).split(8), through_pca(pca, shown).split(8))
        cells = [cv2.resize(p.numpy(), (128, 128), interpolation=cv2.INTER_NEAREST) for row in rows for part in row for p in part]
        write_bytes(asked.out / f"autoencoder_{side}.jpg", encoded(Image.fromarray(sheet(cells, columns=8, cell=128)), "JPEG"))
        print(asked.out / f"autoencoder_{side}.jpg")


if __name__ == "__main__":
    from datamodules.errors import door

    door(main)
