"""AlignDiff's generator in training and in use: pairs to learnt words, words to pictures with masks."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.errors import UserError
from datamodules.samples import ExampleSet, default_palette
from zoo.aligndiff.bank import Instance, load_bank
from zoo.aligndiff.capture import LEVELS, Captured
from zoo.aligndiff.embedding import ADJECTIVE, NOUN, PLACEMENTS, Prompt, adjective, encode, named, noun, plain
from zoo.aligndiff.lessons import Lessons, known_instances, lesson_of, read_example, squeezed
from zoo.aligndiff.loss import MASKINGS, NORMALISED, cells_of, masked_loss
from zoo.aligndiff.masks import THRESHOLD, foreground
from zoo.aligndiff.paint import Job, Painter
from zoo.base import Generator, Pair
from zoo.diffusion.attention import install
from zoo.diffusion.latents import draw
from zoo.diffusion.latents import encode as encode_pictures
from zoo.diffusion.samplers import make_sampler, seed_of
from zoo.diffusion.schedule import add_noise, alphas, target
from zoo.optim import Optimisation
from zoo.tiny.base import PARTS, open_base
from zoo.visualize import enlarged, overlay, to_picture

MIDDLE = (0.5, 0.5, 0.5)                 # a VAE's pictures go from -1 to 1
BACKGROUND = "background"
ANYTHING = Instance("thing", "", "")     # what learns before any data are known
PROBES, PROBED = 8, 32                   # noise levels of validation, and pairs at most
say = rank_zero_only(print)


class AlignDiff(Generator):
    """Learns a word for each of a few pairs, and paints by it.

    base: see zoo/tiny/base.py. size: side of the squares, or (H, W), that pictures become and are painted in; null: the
    base's own. template: the sentence, {} for the class. placement: adjective | noun (plain textual inversion). vectors: so
    many for a pair, which start as the word `start`. masking: normalised | unnormalised | none; bg_lambda: see loss.py.
    split: whose examples are learnt from, of few-shot sets. pairs: those that were learnt from, a record of the run; null:
    those of the data. bank: a folder whose vectors are started from. texts: plain sentences beside the data's own; null: the
    template. sampler, steps, guidance, levels: see paint.py. threshold: of coarse masks. fss: config of the few-shot model
    for the figures at the end of a run (null: none). shown: so many pictures of each class are painted for these, half of
    them by the learnt word.
    """

    samples = "episodes"
    frozen = ("vae", "unet", "text_encoder")

    def __init__(
        self,
        base: str | dict,
        classes: list[str],
        palette: list[tuple[int, int, int]] | None = None,
        ignore: int = 255,
        optimisation: Optimisation | None = None,
        size: int | tuple[int, int] | None = None,
        template: str = "a photo of a {}",
        placement: str = ADJECTIVE,
        vectors: int = 1,
        start: str = "good",
        masking: str = NORMALISED,
        bg_lambda: float = 0.6,
        split: str = "test",
        pairs: list[dict[str, str]] | None = None,
        bank: str | None = None,
        texts: list[str] | None = None,
        sampler: str = "plms",
        steps: int = 50,
        guidance: float = 7.5,
        levels: int = LEVELS,
        threshold: float = THRESHOLD,
        fss: Any = None,
        shown: int = 8,
    ):
        super().__init__(classes, palette, ignore, MIDDLE, MIDDLE, optimisation)
        check(placement, masking, vectors, bg_lambda, threshold)
        for text in texts or []:
            if text.count("{}") != 1:                        # a sentence about one class would end all others' sets
                raise UserError(f"{text!r} has {text.count('{}')} places for a class's name", "model.texts", "write {} once")
        self.base = open_base(base)
        self.size = (self.base.side,) * 2 if size is None else (size, size) if isinstance(size, int) else tuple(size)
        self.base.latent_size(*self.size)                    # refuses what cannot be
        self.template, self.placement, self.vectors, self.start = template, placement, vectors, start
        self.masking, self.bg_lambda, self.split, self.threshold = masking, bg_lambda, split, threshold
        self.texts, self.fss, self.shown = list(texts or [template]), fss, shown
        self.painting = {"sampler": sampler, "steps": steps, "guidance": guidance, "levels": levels}
        if levels < 1:
            raise UserError(f"{levels} levels", "model.levels", "give 1 (the finest side) or more; released: 3")
        make_sampler(sampler, self.base.configs["scheduler"]).times(steps)               # refuses what cannot be, at once
        self.vae, self.unet, self.text_encoder = self.base.vae, self.base.unet, self.base.text.encoder
        install(self.unet, Captured)                         # at once, so that painting in a run changes nothing of it
        self.abar = alphas(self.base.configs["scheduler"])
        self._begun = load_bank(bank, self.base) if bank else {}
        if lengths := sorted({len(v) for v in self._begun.values()} - {vectors}):
            raise UserError(f"{lengths[0]} vectors a pair, not {vectors}", bank, f"give model.vectors={lengths[0]}")
        self.known = pairs is not None
        self.take_instances([Instance(**pair) for pair in pairs] if self.known else [ANYTHING])
        self._painter: Painter | None = None
        self._kept: Lessons | None = None
        self.train()                                         # a base comes in eval mode
        self.freeze()

    def take_instances(self, instances: list[Instance]) -> None:
        """What there is a word for; each is a parameter of its own, so that one which is not in a batch stays as it is."""
        text = self.base.text
        table, tokens = text.encoder.embeddings.token_embedding.weight, text.tokenizer(self.start).input_ids
        if len(tokens) != 3:                                 # its start, the word, its end
            raise UserError(f"{self.start!r} is {len(tokens) - 2} tokens", "model.start", "give a word that is one")
        begin = table[tokens[1]].detach().float().expand(self.vectors, -1)
        self.instances = instances
        self.rows = {(one.word, one.name): row for row, one in enumerate(instances)}
        self.bank = nn.ParameterList(nn.Parameter(self._begun.get(one, begin).clone()) for one in instances)
        self.prompts = [self.prompt_of(one.word) for one in instances]

    def prompt_of(self, word: str) -> Prompt:
        place = {ADJECTIVE: adjective, NOUN: noun}[self.placement]
        return place(self.base.text, self.template, word, self.vectors)

    def bases(self) -> dict[str, str]:
        return {part: self.base.sha256(part) for part in PARTS}

    def saved_recipe(self) -> dict:
        """With the pairs, whose number is that of the vectors."""
        if not self.known:
            return self.recipe
        pairs = [vars(one) for one in self.instances]
        return self.recipe | {"model": self.recipe["model"] | {"pairs": pairs, "bank": None, "fss": None}}

    def check_data(self, data) -> None:
        """Any set that has examples. The first one gives the pairs that are learnt from."""
        if not callable(getattr(data, "example_sets", None)) or data.samples == "segments":
            raise UserError("AlignDiff learns from pairs of a picture and a mask", f"data={data.name}",
                            "give data=pair, data=prompted or a few-shot set")
        if data.synthetic is not None:
            raise UserError("a generator learns from real pictures", "data.synthetic", "leave it out")
        if not self.known:
            self.take_instances(known_instances(data, self.split, self.size, self.prompt_of))
            self.known = True
            if self._begun:
                self._say_begun()

    def _say_begun(self) -> None:
        """How many words start from the bank; a bank of none of these pairs is not what was meant."""
        begun = sum(one in self._begun for one in self.instances)
        if not begun:
            raise UserError("none of the data's pairs is in this bank", "model.bank",
                            "give a bank learnt from these pictures, at this model.size, or leave it out")
        say(f"{begun} of {len(self.instances)} pairs start from the bank")

    def take_classes(self, classes: list[str], palette: list[tuple[int, int, int]] | None, where: str) -> None:
        """Any will do. Labels count from 1, behind a background."""
        if classes[0] == BACKGROUND:
            self.classes, self.palette = list(classes), list(palette or default_palette(len(classes)))
        else:
            self.classes, self.palette = [BACKGROUND, *classes], default_palette(1 + len(classes))

    def label_of(self, word: str) -> int:
        return self.classes.index(word)

    # -- training --
    def wrap(self, dataset: Dataset) -> Dataset:
        """The pairs with their latents in place of the set's own samples."""
        data = self.trainer.datamodule
        self._kept = Lessons(data, self.split, self.instances, self.vae, self.size, flip_of(data))
        return self._kept

    def on_train_start(self) -> None:
        words = {one.word for one in self.instances}
        say(f"{len(self.instances)} pairs of {len(words)} classes: {self.vectors} x {self.base.text_width} numbers learn of each")

    def training_step(self, batch: dict, index: int) -> Tensor:
        moments, cells, rows = lesson_of(batch) or self._lesson_of_episodes(batch)
        latents = draw(moments.to(self.device), self.base.scaling)
        times = torch.randint(len(self.abar), (len(latents),), device=latents.device)
        each = self.errors(latents, torch.randn_like(latents), times, cells.to(self.device), rows)
        total = sum(each[[place for place, other in enumerate(rows) if other == row]].mean() for row in set(rows))
        if self.trainer.world_size > 1:                      # processes exchange all gradients, also of what their rows lack
            total = total + 0 * sum(vector.sum() for vector in self.bank)
        self.log_losses({"loss_noise": total.detach() / len(set(rows))})
        return total

    def errors(self, latents: Tensor, noise: Tensor, times: Tensor, cells: Tensor, rows: list[int],
               learnt: bool = True) -> Tensor:
        """The loss of each of B rows (loss.py). rows: which instance each is of; learnt: with its own word, or without."""
        text = self.states(rows) if learnt else self._plain_states(rows)
        abar = self.abar.to(times.device)[times]
        noisy = add_noise(latents, noise, abar)
        answer = self.unet(noisy, times, encoder_hidden_states=text.to(noisy)).sample
        aim = target(self.base.prediction, latents, noise, abar)
        return masked_loss(answer, aim, cells, self.bg_lambda, self.masking)

    def states(self, rows: list[int]) -> Tensor:
        """B T width; each instance's prompt passes through the text encoder once, with its own vectors."""
        different = sorted(set(rows))
        states = encode(self.text_encoder, [self.prompts[row] for row in different], [self.bank[row] for row in different])
        return states[[different.index(row) for row in rows]]

    def _plain_states(self, rows: list[int]) -> Tensor:
        prompts = [named(self.base.text, self.template, self.instances[row].word) for row in rows]
        return encode(self.text_encoder, prompts, [None] * len(prompts))

    def _lesson_of_episodes(self, batch: dict) -> tuple[Tensor, Tensor, list[int]]:
        """Of episodes as they are: every support is a lesson; of the one word there is before any data are known."""
        pictures, masks = batch["supports"].flatten(0, 1), batch["support_masks"].flatten(0, 1)
        moments = encode_pictures(self.vae, torch.stack([squeezed(picture, self.size) for picture in pictures]))
        names = [(word, name) for word, names in zip(batch["word"], batch["support_names"]) for name in names]
        if self.known and (strange := [name for name in names if name not in self.rows]):
            raise UserError("no word learns of it", "/".join(strange[0]), "train by train.py, which gives the pairs themselves")
        return moments, cells_of(masks, tuple(moments.shape[-2:])), [self.rows.get(name, 0) for name in names]

    # -- painting --
    def painter(self) -> Painter:
        if self._painter is None:
            self._painter = Painter(self.base, self.size, **self.painting)
        self._painter.empty = self._painter.empty.to(self.device)
        return self._painter

    def painting_about(self) -> dict:
        """What pictures depend on beside the weights, plain."""
        return self.painting | {"size": list(self.size), "texts": self.texts, "threshold": self.threshold}

    def planned(self, examples: ExampleSet, number: int, share: float, seed: int) -> Job:
        """The picture of this number: by a learnt word at `share` of all numbers, evenly spread, else by a plain text."""
        before, now = int(number * share + 1e-9), int((number + 1) * share + 1e-9)
        if now > before:
            names = self.learnt_names(examples)
            name = names[before % len(names)]
            row = self.rows[examples.word, name]
            return Job(self.prompts[row], self.bank[row].detach(), seed_of(seed, examples.key, name, number))
        texts = [*self.texts, *examples.texts]
        text = texts[(number - before) % len(texts)]
        prompt = named(self.base.text, text, examples.word) if "{}" in text else plain(self.base.text, text, examples.word)
        return Job(prompt, None, seed_of(seed, examples.key, text, number))

    def learnt_names(self, examples: ExampleSet) -> list[str]:
        """The pairs of a set that a word was learnt from."""
        names = [name for name in examples.names if (examples.word, name) in self.rows]
        if not names:
            raise UserError(f"no word was learnt from {', '.join(examples.names)[:80]}", examples.word,
                            "give the data= (and data.seed) of the training, or share=0 for plain texts alone")
        return names

    def generate(self, what: str, k: int = 5, seed: int = 0, name: str = "") -> list[Pair]:
        """K pictures of a word with coarse masks. name: of the pair whose learnt word is used; "": a plain text alone."""
        if k < 1:
            raise UserError(f"{k} pictures", "k", "give 1 or more")
        self.eval()
        examples = ExampleSet(what, 0, (name,) if name else ())
        jobs = [self.planned(examples, number, float(bool(name)), seed) for number in range(k)]
        pictures, coarse = self.painter().paint(jobs)
        return [Pair(examples.key, number, picture, foreground(values, self.threshold).to(torch.uint8), job.seed, job.prompt.text,
                     what) for number, (job, picture, values) in enumerate(zip(jobs, pictures, coarse))]

    def making(self, data, settings: dict):
        """Sets of examples to painted pictures with masks."""
        from zoo.aligndiff.making import SetMaking

        return SetMaking(self, data, self.sets_of(data), settings)

    def sets_of(self, data) -> list[ExampleSet]:
        return data.example_sets(self.split)

    def real_pairs(self, data, examples: ExampleSet) -> list[tuple[Tensor, Tensor]]:
        """The set's pictures with masks bool H W, at their own sizes; what cannot be used is passed over."""
        found = [read_example(data, self.split, name, examples) for name in examples.names]
        return [(picture, grey > 0.5) for picture, grey in filter(None, found)]

    # -- validation --
    def evaluator(self, split: str):
        return Figures()

    def _judge(self, split: str, batch: dict) -> None:
        """Nothing is asked of the set's own samples: see `_finish`."""

    def _finish(self, split: str) -> None:
        """How large the error of the pairs themselves is, at the same noise every time, with the learnt word and without."""
        if self._kept is not None:
            for name, value in self.probe().items():
                self.log(f"{split}/{name}", value, rank_zero_only=False)
        self.log("step", float(self.global_step))

    @torch.no_grad()
    def probe(self) -> dict[str, float]:
        """Means over the first pairs of their loss, unmirrored, at evenly spread times."""
        sums = {"loss": 0.0, "loss_without": 0.0}
        rows = range(min(PROBED, len(self.instances)))
        times = torch.linspace(0, len(self.abar) - 1, PROBES + 2)[1:-1].long().to(self.device)
        for row in rows:
            latents = (self._kept.moments[row, 0].chunk(2)[0] * self.base.scaling).to(self.device).expand(PROBES, -1, -1, -1)
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(row)).to(self.device)
            cells = self._kept.cells[row, 0].to(self.device).expand(PROBES, -1, -1)
            for name, learnt in (("loss", True), ("loss_without", False)):
                sums[name] += self.errors(latents, noise, times, cells, [row] * PROBES, learnt).mean().item() / len(rows)
        return sums

    def panel(self, sample: dict) -> dict[str, np.ndarray]:
        """An example, and what is painted of its class: by text, and by its learnt word if it has one."""
        if "supports" in sample:
            picture, mask = sample["supports"][0], sample["support_masks"][0]
            word, name = sample["word"], sample["support_names"][0]
        else:
            picture, labels, name = sample["image"], sample["labels"], sample["name"]
            things = [n for n in labels.unique().tolist() if 0 < n < len(self.classes)]
            if not things:                                   # a scene of background alone
                return {BACKGROUND: enlarged(to_picture(picture))}
            word, mask = self.classes[things[0]], labels == things[0]
        shown = {word: to_picture(picture), "mask": dark(to_picture(picture), mask)}
        for title, of in {"by text": "", "by its word": name}.items():
            if of and (word, of) not in self.rows:
                continue
            with suppress(UserError):                        # a name that no prompt can hold is not painted
                pair = self.generate(word, 1, 0, of)[0]
                shown |= {title: to_picture(pair.picture), f"{title}, mask": dark(to_picture(pair.picture), pair.labels)}
        return {title: enlarged(one) for title, one in shown.items()}

    def closing(self, data, folder: Path) -> list[str]:
        """The bank, a sheet, and how far the masks agree with the oracle's."""
        from zoo.aligndiff.closing import close

        return close(self, data, folder)


class Figures(nn.Module):
    """Stands where a metric would: the figures of validation are of the pairs, not of the set's samples."""

    def compute(self) -> dict[str, float]:
        return {}


def check(placement: str, masking: str, vectors: int, bg_lambda: float, threshold: float) -> None:
    for key, value, known in (("placement", placement, PLACEMENTS), ("masking", masking, MASKINGS)):
        if value not in known:
            raise UserError(f"{key}={value!r}", f"model.{key}", f"give {', '.join(known)}")
    if vectors < 1:
        raise UserError(f"{vectors} vectors", "model.vectors", "give 1 or more")
    if bg_lambda < 0:
        raise UserError(f"{bg_lambda} is negative", "model.bg_lambda", "give 0 or more; released: 0.6")
    if not 0 < threshold < 1:
        raise UserError(f"{threshold} is no share", "model.threshold", "give a number between 0 and 1; released: 0.4")


def flip_of(data) -> float:
    """The probability with which a set's pictures are mirrored in training."""
    return float(data.flip)


def dark(picture: np.ndarray, mask: Tensor) -> np.ndarray:
    """Dark but for what the mask marks: no colour would stand out on every object."""
    marked = torch.as_tensor(mask).cpu().numpy() > 0
    return overlay(picture, np.where(marked, 255, 0), [(0, 0, 0)], 0.75)


