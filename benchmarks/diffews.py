"""What does DiffewS gain by keeping the supports' memory, and by kept latents in training? python -m benchmarks.diffews [repeats]

Random weights. With a GPU: Stable Diffusion 2.1's widths at 512 pixels; without: a fifth of them at 256. "released" is the way of
the authors' code on our net: supports and text are encoded and written anew for every query; a training step encodes all four
kinds of pictures and the prompt, then runs supports and query one after the other. Its further waste (the supports' output stays
in the graph) is left out. Neither way's optimiser step is counted. Memory: what a training step by one pass adds, gradients too.
"""

import multiprocessing
import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.common import forget_peak, paired, report, resident
from zoo.diffews.masks import draw_masks, foreground, picture
from zoo.diffews.net import DiffewSNet
from zoo.diffews.process import Process
from zoo.diffusion.latents import decode, draw, encode, mean

QUERIES = 20                             # that share the writing of one support's memory


@dataclass
class Size:
    """unet, vae: block_out_channels; head: channels of an attention head; text: width, layers; side: of the pictures."""

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    head: int
    text: tuple[int, int]
    side: int


FULL = Size((320, 640, 1280, 1280), (128, 256, 512, 512), 64, (1024, 23), 512)
SMALL = Size((64, 128, 256, 256), (32, 64, 128, 128), 32, (128, 4), 256)


class Parts:
    """The nets with random weights, pictures and masks of one episode."""

    def __init__(self, size: Size, shots: int, device: str, checkpointing: bool = False):
        torch.manual_seed(0)
        width, layers = size.text
        with torch.device(device):
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
                block_out_channels=size.vae, latent_channels=4, sample_size=size.side, scaling_factor=0.18215,
            )
            unet = UNet2DConditionModel(
                sample_size=size.side // 8, block_out_channels=size.unet, cross_attention_dim=width, use_linear_projection=True,
                attention_head_dim=tuple(c // size.head for c in size.unet),       # the number of heads, in spite of its name
            )
            self.text = CLIPTextModel(CLIPTextConfig(
                hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
            )).eval()
            self.net = DiffewSNet(unet, torch.randn(77, width), train_tokens=77, checkpointing=checkpointing)
            self.vae, self.ids = vae.eval().requires_grad_(False), torch.randint(0, 49408, (1, 77))
            draw_bytes = lambda *shape: torch.randint(0, 256, shape, dtype=torch.uint8)
            self.query, self.photos = draw_bytes(1, 3, size.side, size.side), draw_bytes(shots, 3, size.side, size.side)
            self.mask, self.masks = (draw_masks(draw_bytes(n, size.side, size.side) % 2) for n in (1, shots))
        self.scaling, self.process = vae.config.scaling_factor, Process()
        self.moments = [encode(self.vae, part) for part in (self.query, self.mask, self.photos, self.masks)]

    def latents(self, pictures: Tensor) -> Tensor:
        return mean(encode(self.vae, pictures), self.scaling)

    # -- a query --
    @torch.no_grad()
    def prepare(self) -> list:
        return self.process.condition(self.net, self.latents(self.photos)[None], self.latents(self.masks)[None])

    @torch.no_grad()
    def ask(self, memories: list) -> Tensor:
        z0 = self.process.answer(self.net, self.latents(self.query), memories)
        return foreground(picture(decode(self.vae, z0)))

    @torch.no_grad()
    def ask_as_released(self) -> Tensor:
        self.text(self.ids[:, :2])
        return self.ask(self.prepare())

    # -- a training step, without the optimiser --
    def learn(self) -> None:
        query, mask, photos, masks = (draw(moments, self.scaling) for moments in self.moments)
        self._backward(lambda: self.net(query, photos[None], masks[None]), mask)

    def learn_as_released(self) -> None:
        with torch.no_grad():
            self.text(self.ids)
            pictures = (self.query, self.mask, self.photos, self.masks)
            query, mask, photos, masks = (draw(encode(self.vae, part), self.scaling) for part in pictures)
        self._backward(lambda: self.net.read(query, self.net.write(photos[None], masks[None])), mask)

    def _backward(self, forward, mask: Tensor) -> None:
        device = self.query.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = F.mse_loss(forward(), -mask)
        loss.backward()
        self.net.zero_grad()


def rows_of(parts: Parts, shots: int, repeats: int) -> list[dict]:
    parts.net.eval()
    memories = parts.prepare()
    query = paired({"released": parts.ask_as_released, "ours": lambda: parts.ask(memories), "writing": parts.prepare}, repeats)
    parts.net.train()
    step = paired({"released": parts.learn_as_released, "ours": parts.learn}, repeats)
    share = query["ours"] + query["writing"] / QUERIES
    return [row("a further query", shots, query["released"], query["ours"]),
            row(f"a query of {QUERIES}, writing shared", shots, query["released"], share),
            row("a training step", shots, step["released"], step["ours"])]


def row(what: str, shots: int, released: float, ours: float) -> dict:
    return {"what": what, "shots": shots, "released s": released, "ours s": ours, "ratio": released / ours}


def peak(size: Size, shots: int, device: str, checkpointing: bool) -> float:
    """GiB that a training step adds to what the nets and pictures take, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (size, shots, device, checkpointing))


def _peak(size: Size, shots: int, device: str, checkpointing: bool) -> float:
    parts = Parts(size, shots, device, checkpointing)
    parts.net.train()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        parts.learn()
        return (torch.cuda.max_memory_allocated() - before) / 2**30
    forget_peak()
    before = resident("VmRSS")
    parts.learn()
    return (resident("VmHWM") - before) / 2**20


def memory_row(size: Size, shots: int, device: str) -> dict:
    plain, checkpointed = (peak(size, shots, device, checkpointing) for checkpointing in (False, True))
    return {"shots": shots, "GiB": plain, "GiB with checkpointing": checkpointed, "ratio": plain / checkpointed}


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = FULL if device == "cuda" else SMALL
    rows = []
    for shots in (1, 5):
        parts = Parts(size, shots, device)
        rows += rows_of(parts, shots, repeats)
        del parts
    about = {"repeats": repeats, "side": size.side, "unet": size.unet, "vae": size.vae}
    title = f"DiffewS at {size.side} pixels, UNet {size.unet}, {device}"
    report(f"diffews_{device}", f"{title}: the released way against memory and latents kept", rows, **about)
    report(f"diffews_memory_{device}", f"{title}: what a training step adds at its peak",
           [memory_row(size, shots, device) for shots in (1, 5)], **about)


if __name__ == "__main__":
    main()
