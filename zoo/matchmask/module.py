"""MatchMask's generator in training and in use: scenes to latents and guides, the loss, pictures for label maps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.errors import UserError
from datamodules.samples import default_palette
from zoo.base import Generator, Pair
from zoo.diffusion.latents import draw, encode
from zoo.diffusion.samplers import make_sampler
from zoo.diffusion.schedule import alphas
from zoo.matchmask.judge import Judge, Unjudged
from zoo.matchmask.layers import WHOLE
from zoo.matchmask.lessons import MOMENTS, squeezed, whole_scenes, with_moments
from zoo.matchmask.loss import denoising_loss
from zoo.matchmask.masks import FREE, resized
from zoo.matchmask.net import MatchMaskNet
from zoo.matchmask.paint import Job, Painted, Painter
from zoo.matchmask.prompts import Prompter
from zoo.metrics import SceneMetrics
from zoo.optim import Optimisation
from zoo.tiny.base import PARTS, open_base
from zoo.visualize import colourise, enlarged, to_picture

MIDDLE = (0.5, 0.5, 0.5)                 # a VAE's pictures go from -1 to 1
KEPT_PROMPTS = 2000                      # whose states are kept in training: 236 kB each with Stable Diffusion
SHOWN = 2                                # pictures of a label map on a panel
say = rank_zero_only(print)


class MatchMask(Generator):
    """Paints pictures into label maps.

    base: see zoo/tiny/base.py. net: makes the net of (unet). size: side of the squares, or (H, W), that pictures become and are
    painted in; null: the base's own. words, background_word, free: see prompts.py. dropout: probability of an empty prompt in
    training. sampler, steps, guidance, rectify: see paint.py. latents: folder in which the moments of training pictures are
    kept for all runs; null: they are encoded at every step. judge: see judge.py. full_tuning: at the end of a run the whole
    UNet is trained as long at this learning rate, and judged beside; null: it is not.
    """

    frozen = ("vae", "text_encoder")

    def __init__(
        self,
        base: str | dict,
        net: Callable[..., MatchMaskNet],
        classes: list[str],
        palette: list[tuple[int, int, int]] | None = None,
        ignore: int = 255,
        optimisation: Optimisation | None = None,
        size: int | tuple[int, int] | None = None,
        words: dict[str, str | None] | None = None,
        background_word: str | None = None,
        free: str = "all",
        dropout: float = 0.0,
        sampler: str = "plms",
        steps: int = 50,
        guidance: float = 2.0,
        rectify: bool = True,
        latents: str | None = None,
        judge: Judge | None = None,
        full_tuning: float | None = None,
    ):
        super().__init__(classes, palette, ignore, MIDDLE, MIDDLE, optimisation)
        if not 0 <= dropout < 1:
            raise UserError(f"{dropout} is no probability", "model.dropout", "give 0 or more, below 1; the paper's: 0")
        if full_tuning is not None and not full_tuning > 0:
            raise UserError(f"{full_tuning} is no learning rate", "model.full_tuning", "give more than 0, or null")
        self.place, self.base = base, open_base(base)
        self.size = (self.base.side,) * 2 if size is None else (size, size) if isinstance(size, int) else tuple(size)
        self.base.latent_size(*self.size)                    # refuses what cannot be
        self.net = net(unet=self.base.unet)
        self.net.unet.to(memory_format=torch.channels_last)  # at once, so that painting in a run changes nothing of it
        self.vae, self.text_encoder = self.base.vae, self.base.text.encoder
        self.words, self.background_word, self.free, self.dropout = dict(words or {}), background_word, free, dropout
        self.painting = {"sampler": sampler, "steps": steps, "guidance": guidance, "rectify": rectify}
        self.latents, self.full_tuning, self.judge = latents, full_tuning, Judge() if judge is None else judge
        self.abar = alphas(self.base.configs["scheduler"])
        self.prompter = self._prompter(self.words)
        make_sampler(sampler, self.base.configs["scheduler"]).times(steps)               # refuses what cannot be, at once
        self._states: dict[str, Tensor] = {}
        self.train()                                         # a base comes in eval mode
        self.freeze()

    def bases(self) -> dict[str, str]:
        parts = [part for part in PARTS if part != "unet" or not learns_whole(self.net)]
        return {part: self.base.sha256(part) for part in parts}

    def check_data(self, data) -> None:
        super().check_data(data)
        if data.synthetic is not None:
            raise UserError("a generator learns from real pictures", "data.synthetic", "leave it out")
        self.ignore = data.ignore
        self.prompter = self._prompter(self.words)
        self.judge.appoint(data)

    def take_classes(self, classes: list[str], palette: list[tuple[int, int, int]] | None, where: str) -> None:
        """Any will do that can be said in words."""
        self.classes, self.palette = list(classes), list(palette or default_palette(len(classes)))
        self.prompter = self._prompter({name: word for name, word in self.words.items() if name in classes})

    def _prompter(self, words: dict[str, str | None]) -> Prompter:
        text = self.base.text
        return Prompter(text.tokenizer, text.context, self.classes, words, self.background_word, self.ignore, self.free)

    # -- training --
    def wrap(self, dataset: Dataset) -> Dataset:
        """Whole scenes, squeezed, with kept moments if there is a place for them."""
        height, width = self.size
        say(f"scenes are squeezed whole to {width}x{height} and mirrored with probability {dataset.transform.flip}; "
            "data.crop, scale, colour and cat_max_ratio count for nothing here")
        whole = whole_scenes(dataset, self.size)
        if self.latents is None:
            return whole
        trainer = self.trainer
        return with_moments(whole, self.vae, self.base.sha256("vae"), self.latents, trainer.global_rank, trainer.world_size,
                            trainer.strategy.barrier)

    def on_train_start(self) -> None:
        gate = sum(p.numel() for p in self.net.gates.parameters())
        learns = sum(p.numel() for p in self.net.parameters())
        named = f"{len(self.net.layers)} layers at rank {self.net.rank}" if self.net.layers else "no layer"
        where = "the whole UNet" if learns_whole(self.net) else named
        say(f"{learns:,} parameters learn: {where}; {gate:,} of them are gates")

    def training_step(self, batch: dict, index: int) -> Tensor:
        labels = resized(batch["labels"], self.size)
        moments = self.moments(batch)
        latents = draw(moments, self.base.scaling)
        text, tokens = self.prompts(labels)
        noise = torch.randn(latents.shape, device=latents.device)        # whatever the latents' memory format: the same noise
        times = torch.randint(len(self.abar), (len(latents),), device=latents.device)
        guide = self.net.guide(labels, tokens, tuple(latents.shape[-2:]))
        return self.log_losses({"loss_noise": denoising_loss(self.net, latents, noise, times, text, guide, self.abar,
                                                             self.base.prediction)})

    def moments(self, batch: dict) -> Tensor:
        """B 2C h w, kept ones or made now."""
        if MOMENTS in batch:
            return torch.stack(batch[MOMENTS])
        return encode(self.vae, squeezed(batch["image"], self.size))

    def prompts(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """States B T width and tokens B T (prompts.py) of label maps B H W; some prompts are emptied."""
        prompts = [self.prompter.prompt(one) for one in labels.cpu()]
        texts, tokens = [prompt.text for prompt in prompts], torch.stack([prompt.tokens for prompt in prompts])
        if self.dropout:
            empty = torch.rand(len(texts)) < self.dropout
            texts = ["" if gone else text for gone, text in zip(empty, texts)]
            tokens = tokens.masked_fill(empty[:, None], FREE)
        return self.states(texts), tokens.to(labels.device)

    def states(self, texts: list[str]) -> Tensor:
        """B T width; those of a prompt are computed once."""
        absent = [text for text in dict.fromkeys(texts) if text not in self._states]
        if len(self._states) + len(absent) > KEPT_PROMPTS:
            self._states, absent = {}, list(dict.fromkeys(texts))
        if absent:
            self._states |= zip(absent, self.base.text.encode(absent))
        return torch.stack([self._states[text] for text in texts]).to(self.device)

    # -- painting --
    def painter(self, seed: int = 0) -> Painter:
        return Painter(self.base, self.net, self.prompter, self.size, seed=seed, **self.painting)

    @torch.inference_mode()
    def paint(self, jobs: list[Job], seed: int = 0) -> list[Pair]:
        """The pictures of all jobs, as one batch."""
        return [pair_of(painted) for painted in self.painter(seed).paint(jobs)]

    def generate(self, what: Tensor | np.ndarray, k: int = 5, seed: int = 0, name: str = "") -> list[Pair]:
        """K pictures, as one batch, painted into a label map H W of the classes' numbers, of any size."""
        self.eval()
        return self.paint([Job(name, torch.as_tensor(what), list(range(k)))], seed)

    def making(self, data, settings: dict):
        """Label maps of the labelled scenes, or of unlabelled ones, to pairs; filtered."""
        from zoo.matchmask.making import PairMaking

        return PairMaking(self, data, settings)

    # -- validation --
    @property
    def judged(self) -> bool:
        return bool(self.judge)

    def seen(self, pictures: Tensor) -> Tensor:
        return self.judge.see(pictures.to(self.device))

    def evaluator(self, split: str):
        return SceneMetrics(self.classes, ignore=self.ignore, boundary=False) if self.judged else Unjudged()

    def pairs_of(self, batch: dict) -> list[Pair]:
        return self.paint([Job(name, labels, [0]) for name, labels in zip(batch["name"], batch["labels"])])

    def panel(self, sample: dict) -> dict[str, np.ndarray]:
        pairs = self.generate(sample["labels"], SHOWN, name=sample["name"])
        shown = {
            "scene": to_picture(squeezed(sample["image"], self.size)),
            "label map": colourise(pairs[0].labels.numpy(), self.palette, self.ignore),
            **{f"painted {pair.number}": to_picture(pair.picture) for pair in pairs},
        }
        return {title: enlarged(picture) for title, picture in shown.items()}

    def closing(self, data, folder: Path) -> list[str]:
        """The adapter, a sheet, and how the pictures follow their label maps beside what the base does without it."""
        from zoo.matchmask.closing import close

        return close(self, data, folder)


def pair_of(painted: Painted) -> Pair:
    return Pair(painted.name, painted.number, painted.picture, painted.labels, painted.seed, painted.prompt.text)


def learns_whole(net: MatchMaskNet) -> bool:
    """Whether all of the UNet learns, so that a method's weights hold it."""
    return WHOLE in dict(net.named_children())
