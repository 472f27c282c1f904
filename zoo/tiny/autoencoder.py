"""The tiny autoencoder: diffusers' AutoencoderKL, 4 channels at a quarter of the picture's sides; and the PCA it must beat."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "weights" / "diffusion" / "vae"
CHANNELS, PATCH = 4, 4


def load(folder: Path = FOLDER) -> AutoencoderKL:
    """The trained autoencoder in fp32, ready to be used."""
    return AutoencoderKL.from_pretrained(folder).eval()


def untrained() -> AutoencoderKL:
    """The net to be trained; latents begin with hardly any noise (a log-variance of -8)."""
    net = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64), layers_per_block=1, norm_num_groups=4, latent_channels=CHANNELS,
        sample_size=64, mid_block_add_attention=False, force_upcast=False,
    )
    for conv in (net.quant_conv, net.post_quant_conv):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    net.quant_conv.weight.data[CHANNELS:] = 0
    net.quant_conv.bias.data[CHANNELS:] = -8
    return net


def pictures_to_input(pictures: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in -1..1."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def output_to_pictures(output: Tensor) -> Tensor:
    """float [B, 3, H, W] in -1..1 -> uint8 [B, H, W, 3]."""
    return ((output.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


class PCA:
    """4 x 4 patches by their 4 leading components: where the training starts, and the bar it is measured against."""

    def __init__(self, images: Tensor):
        """images: float [B, 3, H, W] in -1..1 to learn from."""
        patches = self.patches(images).flatten(2).transpose(1, 2).flatten(0, 1)  # (B h w) 48
        self.mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))
        self.basis = vectors[:, -CHANNELS:].flip(1)  # 48 4
        spread = values[-CHANNELS:].flip(0).sqrt()
        scale = spread**-0.75  # between equal spreads (power 1) and natural ones (power 0)
        self.scale = scale / (scale * spread).mean()

    @staticmethod
    def patches(images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images, PATCH)  # B 48 h w

    def encode(self, images: Tensor) -> Tensor:
        centred = self.patches(images) - self.mean[:, None, None]
        return torch.einsum("bphw,pc->bchw", centred, self.basis) * self.scale[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        patches = torch.einsum("bchw,pc->bphw", latents / self.scale[:, None, None], self.basis)
        return F.pixel_shuffle(patches + self.mean[:, None, None], PATCH)
