"""Trains the tiny autoencoder from nothing: python -m zoo.tiny.train_autoencoder [--out runs/tiny_autoencoder] [--seed 0]

Crops of demo pictures and of made-up silhouettes. It starts from a PCA of patches: at first the latents are drawn to the PCA's
and the decoder learns from them. Run it again to go on.
"""

import json

import cv2
import numpy as np
import torch
from torch import Tensor

from zoo.tiny.autoencoder import PCA, pictures_to_input, untrained
from zoo.tiny.pictures import Pool, indices, look_outside
from zoo.tiny.silhouettes import silhouette
from zoo.tiny.training import arguments, average, cosine, descend, optimiser, train

RECIPE = {
    "steps": 12_000,
    "lr": 3e-3,
    "crop": 32,  # pixels
    "batch": 8,
    "large_from": 0.75,  # of the steps: from here on crops are twice as wide, half as many
    "guide_until": 0.3,  # of the steps: latents are drawn to the PCA's
    "teach_until": 0.12,  # of the steps: the decoder sees the PCA's latents
    "silhouettes": 0.25,
    "kl": 1e-6,
}
SIDE = 128  # pixels of the pictures that crops are cut from
POOLS = {"scene": (0, 1500), "solo": (10_000, 800), "single": (20_000, 400)}  # start, count
LANDSCAPES = (30_000, 500)
PCA_CROPS = 1000


class Crops:
    """Where the pictures come from; each is drawn when first asked for and kept."""

    def __init__(self):
        self.pools = [Pool("autoencoder", start, count, layout, SIDE) for layout, (start, count) in POOLS.items()]
        self.outside = indices("autoencoder", *LANDSCAPES)
        self.landscapes: dict[int, np.ndarray] = {}

    def picture(self, rng: np.random.Generator) -> np.ndarray:
        which = rng.integers(len(self.outside) + sum(len(pool) for pool in self.pools))
        for pool in self.pools:
            if which < len(pool):
                return pool[which].image
            which -= len(pool)
        if which not in self.landscapes:
            self.landscapes[which] = look_outside(self.outside[which], SIDE)
        return self.landscapes[which]

    def crop(self, rng: np.random.Generator, side: int, share: float) -> np.ndarray:
        """uint8 [side, side, 3]: a silhouette with this probability, else a part of a picture, flipped, its colours permuted."""
        if rng.random() < share:
            image = silhouette(rng, int(rng.choice([64, SIDE])))
        else:
            image = self.picture(rng)
            if rng.random() < 0.5:  # working sizes are 64 to 128
                image = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
            image = image[..., rng.permutation(3)] if rng.random() < 0.3 else image
        y, x = rng.integers(0, len(image) - side + 1, 2)
        return image[y : y + side, x : x + side, :][:, :: int(rng.choice([-1, 1]))]

    def batch(self, rng: np.random.Generator, count: int, side: int, share: float) -> Tensor:
        return pictures_to_input(torch.from_numpy(np.stack([self.crop(rng, side, share) for _ in range(count)])))


class Training:
    def __init__(self, seed: int, recipe: dict):
        torch.manual_seed(seed)
        self.recipe, self.net, self.crops = recipe, untrained(), Crops()
        self.average = average(self.net, 0.998)
        self.optimizer = optimiser(self.net, recipe["lr"], decay=1e-4, betas=(0.9, 0.99))
        self.pca = PCA(self.crops.batch(np.random.default_rng((seed, 1 << 31)), PCA_CROPS, recipe["crop"], recipe["silhouettes"]))

    def step(self, number: int, rng: np.random.Generator) -> dict[str, float]:
        r, t = self.recipe, number / self.recipe["steps"]
        wide = 2 if t >= r["large_from"] else 1
        images = self.crops.batch(rng, r["batch"] // wide, r["crop"] * wide, r["silhouettes"])
        latent = self.net.encode(images).latent_dist
        noise = torch.from_numpy(rng.standard_normal(latent.mean.shape, np.float32))
        aim = self.pca.encode(images)
        into = aim + 0.03 * noise if t < r["teach_until"] else latent.mean + latent.std * noise
        error = (self.net.decode(into).sample - images).abs().mean()
        guide = 0.5 * max(0.0, 1 - t / r["guide_until"])
        loss = error + r["kl"] * latent.kl().mean() + guide * (latent.mean - aim).square().mean()
        descend(loss, self.net, self.optimizer, r["lr"] * cosine(number, r["steps"], warmup=100))
        self.average.update_parameters(self.net)
        return {"L1": error.item(), "guide": (latent.mean - aim).square().mean().item()}

    @torch.inference_mode()
    def finished(self):
        """The averaged net, with the factor that brings its latents to a spread of 1 in its config."""
        net = self.average.module.eval()
        rng = np.random.default_rng((self.recipe["seed"], 1 << 32))
        latents = torch.cat([net.encode(self.crops.batch(rng, 16, 64, 0.0)).latent_dist.mean for _ in range(16)])
        net.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
        return net


def main() -> None:
    asked = arguments("Trains the tiny autoencoder.", "runs/tiny_autoencoder")
    recipe = RECIPE | {"seed": asked.seed, "steps": max(2, round(RECIPE["steps"] * asked.share))}
    run = Training(asked.seed, recipe)
    parts = {"net": run.net, "average": run.average, "optimizer": run.optimizer}
    train(asked.out, {"seed": asked.seed, "recipe": json.dumps(recipe)}, recipe["steps"], parts, run.step)
    run.finished().half().save_pretrained(asked.out / "vae")
    print(f"weights: {asked.out / 'vae'}")


if __name__ == "__main__":
    from datamodules.errors import door

    door(main)
