"""What `python -m zoo.generate` does with an AlignDiff: sets of examples to painted pictures with masks, coarse or aligned.

A set of examples (an episode's supports, or all pairs of a word) gets K pictures: a share of them by the words learnt from its
pairs in turn, the rest by plain texts. With a few-shot model a set is one piece of work, since Algorithm 1 looks at all its
pictures; they are painted block by block, and the blocks lie in <out>/.parts until the set is done. Without one, a block is one.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from datamodules.errors import UserError
from datamodules.files import Tree, read_image, read_labels, write_bytes
from datamodules.samples import CLASSES, IMAGES, MANIFEST, MASKS, ExampleSet, Made, read_classes, read_manifest
from datamodules.settings import make
from zoo.aligndiff.align import Aligned, align
from zoo.aligndiff.judge import Oracle, agreement, found, mean
from zoo.aligndiff.masks import foreground
from zoo.base import MADE_WITH, Pair

ALPHAS = (0.6, 0.7, 0.8, 0.9)            # at which the share that would be accepted is told
BLOCK = 16                               # pictures that are one piece of work where masks stay coarse
PARTS = ".parts"                         # the folder of what is under way, in a synthetic folder


@dataclass
class Painting:
    """picture: uint8 3 H W; coarse: bool H W; learnt: whether by a learnt word."""

    number: int
    picture: Tensor
    coarse: Tensor
    prompt: str
    seed: int
    learnt: bool


@dataclass
class Result:
    """A set's paintings with what became of their masks: aligned, or not (None). seen: what the oracle sees."""

    examples: ExampleSet
    paintings: list[Painting]
    aligned: Aligned | None
    seen: list[Tensor] = field(default_factory=list)

    def masks(self) -> list[Tensor]:
        return self.aligned.masks if self.aligned else [painting.coarse for painting in self.paintings]

    def figures(self, place: int) -> dict[str, float]:
        """Of one painting, for its row."""
        painting, aligned = self.paintings[place], self.aligned
        figures = {"learnt": float(painting.learnt)}
        if aligned:
            figures |= {"iou": aligned.iou[place] if aligned.iou[place] == aligned.iou[place] else 0.0,
                        "accepted": float(aligned.accepted[place])}
        if self.seen:
            seen = self.seen[place]
            figures |= {"found": float(found(seen)), "oracle_coarse": agreement(painting.coarse, seen)}
            if aligned:
                figures |= {"oracle_first": agreement(aligned.first[place].cpu(), seen),
                            "oracle_aligned": agreement(aligned.masks[place].cpu(), seen)}
        return figures


class SetMaking:
    """See zoo.base.Making. settings: configs/generate.yaml. sets: of the data, as `AlignDiff.sets_of` gives them."""

    def __init__(self, model, data, sets: list[ExampleSet], settings: dict):
        check(settings)
        self.model, self.data, self.sets, self.settings = model, data, sets, settings
        self.k, self.seed, self.share, self.batch = (settings[key] for key in ("k", "seed", "share", "batch"))
        self.fss = make(settings["fss"])
        self.matcher = self.fss.open(model.device) if self.fss else None
        self.oracle = Oracle([one.word for one in sets], data.name)
        self.painted = Before.of(settings["painted"], self.k) if settings.get("painted") else None
        blocks = 1 if self.fss else -(-self.k // BLOCK)
        if self.share and not self.painted and not any(self.learnt(one) for one in sets[:-1]):
            model.learnt_names(sets[-1])                     # not one set can be painted: refused at once
        if self.painted and not any(one.key in self.painted.rows for one in sets):
            self.painted.paintings(sets[0])                  # likewise
        self.units = [(one, block) for one in sets for block in range(blocks)]
        self.names = [one.key + (f".{block}" if blocks > 1 else "") for one, block in self.units]
        how = {"share": self.share, "painting": model.painting_about()}
        self.about = {"k": self.k} | ({"painted": self.painted.about} if self.painted else how)
        self.about |= {"fss": self.fss.about()} if self.fss else {}

    def learnt(self, examples: ExampleSet) -> bool:
        return any((examples.word, name) in self.model.rows for name in examples.names)

    # -- the work --
    def make(self, units: list[int]) -> Iterator[tuple[int, list[Pair]]]:
        for unit in units:
            examples, block = self.units[unit]
            try:
                result = self.result(examples, block)
            except UserError as error:                       # a set that cannot be used does not end the others' work
                print(f"{examples.word}: {error}", flush=True)
                result = Result(examples, [], None)
            yield unit, self.pairs(result)
            for file in self._blocks(examples):              # the set is on the disk by now
                file.unlink(missing_ok=True)

    def result(self, examples: ExampleSet, block: int = 0) -> Result:
        """The paintings of a set (of one block of them, where masks stay coarse), and their masks."""
        numbers = range(self.k) if self.fss else range(BLOCK * block, min(self.k, BLOCK * (block + 1)))
        paintings = self.painted.paintings(examples) if self.painted else self.paint(examples, list(numbers))
        paintings = [painting for painting in paintings if painting.number in numbers]
        if constant := [painting for painting in paintings if is_constant(painting.picture)]:
            print(f"{examples.word}: {len(constant)} pictures of one colour are dropped", flush=True)
            paintings = [painting for painting in paintings if not is_constant(painting.picture)]
        aligned = self.align(examples, paintings) if self.matcher and paintings else None
        result = Result(examples, paintings, aligned)
        if self.oracle and paintings:
            result.seen = list(self.oracle.masks(torch.stack([painting.picture for painting in paintings]), examples.word))
        return result

    def align(self, examples: ExampleSet, paintings: list[Painting]) -> Aligned:
        real = self.model.real_pairs(self.data, examples)
        if not real:
            raise UserError("no example can be used, so no mask can be aligned", ", ".join(examples.names)[:80],
                            "see the lines above; fss=none keeps coarse masks")
        aligned = align(self.matcher, real, [painting.picture for painting in paintings],
                        [painting.coarse for painting in paintings], self.fss.algorithm)
        if not any(aligned.accepted):
            print(f"{examples.word}: no picture is accepted at alpha={self.fss.algorithm.alpha}: "
                  "masks are estimated with the real pairs alone", flush=True)
        return aligned

    def pairs(self, result: Result) -> list[Pair]:
        label = self.model.label_of(result.examples.word)
        return [Pair(result.examples.key, painting.number, painting.picture, mask.cpu().to(torch.uint8) * label, painting.seed,
                     painting.prompt, result.examples.word, result.figures(place))
                for place, (painting, mask) in enumerate(zip(result.paintings, result.masks()))
                if not (result.aligned and result.aligned.dropped[place])]

    # -- painting --
    def paint(self, examples: ExampleSet, numbers: list[int]) -> list[Painting]:
        """Pictures by number, block by block; a block that is on the disk already is taken from there."""
        found: list[Painting] = []
        for first in trange(0, len(numbers), BLOCK, desc=examples.word, leave=False, disable=len(numbers) <= 4 * BLOCK):
            part = numbers[first : first + BLOCK]
            file = self._block(examples, part[0]) if self.fss else None
            paintings = read_block(file, len(part)) if file is not None else None
            if paintings is None:
                paintings = self._paint(examples, part)
                if file is not None:
                    write_bytes(file, block_bytes(paintings))
            found += paintings
        return found

    def _paint(self, examples: ExampleSet, numbers: list[int]) -> list[Painting]:
        plans = [self.model.planned(examples, number, self.share, self.seed) for number in numbers]
        paintings: list[Painting] = []
        for first in range(0, len(plans), self.batch):
            part = plans[first : first + self.batch]
            pictures, coarse = self.model.painter().paint(part)
            for number, job, picture, values in zip(numbers[first:], part, pictures, coarse):
                mask = foreground(values, self.model.threshold)
                paintings.append(Painting(number, picture, mask, job.prompt.text, job.seed, job.vectors is not None))
        return paintings

    def _block(self, examples: ExampleSet, first: int) -> Path | None:
        return Path(self.settings["out"]) / PARTS / f"{examples.key}.{first}.npz" if self.settings["out"] else None

    def _blocks(self, examples: ExampleSet) -> list[Path]:
        return [self._block(examples, first) for first in range(0, self.k, BLOCK)] if self.fss and self.settings["out"] else []

    # -- figures --
    def summary(self, rows: list[Made]) -> dict[str, dict[str, float]]:
        """Shares of pictures and mean IoU with what the oracle sees, of pictures in which it finds the class; by how they were
        prompted. Dropped pictures are in no row."""
        wanted = self.k * len(self.sets)
        columns = {"all": rows, "by a learnt word": [row for row in rows if row["filter"]["learnt"]],
                   "by plain text": [row for row in rows if not row["filter"]["learnt"]]}
        groups = getattr(self.data, "groups", {})
        columns |= {group: [row for row in rows if row["word"] in words] for group, words in groups.items()}
        columns |= {f"{group}, {how}": [row for row in columns[how] if row["word"] in words]
                    for group, words in groups.items() for how in ("by a learnt word", "by plain text")}
        results = {name: self._figures([row["filter"] for row in chosen]) for name, chosen in columns.items() if chosen}
        if rows:
            results["all"] = {"kept": len(rows) / wanted} | results["all"]
        return results

    def _figures(self, each: list[dict[str, float]]) -> dict[str, float]:
        values = {}
        if self.fss:
            values["accepted"] = mean([one["accepted"] for one in each])
            values |= {f"IoU with f from {alpha}": mean([float(one["iou"] >= alpha) for one in each]) for alpha in ALPHAS}
        if not self.oracle:
            return values
        values["class found"] = mean([one["found"] for one in each])
        shown = [one for one in each if one["found"]]
        good = [one for one in shown if one.get("accepted")]
        for name, key in (("coarse", "oracle_coarse"), ("f alone", "oracle_first"), ("aligned", "oracle_aligned")):
            if key == "oracle_coarse" or self.fss:
                values[f"IoU, {name}"] = mean([one[key] for one in shown])
        for name, key in (("coarse", "oracle_coarse"), ("aligned", "oracle_aligned")):
            if self.fss:
                values[f"IoU of accepted, {name}"] = mean([one[key] for one in good])
        return values


def check(settings: dict) -> None:
    for key in ("k", "batch"):
        if settings[key] < 1:
            raise UserError(f"{settings[key]} pictures", key, "give 1 or more")
    if not 0 <= settings["share"] <= 1:
        raise UserError(f"{settings['share']} is no share", "share", "give 0 (plain texts alone) to 1 (learnt words alone)")
    strange = [key for key in ("unlabelled", "flip") if settings.get(key)] + ["by"] * (settings.get("by", "paint") != "paint")
    if strange:
        raise UserError("AlignDiff paints from words, not into label maps", strange[0], "leave it out")


def is_constant(picture: Tensor) -> bool:
    """Black, or of one colour: what a safety checker leaves, or numbers that ran away."""
    return bool(picture.float().std() < 1)


# -- blocks on the disk ------------------------------------------------------------------------------------------------
def block_bytes(paintings: list[Painting]) -> bytes:
    notes = json.dumps([[p.number, p.prompt, p.seed, p.learnt] for p in paintings])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pictures=np.stack([p.picture.numpy() for p in paintings]),
                        coarse=np.stack([p.coarse.numpy() for p in paintings]), notes=np.array(notes))
    return buffer.getvalue()


def read_block(file: Path, count: int) -> list[Painting] | None:
    """None where it is not there, or not whole."""
    try:
        with np.load(file) as kept:
            notes, pictures, coarse = json.loads(str(kept["notes"])), kept["pictures"], kept["coarse"]
    except Exception:  # noqa: BLE001  a torn archive may raise nearly anything; it is painted again
        return None
    if len(notes) != count:
        return None
    return [Painting(number, torch.from_numpy(picture), torch.from_numpy(mask), prompt, seed, learnt)
            for (number, prompt, seed, learnt), picture, mask in zip(notes, pictures, coarse)]


class Before:
    """A folder painted before with fss=none, whose pictures and coarse masks are taken."""

    def __init__(self, tree: Tree, classes: list[str], rows: dict[str, list[Made]], about: dict):
        self.tree, self.classes, self.rows, self.about = tree, classes, rows, about

    @classmethod
    def of(cls, place: str, k: int) -> "Before":
        if not Path(place).exists():
            raise UserError("no such folder", f"painted={place}", "give a folder painted with fss=none")
        tree = Tree(place)
        if not tree.has(MANIFEST) or not tree.has(MADE_WITH):
            raise UserError("no finished folder of painted pictures", place, "start python -m zoo.generate on it again")
        try:
            about = dict(json.loads(tree.text(MADE_WITH))["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{MADE_WITH} is damaged ({type(error).__name__})", place, "paint the folder anew") from error
        if "fss" in about:
            raise UserError("its masks are aligned already", place, "give the folder painted with fss=none")
        if (painted := about.get("k", 0)) < k:
            raise UserError(f"{painted} pictures of each set", place, f"give k={painted} or less, or paint more")
        rows: dict[str, list[Made]] = {}
        for row in read_manifest(tree.text(MANIFEST), tree.where(MANIFEST)):
            rows.setdefault(row["source"], []).append(row)
        return cls(tree, read_classes(tree.text(CLASSES), tree.where(CLASSES))[0], rows, about)

    def paintings(self, examples: ExampleSet) -> list[Painting]:
        if examples.key not in self.rows:
            raise UserError(f"no pictures painted for {examples.word}", self.tree, "give the data= it was painted for")
        label = self.classes.index(examples.word)
        return [self._painting(row, label) for row in self.rows[examples.key]]

    def _painting(self, row: Made, label: int) -> Painting:
        name = row["name"]
        file = next((f for suffix in (".png", ".jpg") if self.tree.has(f := f"{IMAGES}/{name}{suffix}")), f"{IMAGES}/{name}.png")
        labels = read_labels(self.tree.open(f"{MASKS}/{name}.png"), name)
        return Painting(int(name.rpartition("_")[2]), read_image(self.tree.open(file), self.tree.where(file)), labels == label,
                        row["prompt"], row["seed"], bool(row["filter"].get("learnt")))


