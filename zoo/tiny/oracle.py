"""The judge of what the tiny generators paint: a small segmenter of demo objects, trained on plenty of scenes of ALL classes.

    oracle = Oracle.load()                      # the shipped weights; without them trains once, in minutes, and keeps the result
    labels = oracle.segment(pictures)           # uint8 B 3 H W -> uint8 B H W: 0 background, 1..56 the objects
    words = oracle.words(pictures)              # what is to be seen, [{"class": {"zebra"}, "form": {"beast"}, ...}, ...]
    print(oracle)                               # how good the judge itself is; oracle.accuracy holds all its figures

    python -m zoo.tiny.oracle train [out=folder]
    python -m zoo.tiny.oracle check [weights=file] [out=folder]

It knows the RARE and the NOVEL classes too, so it must never teach anything: it only judges. Made for pictures of 64 to 128
pixels a side. Trained on scenes of the last tenth of the methods' range of seeds; its figures are of the test range.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from datamodules.demo import ObjectScene, objects
from datamodules.demo.world import FAMILIES, NOVEL, OBJECT_LABELS, OBJECT_WORDS, OBJECTS, RARE, WORLD_SEED, seed_range
from datamodules.errors import UserError
from datamodules.files import write_bytes, write_json
from datamodules.samples import default_palette
from datamodules.scarce import cache
from zoo.tiny.pictures import GROUNDS, LAYOUTS
from zoo.tiny.training import cosine, descend, optimiser, train

FILE = Path(__file__).parent / "weights" / "oracle" / "oracle.safetensors"

GROUPS = {"seen": [w for w in OBJECT_WORDS if w not in RARE + NOVEL], "NOVEL": NOVEL, "RARE": RARE}
KINDS = ("class", "form", "pattern", "ground")
REACH = 0.08
SMALLEST = 0.005  # share of the picture's pixels: the least connected piece of a class that counts as seen

RECIPE = {
    "seed": 0,
    "lr": 3e-3,
    "widths": [40, 64, 80, 80],  # at 1/2, 1/4, 1/8, 1/16 of the picture's sides
    "pools": {  # scenes of 128 pixels, of which parts are shown; crowds are fuller than what is judged: more to learn from each
        "solo": [2000, {"solo": True}],
        "single": [1000, {"count": [1, 1], "radius": [0.12, 0.42]}],
        "crowd": [6000, {"count": [3, 7], "radius": [0.11, 0.3]}],
    },
    "phases": [  # steps, then batches: pool, side in pixels, pictures, share of the steps
        [1000, [["solo", 48, 24, 0.4], ["crowd", 64, 12, 0.6]]],
        [3200, [["solo", 48, 24, 0.1], ["single", 64, 12, 0.1], ["crowd", 64, 12, 0.5], ["crowd", 96, 6, 0.2],
                ["crowd", 128, 3, 0.1]]],
    ],
    "worn": [0.1, 0.5],  # no picture before this share of the steps, all of them after that one
    "world": hashlib.sha256(json.dumps([OBJECTS, FAMILIES]).encode()).hexdigest()[:12],
}
POOL_SIDE, DIVISOR, CHUNK = 128, 16, 64
JUDGED = {  # what its own figures are of: layout, side in pixels, pictures
    "scene, 64 px": ("scene", 64, 448),
    "solo, 64 px": ("solo", 64, 448),
    "scene, 128 px": ("scene", 128, 224),
    "solo, 128 px": ("solo", 128, 224),
}


# -- the net -----------------------------------------------------------------------------------------------------------
def conv(before: int, after: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, side, stride, side // 2, bias=False), nn.BatchNorm2d(after))


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.one, self.two = conv(width, width), conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.two(F.relu(self.one(x))))


class Net(nn.Module):
    """A U-Net at half the picture's sides; each of its cells answers for four pixels."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.stem = nn.Sequential(conv(3, widths[0], 5, stride=2), nn.ReLU())
        self.stages = nn.ModuleList([Block(widths[0])])
        self.stages += [nn.Sequential(conv(a, b, stride=2), nn.ReLU(), Block(b)) for a, b in zip(widths, widths[1:])]
        self.stages[1].append(Block(widths[1]))  # here a pattern's period is one or two cells
        self.lower = nn.ModuleList([nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:])])
        self.joined = nn.ModuleList([Block(a) for a in widths[:-1]])
        self.to_labels = nn.Conv2d(widths[0], 4 * len(OBJECT_LABELS), 1)
        self.to_ground = nn.Conv2d(widths[0], len(GROUNDS), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """B 3 H W in -1..1, sides divisible by 16 -> logits of the labels B 57 H W and of the grounds B 8."""
        x, kept = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            kept.append(x)
        for level in reversed(range(len(self.joined))):
            x = self.joined[level](kept[level] + F.interpolate(self.lower[level](x), scale_factor=2.0))
        return F.pixel_shuffle(self.to_labels(x), 2), self.to_ground(x).mean((2, 3))


def decide(logits: Tensor) -> Tensor:
    """B 57 H W -> labels B H W: where some thing is likelier than the background, the likeliest thing."""
    best = logits[:, 1:].argmax(1) + 1
    return best * (logits[:, 1:].logsumexp(1) > logits[:, 0])


def voted(logits: Tensor) -> Tensor:
    """B 57 H W -> labels B H W: what a pixel of a thing is, all things' pixels around it help to say (log-probabilities are
    averaged under a bell of REACH of the picture's shorter side): a net this small takes parts of a thing for another's."""
    things = logits[:, 1:].logsumexp(1) > logits[:, 0]
    votes = logits[:, 1:].log_softmax(1) * things[:, None]
    reach = REACH * min(logits.shape[2:])
    offsets = torch.arange(-int(3 * reach), int(3 * reach) + 1, device=logits.device)
    bell = torch.exp(-0.5 * (offsets / reach) ** 2).to(votes).expand(votes.shape[1], 1, 1, -1)
    middle = len(offsets) // 2
    votes = F.conv2d(votes, bell, padding=(0, middle), groups=votes.shape[1])
    votes = F.conv2d(votes, bell.transpose(2, 3), padding=(middle, 0), groups=votes.shape[1])
    return (votes.argmax(1) + 1) * things


def piecewise(logits: Tensor) -> np.ndarray:
    """B 57 H W -> labels uint8 B H W: each connected piece of things is one thing, the likeliest by all its pixels."""
    things = (logits[:, 1:].logsumexp(1) > logits[:, 0]).cpu().numpy()
    votes = logits[:, 1:].log_softmax(1).cpu().numpy()
    labels = np.zeros(things.shape, np.uint8)
    for one, thing, vote in zip(labels, things, votes):
        count, numbers = cv2.connectedComponents(thing.astype(np.uint8), connectivity=4)
        for number in range(1, count):
            piece = numbers == number
            one[piece] = vote[:, piece].sum(1).argmax() + 1
    return labels


def label_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Where things are, and which: their sum is the cross entropy, but here the second is a mean over the things' pixels alone.

    logits B 57 h w, truth B h w. Learns several times faster than the cross entropy, most pixels being background.
    """
    things = truth > 0
    where = F.binary_cross_entropy_with_logits(logits[:, 1:].logsumexp(1) - logits[:, 0], things.float())
    which = F.cross_entropy(logits[:, 1:].permute(0, 2, 3, 1)[things], truth[things] - 1, reduction="sum")
    return where + which / things.sum().clamp(min=1)


def to_input(pictures: Tensor) -> Tensor:
    """uint8 B 3 H W -> float in -1..1, channels last (a quarter faster on a CPU)."""
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


# -- what it is trained on ---------------------------------------------------------------------------------------------
def scene(index: int, side: int, layout: dict) -> ObjectScene:
    """Scene `index` with all classes; the two families take turns."""
    return objects(WORLD_SEED, index, (side, side), family=list(FAMILIES)[index % len(FAMILIES)], **layout)


class Pool:
    """The scenes of one layout (image, labels, number of the ground), drawn when first asked for and then kept."""

    def __init__(self, start: int, count: int, layout: dict):
        first, stop = seed_range("method")
        self.first, self.count, self.layout = stop - (stop - first) // 10 + start, count, layout
        self.kept: dict[int, tuple[np.ndarray, np.ndarray, int]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, int]:
        if i not in self.kept:
            drawn = scene(self.first + i, POOL_SIDE, self.layout)
            self.kept[i] = drawn.image, drawn.labels, GROUNDS.index(drawn.ground)
        return self.kept[i]


def pools(recipe: dict) -> dict[str, Pool]:
    """Each in its own ten thousand seeds."""
    return {name: Pool(10_000 * n, *pool) for n, (name, pool) in enumerate(recipe["pools"].items())}


def view(image: np.ndarray, labels: np.ndarray, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A square part of a scene, 5/8 of its height at least, often mirrored: H W 3 and H W of `side` pixels."""
    n = int(rng.integers(len(image) * 5 // 8, len(image), endpoint=True)) if rng.random() < 0.7 else len(image)
    y, x = rng.integers(0, len(image) - n, 2, endpoint=True)
    image, labels = image[y : y + n, x : x + n], labels[y : y + n, x : x + n]
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    how = cv2.INTER_AREA if n > side else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=how), shrunk(labels, side)


def shrunk(labels: np.ndarray, side: int) -> np.ndarray:
    """Labels H W at another size: the class that covers most of a pixel, as the world itself does it."""
    classes = np.unique(labels)
    shares = [cv2.resize((labels == c).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) for c in classes]
    return classes[np.argmax(shares, 0)]


def worn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture as a camera or a generator may give it: other colours, coarser, noisy, compressed. uint8 H W 3."""
    side = len(image)
    if rng.random() < 0.5:
        grey = image.mean(2, keepdims=True)
        image = grey + (image - grey) * rng.uniform(0.6, 1.3)
        image = (image - 128) * rng.uniform(0.75, 1.2) * rng.normal(1, 0.06, 3) + 128 + rng.uniform(-20, 20)
    image = np.clip(image, 0, 255).astype(np.float32)
    way = rng.random()
    if way < 0.3:
        less = max(int(side / rng.uniform(1.2, 2.2)), 1)
        image = coarse(image, less)
    elif way < 0.55:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.4:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 14))
    image = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image


def coarse(image: np.ndarray, less: int) -> np.ndarray:
    """What is left of a square picture after `less` pixels a side."""
    small = cv2.resize(image, (less, less), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)


class Training:
    def __init__(self, recipe: dict):
        torch.manual_seed(recipe["seed"])
        self.recipe, self.pools = recipe, pools(recipe)
        self.steps = sum(steps for steps, _ in recipe["phases"])
        self.net = Net(recipe["widths"]).to(memory_format=torch.channels_last)
        self.optimizer = optimiser(self.net, recipe["lr"], decay=0.02, betas=(0.9, 0.99))

    def step(self, number: int, rng: np.random.Generator) -> dict[str, float]:
        images, labels, ground = self.batch(number, rng)
        y, x = rng.integers(0, 2, 2)  # a quarter of the pixels, evenly spread, is enough to learn from
        truth = labels[:, y::2, x::2].long()
        logits, ground_logits = self.net(to_input(images))
        logits = logits[:, :, y::2, x::2]
        loss, ground_loss = label_loss(logits, truth), F.cross_entropy(ground_logits, ground)
        descend(loss + 0.2 * ground_loss, self.net, self.optimizer, self.recipe["lr"] * cosine(number, self.steps))
        right = (decide(logits) == truth)[truth > 0].float().sum() / (truth > 0).sum().clamp(min=1)
        return {"labels": loss.item(), "ground": ground_loss.item(), "right on things": right.item()}

    def batch(self, number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures uint8 B 3 H W, their labels B H W, the numbers of their grounds B."""
        start, end = self.recipe["worn"]
        wear = (number / self.steps - start) / (end - start)
        batches = self.recipe["phases"][0][1] if number < self.recipe["phases"][0][0] else self.recipe["phases"][1][1]
        name, side, count, _ = batches[rng.choice(len(batches), p=[share for *_, share in batches])]
        drawn = [self.pools[name][i] for i in rng.integers(len(self.pools[name]), size=count)]
        views = [view(image, labels, side, rng) for image, labels, _ in drawn]
        images = np.stack([worn(image, rng) if rng.random() < wear else image for image, _ in views])
        labels = np.stack([labels for _, labels in views])
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels), torch.tensor([g for *_, g in drawn])


# -- the judge ---------------------------------------------------------------------------------------------------------
class Oracle:
    """accuracy: figures of the oracle itself on pictures it has never seen, as `measure` gives them."""

    def __init__(self, net: Net, accuracy: dict):
        self.net, self.accuracy = net.eval(), accuracy

    @classmethod
    def load(cls, file: Path | None = None) -> "Oracle":
        """The weights of `file`, the shipped ones, those trained here before, or else those trained now (kept in ZOO_CACHE)."""
        if file is None and FILE.exists():
            file = FILE
        if file is None:
            file = cache() / f"tiny_oracle_{fingerprint(RECIPE)}" / FILE.name
            if not file.exists():
                print(f"no weights of the oracle are here: they are trained once, in {file.parent}", flush=True)
                make(file.parent)
        return read(file)

    @torch.inference_mode()
    def answers(self, pictures: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 B 3 H W -> logits of the labels b 57 H W and of the grounds b 8, some pictures at a time."""
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
            raise UserError(f"the oracle cannot see {pictures.dtype} {list(pictures.shape)}", mend="give it uint8 [B, 3, H, W]")
        height, width = pictures.shape[2:]
        border = (0, -width % DIVISOR, 0, -height % DIVISOR)
        device = next(self.net.parameters()).device
        for part in pictures.split(CHUNK):
            logits, ground = self.net(F.pad(to_input(part.to(device)), border, mode="replicate"))
            yield logits[:, :, :height, :width], ground

    def segment(self, pictures: Tensor) -> Tensor:
        """uint8 B 3 H W -> labels uint8 B H W: 0 background, 1..56 in the order of OBJECT_WORDS."""
        labels = torch.zeros_like(pictures[:, 0])
        found = [voted(logits) for logits, _ in self.answers(pictures)]
        return torch.cat(found).to(labels) if len(labels) else labels

    def words(self, pictures: Tensor) -> list[dict[str, set[str]]]:
        """The words that are true of each picture, by kind: class, form, pattern and ground (always one). Things that touch
        count as one thing, so this is for pictures of few things."""
        return [shown(labels) | {"ground": {GROUNDS[ground]}} for logits, grounds in self.answers(pictures)
                for labels, ground in zip(piecewise(logits), grounds.argmax(1).tolist())]

    def __str__(self) -> str:
        lines = []
        for quality, figures in self.accuracy.items():
            scenes, single = figures["scene, 64 px"], figures["solo, 64 px"]
            groups = ", ".join(f"{group} {scenes[f'mIoU {group}']:.3f}" for group in GROUPS)
            words = ", ".join(f"{kind} {single[kind]:.3f}" for kind in KINDS)
            lines.append(f"{quality}: mIoU {scenes['mIoU']:.3f} ({groups}), words of single objects: {words}")
        return "the oracle itself, on drawn test pictures of 64 px; " + "; ".join(lines)


def shown(labels: np.ndarray) -> dict[str, set[str]]:
    """Class, form and pattern words of a label map: of all connected pieces that are large enough."""
    seen = []
    for label in np.unique(labels[labels > 0]):
        pieces = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))[2][1:]
        if pieces[:, cv2.CC_STAT_AREA].max() >= SMALLEST * labels.size:
            seen.append(OBJECTS[label - 1])
    return {"class": {kind.word for kind in seen}, "form": {kind.form for kind in seen},
            "pattern": {kind.pattern for kind in seen}}


# -- its weights -------------------------------------------------------------------------------------------------------
def fingerprint(recipe: dict) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def make(folder: Path) -> Path:
    """Trains in this folder (a killed training goes on there), measures, writes the weights in half precision."""
    run = Training(RECIPE)
    train(folder, RECIPE, run.steps, {"net": run.net, "optimizer": run.optimizer}, run.step)
    run.net.half().float()  # what is measured is what is kept
    figures = measure(Oracle(run.net, {}))
    tensors = {name: value.half().contiguous() for name, value in run.net.state_dict().items() if value.is_floating_point()}
    notes = {"recipe": json.dumps(RECIPE), "fingerprint": fingerprint(RECIPE), "accuracy": json.dumps(figures)}
    write_bytes(folder / FILE.name, save(tensors, notes))
    return folder / FILE.name


def read(file: Path) -> Oracle:
    """The oracle of a file, which must be of today's recipe: classes and net could differ otherwise."""
    try:
        with safe_open(file, "pt") as kept:
            notes = kept.metadata() or {}
            tensors = {name: kept.get_tensor(name).float() for name in kept.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError) as error:
        raise UserError(f"no weights of the oracle ({error})", file, "train them: python -m zoo.tiny.oracle train") from error
    if notes.get("fingerprint") != fingerprint(RECIPE):
        raise UserError("weights of another recipe", file, "train them again: python -m zoo.tiny.oracle train")
    net = Net(RECIPE["widths"])
    counters = {name: value for name, value in net.state_dict().items() if not value.is_floating_point()}
    net.load_state_dict(tensors | counters)
    return Oracle(net.to(memory_format=torch.channels_last), json.loads(notes["accuracy"]))


# -- how good it is ----------------------------------------------------------------------------------------------------
def unseen(layout: str, side: int, count: int) -> list[ObjectScene]:
    """The first scenes of the test range."""
    first, _ = seed_range("test")
    return [scene(first + i, side, LAYOUTS[layout]) for i in range(count)]


def blurred(image: np.ndarray, number: int) -> np.ndarray:
    """A picture that lost detail as generated ones do: through 5/8 of its pixels, with a little noise. uint8 H W 3."""
    image = coarse(image, len(image) * 5 // 8).astype(np.float32)
    image += np.random.default_rng((2, number)).standard_normal(image.shape, np.float32) * 5
    return np.clip(image, 0, 255).astype(np.uint8)


def measure(oracle: Oracle) -> dict:
    """Figures by quality of the pictures (clean, blurred), then by kind of picture (JUDGED), as `figures` gives them."""
    found = {"clean": {}, "blurred": {}}
    for title, judged in JUDGED.items():
        scenes = unseen(*judged)
        truth = np.stack([s.labels for s in scenes])
        words = [shown(s.labels) | {"ground": {s.ground}} for s in scenes]
        images = [s.image for s in scenes]
        for quality, shown_images in (("clean", images), ("blurred", [blurred(image, i) for i, image in enumerate(images)])):
            pictures = torch.from_numpy(np.stack(shown_images)).permute(0, 3, 1, 2)
            found[quality][title] = figures(truth, words, oracle.segment(pictures).numpy(), oracle.words(pictures))
    return found


def figures(truth: np.ndarray, words: list[dict], labels: np.ndarray, said: list[dict]) -> dict[str, float]:
    """mIoU of all labels and by group of classes (of all pixels together); by kind of words the share of pictures whose words are
    exactly the true ones; by group the share of true class words that are said, and of said ones that are true."""
    number = len(OBJECT_LABELS)
    table = np.bincount(truth.ravel().astype(np.int64) * number + labels.ravel(), minlength=number**2).reshape(number, number)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    iou = np.where(union > 0, table.diagonal() / np.maximum(union, 1), np.nan)
    out = {"mIoU": float(np.nanmean(iou)), "IoU background": float(iou[0])}
    out |= {f"mIoU {group}": float(np.nanmean([iou[1 + OBJECT_WORDS.index(w)] for w in of])) for group, of in GROUPS.items()}
    out |= {kind: float(np.mean([a[kind] == b[kind] for a, b in zip(words, said)])) for kind in KINDS}
    for group, of in GROUPS.items():
        true, told = ([one["class"] & set(of) for one in side] for side in (words, said))
        both = sum(len(a & b["class"]) for a, b in zip(true, said)), sum(len(a["class"] & b) for a, b in zip(words, told))
        out[f"found {group}"], out[f"rightly said {group}"] = (
            hits / max(sum(map(len, of_all)), 1) for hits, of_all in zip(both, (true, told)))
    return out


# -- the command -------------------------------------------------------------------------------------------------------
def sheet(oracle: Oracle, columns: int = 10) -> np.ndarray:
    """Test pictures, clean and blurred, with the true labels and the oracle's; below its words, x: wrong, -: missed."""
    colours = np.array(default_palette(len(OBJECT_LABELS)), np.uint8)
    rows = []
    for layout in ("scene", "solo"):
        scenes = unseen(layout, 64, columns)
        for images in ([s.image for s in scenes], [blurred(s.image, i) for i, s in enumerate(scenes)]):
            pictures = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            labels, said = oracle.segment(pictures).numpy(), oracle.words(pictures)
            rows.append([column(*one) for one in zip(images, [colours[s.labels] for s in scenes], colours[labels], said,
                                                     [shown(s.labels)["class"] | {s.ground} for s in scenes])])
    return np.concatenate([np.concatenate(row, 1) for row in rows])


def column(image: np.ndarray, truth: np.ndarray, labels: np.ndarray, said: dict, right: set[str]) -> np.ndarray:
    """A picture, its true labels and the oracle's under each other, with the oracle's words."""
    large = [cv2.resize(part, (144, 144), interpolation=cv2.INTER_NEAREST) for part in (image, truth, labels)]
    text = np.full((64, 144, 3), 255, np.uint8)
    words = said["class"] | said["ground"]
    lines = [f"{'' if word in right else 'x '}{word}" for word in sorted(words)] + [f"- {word}" for word in sorted(right - words)]
    for i, line in enumerate(lines[:5]):
        cv2.putText(text, line, (3, 11 + 12 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return np.pad(np.concatenate([*large, text]), ((0, 4), (0, 4), (0, 0)), constant_values=255)


def check(oracle: Oracle, out: Path) -> None:
    """Prints its figures, measured again; writes them and a sheet of samples."""
    found = measure(oracle)
    for quality, kinds in found.items():
        for title, values in kinds.items():
            print(f"{quality}, {title}:", "  ".join(f"{name} {value:.3f}" for name, value in values.items()))
    write_json(out / "oracle.json", found)
    write_bytes(out / "oracle.png", cv2.imencode(".png", sheet(oracle)[..., ::-1])[1].tobytes())
    print(out / "oracle.json", out / "oracle.png", sep="\n")


def main(arguments: list[str]) -> None:
    command, *rest = arguments or [""]
    asked = dict(part.split("=", 1) for part in rest if "=" in part)
    known = {"train": {"out"}, "check": {"weights", "out"}}
    if command not in known or len(asked) < len(rest) or not set(asked) <= known[command]:
        raise UserError("what to do?", mend="python -m zoo.tiny.oracle train [out=folder] | check [weights=file] [out=folder]")
    out = Path(asked.get("out", "runs/tiny_oracle"))
    if command == "train":
        file = make(out)
        print(file, read(file), sep="\n")
    else:
        check(Oracle.load(Path(asked["weights"]) if "weights" in asked else None), out)


if __name__ == "__main__":
    from datamodules.errors import door

    door(lambda: main(sys.argv[1:]))
