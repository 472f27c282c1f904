"""What `python -m zoo.generate` does with a MatchMask: label maps to painted pairs, filtered.

Label maps are those of the labelled scenes; of unlabelled ones, as a segmenter sees them (MatchMask++). Pictures are painted, or
taken from a folder that was painted before, or pasted together from the labelled scenes (the free rival).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from datamodules.errors import UserError
from datamodules.files import PICTURES, Tree, read_image
from datamodules.samples import Made, Scene
from zoo.base import Pair
from zoo.matchmask.judge import known_segmenter
from zoo.matchmask.paint import Job, grouped
from zoo.matchmask.painted import PaintedBefore
from zoo.matchmask.paste import pasted
from zoo.matchmask.sieve import Sieve, open_sieve

PAINT, PASTE = WAYS = ("paint", "paste")
SHARE = 0.5                              # of configs/generate.yaml, which is not MatchMask's
PAINTED_BY = ("weights", "seed", "precision")                # settings of a painted folder that say where its pictures are from


class Pictures:
    """Pictures of a folder, without labels."""

    def __init__(self, place: str):
        if not Path(place).is_dir():
            raise UserError("no such folder", f"pseudo.pictures={place}", "give a folder of pictures")
        self.tree = Tree(place)
        self.files = self.tree.list(suffixes=PICTURES)
        if not self.files:
            raise UserError("no pictures", place, f"put {', '.join(PICTURES)} files there")
        self.names = [Path(file).stem for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> dict:
        image = read_image(self.tree.open(self.files[index]), self.tree.where(self.files[index]))
        return {"image": image, "name": self.names[index], "size": tuple(image.shape[-2:])}


class PseudoLabelled:
    """Pictures with labels as a segmenter sees them. Classes with a smaller share of the pixels than `least` are ignored."""

    def __init__(self, source, segmenter, least: float, ignore: int):
        self.source, self.segmenter, self.least, self.ignore, self.names = source, segmenter, least, ignore, source.names

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Scene:
        scene = self.source.read(index)
        labels = self.segmenter.inference.labels(self.segmenter, scene["image"].to(self.segmenter.device)).cpu()
        found, counts = labels.unique(return_counts=True)
        small = found[counts < self.least * labels.numel()]
        return scene | {"labels": labels.masked_fill(torch.isin(labels, small), self.ignore)}


class Joined:
    """The scenes of one source, then those of another."""

    def __init__(self, first, second):
        self.first, self.second, self.names = first, second, [*first.names, *second.names]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Scene:
        count = len(self.first)
        return self.first.read(index) if index < count else self.second.read(index - count)


class PairMaking:
    """See zoo.base.Making: a unit is a label map with its K pictures. settings: configs/generate.yaml."""

    def __init__(self, model, data, settings: dict):
        check(settings)
        self.model, self.k, self.batch, self.seed = model, settings["k"], settings["batch"], settings["seed"]
        self.by, self.join = settings["by"], settings["pseudo"]["join"]
        self.scenes, self.about = data.source("train"), {"k": self.k, "by": self.by, "flip": settings["flip"]}
        self.source = self._source(data, settings)
        mirrored = [False, True] if settings["flip"] else [False]
        self.units = [(index, way) for index in range(len(self.source)) for way in mirrored]
        stems = unlike(self.source.names)
        self.names = [stems[index] + ("_mirrored" if way else "") for index, way in self.units]
        place = settings["painted"]
        self.painted = PaintedBefore.of(place, data.classes, model.ignore, self.k) if place else None
        if self.painted is not None:
            self.painted.expect(self.names)
        self.sieve: Sieve | None = open_sieve(settings["filter"], model, self.scenes, self.k)
        self.about |= {} if self.sieve is None else {"filter": self.sieve.about}
        if self.painted is not None:                         # who painted them, which may be another run than this
            self.about |= {key: self.painted.about[key] for key in PAINTED_BY} | {"painted": self.painted.about}

    def _source(self, data, settings: dict):
        """The scenes whose label maps are painted: the labelled ones, and unlabelled ones behind them."""
        from zoo import hub

        if not settings["unlabelled"]:
            return self.scenes
        pseudo = settings["pseudo"]
        if not pseudo["weights"]:
            raise UserError("who labels the unlabelled pictures?", "unlabelled=true", "give pseudo.weights=<segmenter>")
        segmenter = known_segmenter(pseudo["weights"], data.classes, self.model.device, "pseudo.weights")
        source = Pictures(pseudo["pictures"]) if pseudo["pictures"] else data.source("unlabelled")
        if not len(source):
            raise UserError("no picture of the set is left unlabelled", "unlabelled=true",
                            "set data.labelled to a part of them, or give pseudo.pictures=<folder>")
        self.about["pseudo"] = pseudo | {"weights": hub.sha256(pseudo["weights"])}
        return Joined(self.scenes, PseudoLabelled(source, segmenter, pseudo["least"], self.model.ignore))

    # -- the work --
    def make(self, units: list[int]) -> Iterator[tuple[int, list[Pair]]]:
        numbers = {self.names[unit]: unit for unit in units}
        waiting: dict[str, list[Pair]] = {}
        for pair in self._pairs(units):
            siblings = waiting.setdefault(pair.source, [])
            siblings.append(pair)
            if len(siblings) == self.k:
                unit = numbers[pair.source]
                yield unit, self._finished(unit, waiting.pop(pair.source))

    def _pairs(self, units: list[int]) -> Iterator[Pair]:
        """The K pairs of each unit, unfiltered."""
        if self.painted is not None:
            for unit in units:
                yield from self.painted.pairs(self.names[unit])
        elif self.by == PASTE:
            for unit in units:
                scene, name, things = self._scene(unit), self.names[unit], self._things()
                yield from (pasted(scene, self.scenes, things, self.seed, name, number) for number in range(self.k))
        else:
            jobs = (Job(self.names[unit], self._scene(unit)["labels"], list(range(self.k))) for unit in units)
            for group in grouped(jobs, self.batch):
                yield from self.model.paint(group, self.seed)

    def _scene(self, unit: int) -> Scene:
        index, mirrored = self.units[unit]
        scene = self.source.read(index)
        return scene | {key: scene[key].flip(-1) for key in ("image", "labels") if mirrored}

    def _things(self) -> list[int]:
        """Classes that have a word: what has none is ground, and is not pasted."""
        words = self.model.prompter.words
        return [number for number, name in enumerate(self.model.classes) if words[name]]

    def _finished(self, unit: int, pairs: list[Pair]) -> list[Pair]:
        if self.by == PAINT and self.painted is None:
            prompt = self.model.prompter.prompt(pairs[0].labels)
            if remark := prompt.remark():
                print(f"{self.names[unit]}: {remark}", flush=True)
        if self.sieve is not None:
            pairs = self.sieve(pairs)
        if not self.join or self.units[unit][0] < len(self.scenes):
            return pairs
        scene = self._scene(unit)                            # the photograph itself, as in plain self-training
        return [*pairs, Pair(self.names[unit], self.k, scene["image"], scene["labels"], self.seed, "")]

    def summary(self, rows: list[Made]) -> dict[str, dict[str, float]]:
        return {} if self.sieve is None else self.sieve.summary(rows)


def check(settings: dict) -> None:
    for key in ("k", "batch"):
        if settings[key] < 1:
            raise UserError(f"{settings[key]} pictures", key, "give 1 or more")
    if settings["by"] not in WAYS:
        raise UserError(f"by={settings['by']!r}", "by", f"give {' or '.join(WAYS)}")
    if settings["painted"] and settings["by"] == PASTE:
        raise UserError("pictures are either pasted or painted before", "by=paste", "leave out painted=")
    if idle := [key for key in ("weights", "pictures", "join") if settings["pseudo"][key] and not settings["unlabelled"]]:
        raise UserError("no unlabelled pictures are asked for", f"pseudo.{idle[0]}", "give unlabelled=true, too")
    of_others = ["fss"] * bool(settings["fss"]["weights"] or settings["fss"]["model"]) + ["share"] * (settings["share"] != SHARE)
    if of_others:
        raise UserError("MatchMask paints into label maps, not from words", of_others[0], "leave it out")
    if not 0 <= settings["pseudo"]["least"] < 1:
        raise UserError(f"{settings['pseudo']['least']} is no share", "pseudo.least", "give 0 or more, below 1")


def unlike(names: list[str]) -> list[str]:
    """Names of which no two are alike: those that repeat get their place in the set behind them."""
    repeated = {name for name, count in zip(*np.unique(names, return_counts=True)) if count > 1}
    return [f"{name}@{place}" if name in repeated else name for place, name in enumerate(names)]

