"""What does AlignDiff's reading of attention cost, and what do words gain that are learnt side by side?

    python -m benchmarks.aligndiff [n]

Random weights. With a GPU: Stable Diffusion v1-5's widths at 512 pixels in bf16; without: a net a tenth as wide at 256.
n: repeats.

sampling    one step with guidance: without capture; with ours (the class's columns, cross-attention, running sums); as the
            released store does it: softmax of every attention written out, all conditional maps summed
inversion   one update of 16 words, each by one lesson: one batch of 16, against 16 batches of one
alignment   Algorithm 1 on painted pictures, both rounds, nothing accepted: masks a second of SSP on a ResNet-101 (ResNet-18 on a
            CPU)
"""

import sys
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from benchmarks.common import paired, report
from zoo import hub
from zoo.aligndiff.align import Rules, align
from zoo.aligndiff.capture import Capture, Captured, grids_of
from zoo.aligndiff.loss import masked_loss
from zoo.aligndiff.segmenter import Matcher
from zoo.diffusion.attention import Plain, finish, install, project

TOKENS, INSTANCES = 77, 16


@dataclass
class Size:
    """unet: block_out_channels; cells: side of the latents; text: width; rows: pictures of a batch; encoder, side, painted: of
    the alignment."""

    unet: tuple[int, ...]
    cells: int
    text: int
    rows: int
    encoder: str
    side: int
    painted: int


FULL = Size((320, 640, 1280, 1280), 64, 768, 4, "resnet101", 512, 20)
SMALL = Size((32, 64, 128, 128), 32, 64, 1, "resnet18", 512, 4)


class Stored(Plain):
    """The released way: softmax written out in every attention, the conditional half of all maps kept and summed."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, store=None):
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                   for part in project(attn, hidden_states, encoder_hidden_states))
        maps = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1)
        if store is not None:
            mine = maps[len(maps) // 2 :]
            store[self.name] = store[self.name] + mine if self.name in store else mine.clone()
        return finish(attn, (maps @ v).transpose(1, 2).flatten(2))


class Parts:
    def __init__(self, size: Size, device: str):
        torch.manual_seed(0)
        self.size, self.device, dtype = size, device, torch.bfloat16 if device == "cuda" else torch.float32
        with torch.device(device):
            make = lambda: UNet2DConditionModel(
                sample_size=size.cells, block_out_channels=size.unet, cross_attention_dim=size.text).to(dtype).eval()
            self.plain = make().requires_grad_(False)
            self.captured, self.stored = make().requires_grad_(False), make().requires_grad_(False)
            for other, kind in ((self.captured, Captured), (self.stored, Stored), (self.plain, Plain)):
                other.load_state_dict(self.plain.state_dict())
                install(other, kind)
            self.latents = torch.randn(2 * size.rows, 4, size.cells, size.cells, dtype=dtype)
            self.text = torch.randn(2 * size.rows, TOKENS, size.text, dtype=dtype)
            self.lessons = torch.randn(INSTANCES, 4, size.cells, size.cells, dtype=dtype)
            self.words = torch.randn(INSTANCES, TOKENS, size.text, dtype=dtype, requires_grad=True)
            self.regions = torch.rand(INSTANCES, size.cells, size.cells) > 0.7

    # -- sampling --
    @torch.no_grad()
    def ask(self, unet, **more) -> Tensor:
        return unet(self.latents, 500, self.text, cross_attention_kwargs=more or None).sample

    def capture(self) -> None:
        columns = torch.full((self.size.rows, 1), 5, device=self.device)
        self.ask(self.captured, capture=Capture(columns, grids_of((self.size.cells, self.size.cells))))

    # -- inversion --
    def learn(self, together: bool) -> None:
        """The gradient of the words. The states stand for what comes out of the text encoder."""
        for rows in [range(INSTANCES)] if together else [[row] for row in range(INSTANCES)]:
            rows = list(rows)
            times = torch.full((len(rows),), 500, device=self.device)
            answer = self.plain(self.lessons[rows], times, self.words[rows]).sample
            masked_loss(answer, self.lessons[rows], self.regions[rows]).sum().backward()
        self.words.grad = None


def sampling_rows(parts: Parts, repeats: int) -> list[dict]:
    works = {"without capture": lambda: parts.ask(parts.plain), "with capture": parts.capture,
             "released store": lambda: parts.ask(parts.stored, store={})}
    seconds, first = paired(works, repeats), "without capture"
    return [{"step": name, "s": value, "times": value / seconds[first]} for name, value in seconds.items()]


def inversion_rows(parts: Parts, repeats: int) -> list[dict]:
    seconds = paired({"one after another": lambda: parts.learn(False), "side by side": lambda: parts.learn(True)}, repeats)
    return [{"update": name, "s": value, "times faster": seconds["one after another"] / value} for name, value in seconds.items()]


def alignment_rows(parts: Parts, repeats: int) -> list[dict]:
    size = parts.size
    model = hub.build({"_target_": "zoo.ssp.module.SSP", "net": {
        "_target_": "zoo.ssp.net.SSPNet", "_partial_": True, "encoder": size.encoder, "level": 3,
        "encoder_options": {"output_stride": 8} if size.encoder == "resnet101" else {}}}, ["object"])
    f = Matcher(model.to(parts.device).eval())
    pictures = list(torch.randint(0, 256, (size.painted, 3, size.side, size.side), dtype=torch.uint8))
    mask = torch.zeros(size.side, size.side, dtype=torch.bool)
    mask[100:300, 100:300] = True
    nothing = [torch.zeros_like(mask)] * size.painted
    work = lambda: align(f, [(pictures[0], mask)], pictures, nothing, Rules())
    seconds = paired({"SSP": work}, repeats)["SSP"]
    return [{"f": f"SSP, {size.encoder}", "pictures": size.painted, "s": seconds, "s a mask": seconds / size.painted,
             "masks a second": size.painted / seconds}]


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = Parts(FULL if device == "cuda" else SMALL, device)
    size = parts.size
    about = {"repeats": repeats, "unet": size.unet, "cells": size.cells, "unet_rows": 2 * size.rows}
    title = f"AlignDiff, UNet {size.unet}, latents {size.cells}x{size.cells}, {device}"
    sampling, inversion = sampling_rows(parts, repeats), inversion_rows(parts, repeats)
    report(f"aligndiff_sampling_{device}", f"{title}: a step of {size.rows} pictures with guidance", sampling, **about)
    report(f"aligndiff_inversion_{device}", f"{title}: an update of {INSTANCES} words", inversion, **about)
    report(f"aligndiff_alignment_{device}", f"Algorithm 1, {size.painted} pictures of {size.side} pixels, {device}",
           alignment_rows(parts, repeats), **about)


if __name__ == "__main__":
    main()
