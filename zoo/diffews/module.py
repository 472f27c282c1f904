"""DiffewS in training and in use: episodes to latents, the loss, figures, and how examples label a picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.errors import UserError
from datamodules.samples import default_palette
from zoo.base import Segmentation, Segmenter, as_image
from zoo.diffews.bases import open_base
from zoo.diffews.episodes import PICTURES, batch_moments, episode_seed, moments_of, same_supports, seeds_of, with_moments
from zoo.diffews.examples import BACKGROUND, Examples, Support, load_examples, read_support, save_examples, squeeze
from zoo.diffews.loss import velocity_loss
from zoo.diffews.masks import draw_masks, foreground
from zoo.diffews.masks import picture as mask_picture
from zoo.diffews.net import CONCATENATION, DiffewSNet
from zoo.diffews.process import Process
from zoo.diffews.show import pictures_of
from zoo.diffusion.attention import Memory
from zoo.diffusion.base import digest
from zoo.diffusion.latents import decode, draw, mean
from zoo.inference import Inference
from zoo.metrics import EpisodeIoU
from zoo.optim import Optimisation

MIDDLE = (0.5, 0.5, 0.5)                                     # a VAE's pictures go from -1 to 1
ORIGINAL = "original"                                        # the protocol at the photos' own sizes, beside the published one


class DiffewS(Segmenter):
    """Labels a picture by examples of what is meant.

    base, start: see bases.py. net: makes the net of (unet, text, reference). process: one step, or several. size: side of the
    squares that pictures become in `predict`; in training and evaluation data.size is. threshold, relative: see masks.py.
    sampling: KV sampling, see attention.py. latents: folder in which the moments of training pictures are kept, encoded once for
    all runs; null: they are encoded at every step.
    """

    samples = "episodes"
    frozen = ("vae",)

    def __init__(
        self,
        base: str | dict,
        net: Callable[..., DiffewSNet],
        classes: list[str],
        palette: list[tuple[int, int, int]] | None = None,
        ignore: int = 255,
        optimisation: Optimisation | None = None,
        inference: Inference | None = None,
        process: Process | None = None,
        start: str = "base",
        size: int = 512,
        threshold: float = 0.25,
        relative: bool = True,
        sampling: bool = False,
        latents: str | None = None,
    ):
        super().__init__(classes, palette, ignore, MIDDLE, MIDDLE, optimisation, inference=inference)
        if not 0 <= threshold < 1:
            raise UserError(f"{threshold} is no share", "model.threshold", "give 0 or more, below 1; published: 0.25")
        found = open_base(base, start)
        self.base, self.sha256, self.vae = base, found.sha256, found.vae
        self.net = net(unet=found.unet, text=found.text, reference=found.reference)
        self.process = process or Process()
        self.size, self.threshold, self.relative, self.sampling, self.latents = size, threshold, relative, sampling, latents
        self.train()                                         # a base comes in eval mode
        self.freeze()

    def bases(self) -> dict[str, str]:
        return {"vae": self.sha256}

    def saved_recipe(self) -> dict:
        """What is saved holds the UNet and the prompt: of the base its VAE is enough then."""
        return self.recipe | {"model": self.recipe["model"] | {"start": "weights", "latents": None}}

    def check_data(self, data) -> None:
        super().check_data(data)
        if self.latents is not None and data.colour:
            raise UserError("colours change with every visit, so latents cannot be kept", f"data.colour={data.colour}",
                            "set it to 0, or model.latents=null")

    def take_classes(self, classes: list[str], palette: list[tuple[int, int, int]] | None, where: str) -> None:
        """Any will do: what is meant is shown, not learnt."""
        self.classes, self.palette = list(classes), list(palette or default_palette(len(classes)))

    # -- training --
    def wrap(self, dataset: Dataset) -> Dataset:
        """The training episodes with kept moments, if there is a place for them."""
        if self.latents is None:
            return dataset
        trainer = self.trainer
        return with_moments(dataset, self.vae, self.sha256, self.latents, trainer.global_rank, trainer.world_size,
                            trainer.strategy.barrier)

    def training_step(self, batch: dict, index: int) -> Tensor:
        z = {name: draw(batch_moments(self.vae, name, batch), self.vae.config.scaling_factor) for name in PICTURES}
        masks = z["support_masks"] if self.net.injection == CONCATENATION else batch["support_masks"]
        times = self.process.times(len(z["query"]))
        noisy = self.process.noisy(z["query"], z["query_mask"], times)
        v = self.net(noisy, z["supports"], masks, times)
        return self.log_losses({"loss_v": velocity_loss(v, self.process.target(z["query"], z["query_mask"], times))})

    # -- from examples to masks --
    def latents_of(self, pictures: Tensor) -> Tensor:
        """uint8 [..., 3, h, w] -> the likeliest latents [..., C, h', w']."""
        return mean(moments_of(self.vae, pictures), self.vae.config.scaling_factor)

    def remember(self, supports: Tensor, masks: Tensor, weights: Tensor | None = None) -> list[Memory]:
        """Memories of B episodes. supports: uint8 B S 3 h w; masks: B S h w in {0, 1}; weights: B S, how much each counts."""
        given = self.latents_of(draw_masks(masks)) if self.net.injection == CONCATENATION else masks
        return self.process.condition(self.net, self.latents_of(supports), given, weights)

    def answer(self, queries: Tensor, memories: list[Memory], seeds: list[int]) -> Tensor:
        """Decoded answers B 3 h w, about -1..1, to queries uint8 B 3 h w. seeds: of KV sampling, one for each of the memories'
        episodes."""
        if self.sampling:
            memories = [memory.sampled(seeds) for memory in memories]
        return decode(self.vae, self.process.answer(self.net, self.latents_of(queries), memories))

    def outputs(self, batch: dict) -> Tensor:
        """Decoded answers B 3 h w to a batch of episodes. Neighbours with the same supports share one memory."""
        given = {name: batch[name] for name in ("supports", "support_masks", "support_weights") if name in batch}
        spans = same_supports(given)
        if self.sampling or len(spans) == len(batch["query"]):
            return self.answer(batch["query"], self.remember(*given.values()), seeds_of(batch))
        return torch.cat([self.answer(batch["query"][span], self.remember(*(part[span][:1] for part in given.values())), [0])
                          for span in spans])

    def marked(self, output: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """bool H W of one decoded answer 3 h w, at its own size or at another."""
        return foreground(mask_picture(output[None], size), self.threshold, self.relative)[0]

    # -- evaluation --
    def evaluator(self, split: str) -> EpisodeIoU:
        """Means are over the classes that the trainer's data judge on this split."""
        data = None if self._trainer is None else self.trainer.datamodule
        return EpisodeIoU(self.classes, None if data is None else data.class_ids(split))

    def _start(self, split: str) -> None:
        super()._start(split)
        self.metrics[f"{split}_{ORIGINAL}"] = self.evaluator(split).to(self.device)

    def _judge(self, split: str, batch: dict) -> None:
        """Two protocols at once: at data.size, as published, and at the photos' own sizes."""
        self.refuse_inference()
        for b, output in enumerate(self.outputs(batch)):
            class_id, truth = int(batch["class_id"][b]), batch["query_truth"][b]
            self.metrics[split].update(self.marked(output), batch["query_mask"][b], class_id)
            self.metrics[f"{split}_{ORIGINAL}"].update(self.marked(output, tuple(truth.shape)), truth, class_id)

    def _finish(self, split: str) -> None:
        """The second protocol is told where it differs, that is where a photo has another size than data.size."""
        super()._finish(split)
        square, own = (self.metrics[name].compute() for name in (split, f"{split}_{ORIGINAL}"))
        for name, value in own.items() if own != square else ():
            if "/" not in name:
                self.log(f"{split}/{name}_{ORIGINAL}", torch.tensor(value), rank_zero_only=False)

    def refuse_inference(self) -> None:
        if self.inference.averages or self.inference.mode == "slide":
            raise UserError("DiffewS answers about a whole picture at once", "inference", "leave out slide, flip and scales")

    @torch.inference_mode()
    def found_in(self, episode: dict) -> Tensor:
        """bool h w: the answer to one episode, not batched."""
        batch = {key: episode[key][None].to(self.device) for key in ("query", "supports", "support_masks")}
        memories = self.remember(batch["supports"], batch["support_masks"])
        return self.marked(self.answer(batch["query"], memories, [episode_seed(episode)])[0])

    def panel(self, sample: dict) -> dict[str, np.ndarray]:
        return pictures_of(sample, {"prediction": self.found_in(sample)})

    def closing(self, data, folder: Path) -> list[str]:
        """Figures on the classes of the test split beside two baselines, and a sheet of them."""
        from zoo.diffews.novel import judge

        return judge(self, data, folder)

    # -- use --
    @torch.inference_mode()
    def condition(self, support: Support) -> Examples:
        """What the examples (examples.py) become, for any number of pictures."""
        self.eval()
        shown = read_support(support, self.size)
        return Examples({word: self.remember(*(part[None].to(self.device) for part in pair)) for word, pair in shown.items()})

    def prepare(self, support: Support | None = None, memory: str | Path | None = None) -> dict:
        """support: see examples.py; memory: a file, read, or written if there is a support too."""
        if support is None and memory is None:
            raise UserError("DiffewS is asked by example", "support", "give support=[[picture, mask], ...] or memory=<file>")
        if support is None:
            examples = load_examples(memory, digest(self.net))
            on = {word: [one.to(self.device) for one in memories] for word, memories in examples.memories.items()}
            return {"memory": Examples(on)}
        examples = self.condition(support)
        if memory is not None:
            save_examples(memory, examples, digest(self.net))
        return {"memory": examples}

    @torch.inference_mode()
    def predict(self, picture: str | Path | np.ndarray | Tensor, support: Support | None = None,
                memory: str | Path | Examples | None = None) -> Segmentation:
        """Labels of what the examples show, at the picture's own size: 0 is background, the classes count from 1 in their order.
        Where several are found, the brightest answer counts.

        picture: as in `Segmenter.predict`. support: see examples.py. memory: what `condition` gave, or a file (see `prepare`).
        """
        self.refuse_inference()
        examples = memory if isinstance(memory, Examples) else self.prepare(support, memory)["memory"]
        self.eval()
        image = as_image(picture)
        size, query = tuple(image.shape[-2:]), squeeze(image, self.size)[None].to(self.device)
        labels, best = (torch.zeros(size, dtype=kind, device=self.device) for kind in (torch.uint8, torch.int32))
        for number, memories in enumerate(examples.memories.values(), 1):
            shown = mask_picture(self.answer(query, memories, [0]), size)                                    # 1 3 H W
            bright = shown.sum(1, dtype=torch.int32) * foreground(shown, self.threshold, self.relative)     # 1 H W
            labels[bright[0] > best] = number
            best = torch.maximum(best, bright[0])
        classes = [BACKGROUND, *examples.memories]
        palette = default_palette(len(classes))
        return Segmentation(labels.cpu().numpy(), image.permute(1, 2, 0).numpy(), classes, palette, self.ignore)
