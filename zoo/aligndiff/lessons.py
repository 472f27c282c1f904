"""What words are learnt from: pairs of a picture and a mask, their latents' moments and cells computed once, mirrored too."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datamodules.errors import UserError
from datamodules.samples import ExampleSet
from zoo.aligndiff.bank import Instance
from zoo.aligndiff.loss import FOREGROUND, cells_of
from zoo.diffusion.latents import encode

MOMENTS, CELLS, PAIR = "moments", "cells", "pair"
say = rank_zero_only(print)


def squeezed(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 3 H W at `size`, its sides' ratio lost: bicubic, antialiased."""
    if tuple(picture.shape[-2:]) == tuple(size):
        return picture
    grown = F.interpolate(picture[None].float(), size, mode="bicubic", antialias=True)[0]
    return grown.round().clamp(0, 255).to(torch.uint8)


def read_example(data, split: str, name: str, examples: ExampleSet) -> tuple[Tensor, Tensor] | None:
    """A picture uint8 3 H W with its mask fp32 H W in 0..1; None, after one line, where it cannot be learnt from."""
    try:
        picture, grey = data.example(split, name, examples.class_id)
        marked = grey > FOREGROUND
        if not marked.any():
            raise UserError("an empty mask: it marks no pixel", name, "mark the object, or leave the picture out")
        if marked.all():
            raise UserError("a full mask: it marks every pixel", name, "leave the background unmarked, or the picture out")
    except UserError as error:
        say(f"passed over: {examples.word}, {error}")
        return None
    return picture, grey


def known_instances(data, split: str, size: tuple[int, int], prompt_of: Callable[[str], object]) -> list[Instance]:
    """The pairs of all example sets, each once; those that cannot be used are passed over. prompt_of: refuses a word that cannot
    be said."""
    sets, found = data.example_sets(split), {}
    said = {word for word in dict.fromkeys(one.word for one in sets) if can_be_said(word, prompt_of)}
    wanted = {(one.word, name): one for one in sets if one.word in said for name in one.names}
    for (word, name), examples in tqdm(wanted.items(), "examples", unit=" pairs", mininterval=2, leave=False):
        example = read_example(data, split, name, examples)
        if example is not None:
            pixels = squeezed(example[0], size).contiguous()
            found[word, name] = Instance(word, name, hashlib.sha256(pixels.numpy().tobytes()).hexdigest())
    if not found:
        raise UserError("no pair of a picture and a mask can be learnt from", f"data={data.name}", "see the lines above")
    return list(found.values())


def can_be_said(word: str, prompt_of: Callable[[str], object]) -> bool:
    try:
        prompt_of(word)
    except UserError as error:
        say(f"passed over: {error}")
        return False
    return True


class Lessons(Dataset):
    """[(visit, index)]: the pair `index`, mirrored with probability `flip` by (seed, visit).

    moments: N 2 2C h w, cells: bool N 2 h w, of all pairs as they are and mirrored. A lesson has the keys that the set's own
    collation asks for, with nothing in them.
    """

    def __init__(self, data, split: str, instances: list[Instance], vae, size: tuple[int, int], flip: float):
        self.seed, self.flip, self.kind = data.seed, flip, data.samples
        sets = {(one.word, name): one for one in data.example_sets(split) for name in one.names}
        moments, cells = [], []
        for one in tqdm(instances, "latents", unit=" pairs", mininterval=2, leave=False):
            if (one.word, one.name) not in sets:
                raise UserError(f"the data have no {one.word} {one.name}, which a word is learnt of", f"data={data.name}",
                                "train with the data= of the weights, or anew")
            example = read_example(data, split, one.name, sets[one.word, one.name])
            if example is None:
                raise UserError(f"{one.name} cannot be read any more", f"data={data.name}", "see the line above")
            picture, grey = example
            pictures = squeezed(picture, size)
            moments.append(encode(vae, torch.stack([pictures, pictures.flip(-1)])).cpu())
            cells.append(cells_of(torch.stack([grey, grey.flip(-1)]), tuple(moments[-1].shape[-2:])))
            if not cells[-1].any() or cells[-1].all():
                say(f"{one.word} {one.name}: object or background fill no latent cell, and weigh nothing")
        self.moments, self.cells = torch.stack(moments), torch.stack(cells)
        self.names = [one.key for one in instances]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        visit, index = key
        way = int(np.random.default_rng((self.seed, 1, visit)).random() < self.flip)
        lesson = {MOMENTS: self.moments[index, way], CELLS: self.cells[index, way], PAIR: index}
        return self._carrier(self.names[index]) | lesson

    def _carrier(self, name: str) -> dict:
        nothing = torch.empty(0)
        if self.kind == "episodes":
            tensors = dict.fromkeys(("query", "query_mask", "supports", "support_masks"), nothing)
            return tensors | {"class_id": 0, "name": name}
        return {"image": nothing, "labels": nothing, "name": name}


def lesson_of(batch: dict) -> tuple[Tensor, Tensor, list[int]] | None:
    """Moments B 2C h w, cells B h w and the pairs' numbers of a batch of lessons; None for one of the set's own samples."""
    if PAIR not in batch:
        return None
    return torch.stack(batch[MOMENTS]), torch.stack(batch[CELLS]), list(batch[PAIR])
