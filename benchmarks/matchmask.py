"""What does MatchMask gain by painting siblings together, and by kept latents? python -m benchmarks.matchmask [repeats]

Random weights. With a GPU: Stable Diffusion v1-4's widths at 512 pixels in bf16; without: nets a fifth as wide at 256. K = 5
pictures of one label map, guidance 2. Painting, to the same latents:

released    FreestyleNet's way: a picture and a half of the guidance at a time, masks built by a loop in every attention, softmax
            written out
pipeline    diffusers' pipeline, called for each picture, with our attention
ours        all pictures and both halves in one batch; masks, keys and values of the text made once

A training step of the adapter: pictures and prompts encoded at every step, or kept; and one of the whole UNet, by Adam.
"""

import copy
import resource
import sys
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.common import paired, report
from zoo.diffusion.attention import Plain, finish, install, project
from zoo.diffusion.latents import draw, encode
from zoo.diffusion.samplers import STABLE_DIFFUSION, denoise, make_sampler
from zoo.diffusion.schedule import alphas
from zoo.matchmask.loss import denoising_loss
from zoo.matchmask.masks import FREE
from zoo.matchmask.net import OFF, PICTURE, MatchMaskNet

SIBLINGS, BATCH, GUIDANCE, CLASSES, TOKENS = 5, 4, 2.0, 6, 77
NOISE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass
class Size:
    """unet, vae: block_out_channels; heads: of an attention; text: width, layers; side: of the pictures; steps: of the sampler
    that are timed."""

    unet: tuple[int, ...]
    heads: int
    vae: tuple[int, ...]
    text: tuple[int, int]
    side: int
    steps: int


FULL = Size((320, 640, 1280, 1280), 8, (128, 256, 512, 512), (768, 12), 512, 50)
SMALL = Size((64, 128, 256), 8, (24, 48, 96, 96), (64, 2), 256, 1)


class Released(Plain):
    """Attention as in FreestyleNet's code: the mask of every picture and token anew, the softmax written out."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, labels=None, tokens=None):
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                   for part in project(attn, hidden_states, encoder_hidden_states))
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if encoder_hidden_states is not None and labels is not None:
            side = round(q.shape[2] ** 0.5)
            mask = torch.zeros(len(q), side, side, k.shape[2])
            for b in range(len(q)):
                cells = labels[b, :: labels.shape[1] // side, :: labels.shape[2] // side].cpu()
                for t, token in enumerate(tokens[b].tolist()):
                    mask[b, :, :, t] = 1 if token == FREE else cells == token
            logits = logits.masked_fill(mask.flatten(1, 2)[:, None].to(logits.device) == 0, -torch.finfo(logits.dtype).max)
        return finish(attn, (logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Parts:
    """The nets with random weights, a label map of blocks and its prompt's states, start noises."""

    def __init__(self, size: Size, device: str):
        torch.manual_seed(0)
        self.size, self.device, self.dtype = size, device, torch.bfloat16 if device == "cuda" else torch.float32
        width, layers = size.text
        levels = len(size.unet)
        self.cells = (size.side // 8, size.side // 8)
        ends = {} if levels == 4 else {
            "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1)}
        with torch.device(device):
            self.unet = UNet2DConditionModel(
                sample_size=self.cells[0], block_out_channels=size.unet, cross_attention_dim=width,
                attention_head_dim=size.heads, **ends)                     # the library's word for their number
            self.vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
                block_out_channels=size.vae, latent_channels=4, sample_size=size.side, norm_num_groups=8,
            ).requires_grad_(False)
            self.encoder = CLIPTextModel(CLIPTextConfig(
                hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=max(width // 64, 1),
            )).eval()
            self.ids = torch.randint(0, 49408, (BATCH, TOKENS))
            self.pictures = torch.randint(0, 256, (BATCH, 3, size.side, size.side), dtype=torch.uint8)
            self.text, self.empty = torch.randn(1, TOKENS, width), torch.randn(1, TOKENS, width)
            self.start = torch.randn(SIBLINGS, 4, *self.cells)
            blocks = torch.randint(0, CLASSES, (1, 8, 8))
        self.labels = blocks.repeat_interleave(size.side // 8, 1).repeat_interleave(size.side // 8, 2)
        self.tokens = torch.full((1, TOKENS), FREE, device=device)
        self.tokens[0, 1 : 1 + CLASSES] = torch.arange(CLASSES)
        for part in (self.unet, self.vae, self.encoder) if device == "cuda" else ():
            part.to(self.dtype)
        self.latents = encode(self.vae, self.pictures)

    def net(self, gate: str, layers="finest") -> MatchMaskNet:
        """On its own copy of the UNet, with an adapter that does something."""
        net = MatchMaskNet(copy.deepcopy(self.unet), layers=layers, gate=gate)
        generator = torch.Generator(self.device).manual_seed(1)
        with torch.no_grad():
            for p in net.lora.parameters():
                p += 0.02 * torch.randn(p.shape, device=p.device, generator=generator).to(p.dtype)
        net.unet.to(memory_format=torch.channels_last)
        return net


# -- painting ----------------------------------------------------------------------------------------------------------
class Painting:
    """The ways to the same latents."""

    def __init__(self, parts: Parts):
        self.parts, self.own, self.mixed = parts, parts.net(OFF), parts.net(PICTURE)
        self.released_unet = copy.deepcopy(self.own.unet).to(memory_format=torch.contiguous_format)
        install(self.released_unet, Released)
        self.pipe = StableDiffusionPipeline(
            vae=parts.vae, text_encoder=parts.encoder, tokenizer=None, unet=self.own.unet,
            scheduler=PNDMScheduler(**NOISE, **STABLE_DIFFUSION, skip_prk_steps=True), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False)
        self.pipe.set_progress_bar_config(disable=True)

    def ours(self, net: MatchMaskNet) -> Tensor:
        parts = self.parts
        guide = net.guide(parts.labels, parts.tokens, parts.cells, rows=[0] * SIBLINGS, keep=True)
        return denoise(net.unet, parts.start, parts.text.expand(SIBLINGS, -1, -1), parts.empty, parts.size.steps, GUIDANCE,
                       make_sampler("plms", NOISE), {"guide": guide})

    def pipeline(self) -> Tensor:
        parts, found = self.parts, []
        for start in parts.start:
            guide = self.own.guide(parts.labels, parts.tokens, parts.cells)
            found.append(self.pipe(
                prompt_embeds=parts.text.to(parts.dtype), negative_prompt_embeds=parts.empty.to(parts.dtype),
                guidance_scale=GUIDANCE, latents=start[None].to(parts.dtype), num_inference_steps=parts.size.steps,
                output_type="latent", height=parts.size.side, width=parts.size.side,
                cross_attention_kwargs={"guide": guide}).images)
        return torch.cat(found).float()

    @torch.no_grad()
    def released(self) -> Tensor:
        parts, found = self.parts, []
        for start in parts.start:
            sampler, x = make_sampler("plms", NOISE), start[None]
            for time in sampler.times(parts.size.steps):
                ask = lambda text, **more: self.released_unet(x.to(parts.dtype), time, text.to(parts.dtype),  # noqa: B023
                                                              cross_attention_kwargs=more).sample.float()
                without, within = ask(parts.empty), ask(parts.text, labels=parts.labels, tokens=parts.tokens)
                x = sampler.step(without + GUIDANCE * (within - without), time, x)
            found.append(x)
        return torch.cat(found)


def painting_rows(parts: Parts, repeats: int) -> list[dict]:
    painting = Painting(parts)
    ways = {"released": painting.released, "pipeline": painting.pipeline,
            "ours, without gate": lambda: painting.ours(painting.own), "ours": lambda: painting.ours(painting.mixed)}
    wanted = ways["released"]()
    apart = {name: (way() - wanted).abs().max().item() for name, way in ways.items() if name != "ours"}
    seconds = paired(ways, repeats)
    return [{"way": name, "s": value, "times faster": seconds["released"] / value,
             "latents apart by": apart.get(name, "gated")} for name, value in seconds.items()]


# -- a step of training ------------------------------------------------------------------------------------------------
class Learning:
    def __init__(self, parts: Parts, net: MatchMaskNet):
        self.parts, self.net, self.abar = parts, net, alphas(NOISE)
        self.optimizer = torch.optim.AdamW(net.parameters(), 4e-5)

    def step(self, moments: Tensor, text: Tensor) -> None:
        parts = self.parts
        latents = draw(moments, 0.18215)
        times = torch.randint(1000, (BATCH,), device=parts.device)
        guide = self.net.guide(parts.labels, parts.tokens, parts.cells, rows=[0] * BATCH)
        loss = denoising_loss(self.net, latents, torch.randn_like(latents), times, text, guide, self.abar, "epsilon")
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def kept(self) -> None:
        self.step(self.parts.latents, self.parts.text.expand(BATCH, -1, -1))

    def encoded(self) -> None:
        with torch.no_grad():
            text = self.parts.encoder(self.parts.ids).last_hidden_state.float()
        self.step(encode(self.parts.vae, self.parts.pictures), text)


def learning_rows(parts: Parts, repeats: int) -> list[dict]:
    """Memory is the peak of a process on a GPU, of the whole command so far on a CPU (which only grows)."""
    adapter, whole = Learning(parts, parts.net(PICTURE)), Learning(parts, parts.net(OFF, "whole"))
    works = {"adapter, encoded at every step": adapter.encoded, "adapter, kept latents and prompts": adapter.kept,
             "whole UNet, kept": whole.kept}
    gigabytes = {name: peak(work, parts.device) for name, work in works.items()}
    seconds, first = paired(works, repeats), next(iter(works))
    learning = {name: whole if "whole" in name else adapter for name in works}
    return [{"step": name, "s": seconds[name], "times faster": seconds[first] / seconds[name], "GiB": gigabytes[name],
             "trained": sum(p.numel() for p in learning[name].net.parameters())} for name in works]


def peak(work, device: str) -> float:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**30
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20                # ru_maxrss counts KiB


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = Parts(FULL if device == "cuda" else SMALL, device)
    size = parts.size
    about = {"repeats": repeats, "side": size.side, "unet": size.unet, "steps": size.steps, "siblings": SIBLINGS, "batch": BATCH}
    title = f"MatchMask at {size.side} pixels, UNet {size.unet}, {device}"
    painting, learning = painting_rows(parts, repeats), learning_rows(parts, repeats)
    report(f"matchmask_{device}", f"{title}: {SIBLINGS} pictures of a label map, {size.steps} steps", painting, **about)
    report(f"matchmask_training_{device}", f"{title}: a step of {BATCH} pictures", learning, **about)


if __name__ == "__main__":
    main()
