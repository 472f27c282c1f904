"""The upper bound of naming: true masks, named by cropping, by pooling and by the adapter (Fig. 1 of the paper)."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from datamodules.files import write_json
from zoo.mask_adapter.pictures import scene_picture
from zoo.mask_adapter.proposals import COPIES, drawn, rough, segments_of
from zoo.metrics import OpenVocabulary
from zoo.visualize import beside, save_png

CROPS = 16                          # encoded at a time
SHOWN = 4                           # scenes of the picture
WAYS = ("cropping", "mask pooling", "mask pooling, FC-CLIP's", "Mask-Adapter")
COLUMNS = {"  all": "", " seen": "_seen", "unseen": "_unseen", "unseen among themselves": "_unseen_among"}
ROUGH = "accuracy on rough masks"
Figures = dict[str, dict[str, float]]


def closing_lines(model, data, folder: Path) -> list[str]:
    """Writes upper_bound.json and panels/activations.png into the folder; the table as lines, and where the files lie.

    Where the training's predicted masks are rough copies of the true ones, naming those is measured, too.
    """
    samples = data.evaluation("val")
    count = min(len(samples), model.judging.bound)
    if not count:
        return []
    chosen = [samples[i * len(samples) // count] for i in range(count)]
    figures, masks = upper_bound(model, track(chosen, "upper bound", transient=True))
    if model.mixing.source == "rough":
        roughly, _ = upper_bound(model, track(chosen, "rough masks", transient=True), roughly=True)
        for way, row in roughly.items():
            figures[way] |= {key.replace("accuracy", ROUGH): value for key, value in row.items() if key.startswith("accuracy")}
    clean = {way: {key: None if v != v else v for key, v in row.items()} for way, row in figures.items()}
    write_json(folder / "upper_bound.json", {"results": clean, "masks": masks, "scenes": count, "data": data.name})
    save_png(folder / "panels" / "activations.png", examples(model, chosen))
    what = f"{count} scenes, {masks['seen']} masks of seen and {masks['unseen']} of unseen classes"
    where = f"masks, names, activation maps: {folder / 'panels' / 'activations.png'}"
    return [f"upper bound with true masks, {data.name} val: {what}, %", *table(figures), where]


@torch.inference_mode()
def upper_bound(model, samples: Iterable[dict], roughly: bool = False) -> tuple[Figures, dict[str, int]]:
    """{way: {accuracy<column>, mIoU<column>}} as fractions, and how many masks are seen and unseen.

    A class is seen if the training had one of its name. Unseen ones are named in the full list and, as a second question, in
    the list of the unseen alone. roughly: rough copies of the masks are named, the same ones each time.
    """
    metrics = {(way, among): _metric(model) for way in WAYS for among in (False, True)}
    counts = torch.zeros(2, dtype=torch.long)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for sample in samples:
            masks, classes = (part.to(model.device) for part in segments_of(sample, model.ignore))
            if roughly:
                masks, classes = rough(masks), classes.repeat_interleave(COPIES)
                masks, classes = (part[masks.flatten(1).any(1)] for part in (masks, classes))
            if len(masks):
                counts += _ask(model, metrics, sample["image"].to(model.device), masks, classes)
    figures = {way: _figures(metrics[way, False].compute(), metrics[way, True].compute()) for way in WAYS}
    return figures, dict(zip(("seen", "unseen"), counts.tolist()))


def _ask(model, metrics: dict, image: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
    """Names the masks of one picture in every way; how many are of seen and of unseen classes."""
    seen = model.seen
    new = ~seen[classes]
    for way, logits in named(model, image, masks):
        _count(metrics[way, False], masks, logits.argmax(-1), classes, model.ignore)
        among = logits[new].masked_fill(seen, -torch.inf).argmax(-1)
        _count(metrics[way, True], masks[new], among, classes[new], model.ignore)
    return torch.tensor([int((~new).sum()), int(new.sum())])


def _metric(model) -> OpenVocabulary:
    metric = OpenVocabulary(model.classes, model.seen.tolist(), model.ignore).to(model.device)
    metric.distributed_available_fn = lambda: False          # one process counts; the others do not wait for its sums
    return metric


def _count(metric: OpenVocabulary, masks: Tensor, guess: Tensor, classes: Tensor, ignore: int) -> None:
    if len(masks):
        metric.update_masks(guess, classes)
        metric.update(drawn(masks, guess, ignore), drawn(masks, classes, ignore))


def _figures(full: dict[str, float], among: dict[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for title, key in (("accuracy", "mask_acc"), ("mIoU", "mIoU")):
        found |= {f"{title}{part}": full[f"{key}{part}"] for part in ("", "_seen", "_unseen")}
        found[f"{title}_unseen_among"] = among[f"{key}_unseen"]
    return found


def named(model, image: Tensor, masks: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each way with its logits N C. image: 3 H W uint8; masks: bool N H W."""
    asker, net, text = model.asker, model.net, model.text(model.names)
    look = asker.look(image)
    placed, feature = asker.place(masks, look), look.features.feature
    embeddings = (
        torch.cat([net.clip.encode_image(crops(model, image, part)) for part in masks.split(CROPS)]),
        net.clip.project(area_mean(feature[0], placed)),
        net.pooled(feature, [placed])[0],
        asker.embed(look, placed),
    )  # fmt: skip
    for way, rows in zip(WAYS, embeddings, strict=True):
        yield way, asker.name(look, rows, text)[:, :-1]


def area_mean(feature: Tensor, masks: Tensor) -> Tensor:
    """feature Cf H W, masks N h w on the padded picture -> N Cf: the mean weighted by how much of a cell is inside."""
    share = F.adaptive_avg_pool2d(masks.float(), feature.shape[-2:]).flatten(1)                # N HW
    return share @ feature.flatten(1).T / share.sum(1, keepdim=True).clamp(min=1e-8)


def crops(model, image: Tensor, masks: Tensor) -> Tensor:
    """N 3 s s, normalised: each mask's bounding box, the mean colour outside the mask, at the CLIP's own size."""
    picture, side, found = model.normalise(image[None])[0], model.net.clip.side, []
    for mask in masks:
        y, x = (mask.any(1 - axis).nonzero().flatten() for axis in (0, 1))
        box = (slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)) if len(y) else (slice(None), slice(None))
        part = (picture * mask)[:, box[0], box[1]]                                             # 0 is the mean colour
        found.append(F.interpolate(part[None], (side, side), mode="bilinear", antialias=True)[0])
    return torch.stack(found)


def table(figures: Figures) -> list[str]:
    """Accuracy of masks, then mIoU, in percent; a line each way."""
    lines, width = [], max(map(len, figures))
    titles = ["accuracy", "mIoU", *([ROUGH] if ROUGH in next(iter(figures.values())) else [])]
    width = max(width, *map(len, titles))
    for title in titles:
        lines.append(f"{title:<{width}}  " + "  ".join(COLUMNS))
        for way, values in figures.items():
            cells = {head: values[f"{title}{part}"] for head, part in COLUMNS.items()}
            shown = [f"{'-' if v != v else f'{100 * v:.1f}':>{max(len(head), 5)}}" for head, v in cells.items()]
            lines.append(f"{way:<{width}}  " + "  ".join(shown))
    return lines


@torch.inference_mode()
def examples(model, samples: list[dict]):
    """A picture of the first scenes that have the most masks."""
    found = []
    for sample in sorted(samples, key=lambda s: -len(segments_of(s, model.ignore)[0]))[:SHOWN]:
        image = sample["image"].to(model.device)
        masks, classes = (part.to(model.device) for part in segments_of(sample, model.ignore))
        guess = model.guess(image, masks)
        names = [_told(model.classes[g], model.classes[c], bool(model.seen[c])) for g, c in zip(guess.tolist(), classes.tolist())]
        found.append(scene_picture(model.asker, image, masks[:SHOWN], names[:SHOWN]))
    return beside(found)


def _told(guess: str, truth: str, seen: bool) -> str:
    note = "" if seen else " (unseen)"
    return f"{guess}{note}" if guess == truth else f"{guess}, is {truth}{note}"
