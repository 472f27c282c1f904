"""Which layers of a base should learn: the gradient probe.

    python -m zoo.matchmask.probe data=<set> data.labelled=<n> [base=tiny] [seeds=[0,1,2]] [epochs=5] [steps=100] [out=<folder>]
    python -m zoo.matchmask.probe compare <folder> <folder> ...

The whole UNet is fine-tuned to paint into the labelled set's own label maps, rectified and without a gate, and each layer i is
scored twice (the paper's own formula is not public):

    change      mean over epochs of |w_i(e) - w_i(e - 1)| / |w_i(0)|                 while it learns
    gradient    |sum of its gradients over an epoch| / |w_i(0)|                      while nothing moves

It learns by SGD without momentum. With Adam every number moves by about the learning rate whatever its gradient is, so change
would rank the layers by the size of their weights.

Into `out` go layers.json (the scores, and the highest layers that fit the budget: model.net.layers=<out>/layers.json trains
them), layers.png and random_<n>.json, lists of random layers of about the same size. `compare` says how alike the rankings and
proposals of several probes are: of other seeds, of other data.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.errors import UserError
from datamodules.files import write_bytes, write_json
from zoo.diffusion.base import Base
from zoo.diffusion.latents import draw, encode
from zoo.diffusion.schedule import alphas
from zoo.matchmask.layers import KINDS, WHOLE, Layer, fill_budget, layers_of
from zoo.matchmask.loss import denoising_loss
from zoo.matchmask.masks import resized, resized_picture
from zoo.matchmask.net import OFF, MatchMaskNet
from zoo.matchmask.prompts import Prompter

USAGE = "python -m zoo.matchmask.probe data=<set> data.labelled=<n> [base=tiny] [out=<folder>]"
SCORES = CHANGE, GRADIENT = ("change", "gradient")
FILE, PICTURE = "layers.json", "layers.png"
LEAST = 1e-8                             # what the norm of a layer's weights is at least
SHOWN = 20                               # layers in the printed table


# -- what is learnt from -----------------------------------------------------------------------------------------------
@dataclass
class Lessons:
    """A labelled set as the net sees it: moments N 2C h w, text N T width, tokens N T, labels N H W."""

    moments: Tensor
    text: Tensor
    tokens: Tensor
    labels: Tensor

    @classmethod
    def of(cls, base: Base, prompter: Prompter, scenes, size: tuple[int, int]) -> Lessons:
        """scenes: of the data's source, each brought to `size` (H, W) whatever its shape, as FreestyleNet does."""
        moments, texts, tokens, labels = [], [], [], []
        for scene in scenes:
            moments.append(encode(base.vae, resized_picture(scene["image"], size)[None]))
            labels.append(resized(scene["labels"], size))
            prompt = prompter.prompt(labels[-1])
            texts.append(base.text.encode([prompt.text]))
            tokens.append(prompt.tokens)
        device = base.unet.device
        return cls(torch.cat(moments), torch.cat(texts), torch.stack(tokens).to(device), torch.stack(labels).to(device))

    def loss(self, net: MatchMaskNet, base: Base, batch: int, generator: torch.Generator) -> Tensor:
        """Of some pictures, times and noise: all of the generator's, which is on the CPU."""
        abar, device = alphas(base.configs["scheduler"]), self.moments.device
        some = torch.randint(len(self.moments), (batch,), generator=generator)
        times = torch.randint(len(abar), (batch,), generator=generator).to(device)
        latents = draw(self.moments[some].cpu(), base.vae.config.scaling_factor, generator)
        noise = torch.randn(latents.shape, generator=generator)
        guide = net.guide(self.labels[some], self.tokens[some], tuple(latents.shape[-2:]))
        return denoising_loss(net, latents.to(device), noise.to(device), times, self.text[some], guide, abar, base.prediction)


# -- scores ------------------------------------------------------------------------------------------------------------
def score(unet: torch.nn.Module, layers: list[Layer], loss_of: Callable[[torch.Generator], Tensor], seed: int, epochs: int,
          steps: int, lr: float, progress: Callable[[], object] = lambda: None) -> dict[str, np.ndarray]:
    """Both scores of each layer, by name of the score. The UNet's weights, all of them learning, are put back at the end."""
    parts = [list(unet.get_submodule(layer.name).parameters(recurse=False)) for layer in layers]
    parameters = [p for part in parts for p in part]
    start = _copies(parameters)
    sizes = _norms(parts, start).clamp(min=LEAST)
    generator, optimizer = torch.Generator().manual_seed(seed), torch.optim.SGD(parameters, lr)

    def epoch(learns: bool) -> None:
        optimizer.zero_grad()
        for _ in range(steps):
            loss = loss_of(generator)
            if not torch.isfinite(loss):
                raise UserError(f"the loss is {loss.item()}", "probe", "lower lr")
            loss.backward()
            if learns:
                optimizer.step()
                optimizer.zero_grad()
            progress()

    epoch(learns=False)
    gradient = _norms(parts, [p.grad for p in parameters]) / sizes
    change = torch.zeros_like(sizes)
    for _ in range(epochs):
        before = _copies(parameters)
        epoch(learns=True)
        change += _norms(parts, [p.detach() - old for p, old in zip(parameters, before)]) / sizes / epochs
    with torch.no_grad():
        for p, value in zip(parameters, start):
            p.copy_(value)
    optimizer.zero_grad()
    return {CHANGE: change.numpy(), GRADIENT: gradient.numpy()}


def _copies(parameters: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


def _norms(parts: list[list[Tensor]], values) -> Tensor:
    """The norm of each part's share of `values`, weight and bias together, fp64 on the CPU."""
    values = iter(values)
    return torch.stack([torch.stack([next(values).double().norm() for _ in part]).norm() for part in parts]).cpu()


def propose(layers: list[Layer], scores: np.ndarray, rank: int, budget: int) -> list[str]:
    """The layers with the highest scores that fit the budget."""
    names = fill_budget([layers[i] for i in np.argsort(-scores, kind="stable")], rank, budget)
    if not names:
        raise UserError(f"{budget} parameters do not suffice for one layer at rank {rank}", "budget", "give more")
    return names


def draw_layers(layers: list[Layer], rank: int, budget: int, seed: int) -> list[str]:
    """Random ones that fit the budget: what a proposal is to be better than."""
    order = np.random.default_rng(seed).permutation(len(layers))
    return fill_budget([layers[i] for i in order], rank, budget)


# -- what is written and printed ---------------------------------------------------------------------------------------
def record(layers: list[Layer], runs: list[dict[str, np.ndarray]], settings: dict) -> dict:
    """The content of layers.json. runs: the scores of each seed."""
    mean = {name: np.mean([run[name] for run in runs], 0) for name in SCORES}
    spread = {name: np.std([run[name] for run in runs], 0) for name in SCORES}
    rows = [asdict(layer) | {name: float(mean[name][i]) for name in SCORES}
            | {f"{name}_spread": float(spread[name][i]) for name in SCORES}
            | {f"{name}_by_seed": [float(run[name][i]) for run in runs] for name in SCORES} for i, layer in enumerate(layers)]
    chosen = {name: propose(layers, mean[name], settings["rank"], settings["budget"]) for name in SCORES}
    return {"layers": chosen[settings["score"]], "proposals": chosen, "scores": rows, "settings": settings}


def table(found: dict) -> str:
    """The highest layers by both scores, and the mean of each kind of layer."""
    rows, by = found["scores"], found["settings"]["score"]
    chosen = set(found["layers"])
    lines = [f"{'change':>9} {'gradient':>9}  kind            layer (* proposed, by {by})"]
    for row in sorted(rows, key=lambda row: -row[by])[:SHOWN]:
        mark = "*" if row["name"] in chosen else " "
        lines.append(f"{row[CHANGE]:9.2e} {row[GRADIENT]:9.2e}  {row['kind']:<14} {mark} {row['name']}")
    lines += ["", f"{'change':>9} {'gradient':>9}  mean of its layers"]
    for kind in KINDS:
        if mine := [row for row in rows if row["kind"] == kind]:
            change, gradient = (np.mean([row[name] for row in mine]) for name in SCORES)
            lines.append(f"{change:9.2e} {gradient:9.2e}  {kind} ({len(mine)})")
    return "\n".join(lines)


def draw_bars(found: dict) -> bytes:
    """PNG: both scores of each layer along the depth of the UNet, coloured by kind; proposed ones bear a mark."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, chosen = found["scores"], set(found["layers"])
    colours = {kind: f"C{i}" for i, kind in enumerate(KINDS)}
    figure = Figure(figsize=(max(10, len(rows) / 14), 7), layout="constrained")
    for axes, name in zip(figure.subplots(2, 1, sharex=True), SCORES):
        for kind in KINDS:
            places = [i for i, row in enumerate(rows) if row["kind"] == kind]
            axes.bar(places, [rows[i][name] for i in places], 0.9, color=colours[kind], label=kind)
        marked = [i for i, row in enumerate(rows) if row["name"] in chosen]
        axes.plot(marked, [rows[i][name] for i in marked], "k.", markersize=3)
        axes.set_yscale("log")
        axes.set_ylabel(name)
    firsts = [i for i, row in enumerate(rows) if i == 0 or row["block"] != rows[i - 1]["block"]]
    axes.set_xticks([i - 0.5 for i in firsts], [rows[i]["block"] for i in firsts], rotation=60, ha="left")
    figure.axes[0].legend(ncols=len(KINDS), fontsize="small", loc="lower left", bbox_to_anchor=(0, 1))
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def write(found: dict, layers: list[Layer], out: Path) -> None:
    settings = found["settings"]
    for number in range(settings["random"]):
        names = draw_layers(layers, settings["rank"], settings["budget"], number)
        write_json(out / f"random_{number}.json", {"layers": names, "settings": settings | {"drawn": number}})
    write_bytes(out / PICTURE, draw_bars(found))
    write_json(out / FILE, found)


# -- how alike several are ---------------------------------------------------------------------------------------------
def likeness(one: dict, other: dict) -> dict[str, float]:
    """Of two probes of one base, by score: Spearman's correlation of their rankings (rank_...), and the Jaccard index of their
    proposals (jaccard_...).
    """
    from scipy.stats import spearmanr

    if [row["name"] for row in one["scores"]] != [row["name"] for row in other["scores"]]:
        raise UserError("probes of two bases", "compare", "give probes of one")
    out = {}
    for name in SCORES:
        a, b = ([row[name] for row in found["scores"]] for found in (one, other))
        first, second = (set(found["proposals"][name]) for found in (one, other))
        out |= {f"rank_{name}": float(spearmanr(a, b).statistic),
                f"jaccard_{name}": len(first & second) / max(len(first | second), 1)}
    return out


def of_seeds(found: dict) -> list[dict]:
    """A probe as one probe a seed."""
    layers = [Layer(**{key: row[key] for key in Layer.__dataclass_fields__}) for row in found["scores"]]
    settings = found["settings"]
    runs = [{name: np.array([row[f"{name}_by_seed"][s] for row in found["scores"]]) for name in SCORES}
            for s in range(len(settings["seeds"]))]
    return [record(layers, [run], settings | {"seeds": [seed]}) for seed, run in zip(settings["seeds"], runs)]


def compare(probes: dict[str, dict]) -> list[str]:
    """Lines: likeness between the seeds of each probe (mean over pairs), then between the probes. probes: by name."""
    lines = [f"{'':<44} {'rank, change':>14} {'gradient':>9} {'Jaccard, change':>16} {'gradient':>9}"]
    pairs = [(f"{name}, between its {len(found['settings']['seeds'])} seeds", list(itertools.combinations(of_seeds(found), 2)))
             for name, found in probes.items()]
    pairs += [(f"{a} and {b}", [(probes[a], probes[b])]) for a, b in itertools.combinations(probes, 2)]
    for title, some in pairs:
        if some:
            alike = [likeness(*pair) for pair in some]
            mean = {key: np.mean([one[key] for one in alike]) for key in alike[0]}
            lines.append(f"{title:<44} {mean['rank_change']:14.3f} {mean['rank_gradient']:9.3f} {mean['jaccard_change']:16.3f} "
                         f"{mean['jaccard_gradient']:9.3f}")
    return lines


# -- the command -------------------------------------------------------------------------------------------------------
def main(arguments: list[str]) -> None:
    if arguments[:1] == ["compare"]:
        if not arguments[1:]:
            raise UserError("which probes?", mend="python -m zoo.matchmask.probe compare <folder> <folder> ...")
        print("\n".join(compare({place: read(Path(place)) for place in arguments[1:]})))
        return
    from datamodules.settings import read_settings

    run(read_settings("matchmask_probe", arguments, USAGE))


def read(place: Path) -> dict:
    path = place / FILE if place.is_dir() else place
    try:
        found = json.loads(path.read_text())
        of_seeds(found)
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError("not what a probe has written", path, "give its folder") from error


def run(config: dict) -> dict:
    """Scores the base's layers on the data's training split, prints and writes what is found."""
    from datamodules.settings import make
    from zoo.tiny.base import open_base

    settings = {key: value for key, value in config.items() if key != "data"}
    check(settings)
    data = make(config["data"])
    data.setup("fit")
    base = open_base(settings["base"]).to(settings["device"])
    size = (settings["size"] or base.side,) * 2
    prompter = Prompter(base.text.tokenizer, base.text.context, data.classes, settings["words"], settings["background_word"],
                        data.ignore, settings["free"])
    layers = layers_of(base.unet)
    net = MatchMaskNet(base.unet, layers=WHOLE, gate=OFF)
    source = data.source("train")
    lessons = Lessons.of(base, prompter, (source.read(i) for i in tqdm(range(len(source)), "pictures", mininterval=2)), size)
    runs = []
    total = len(settings["seeds"]) * (settings["epochs"] + 1) * settings["steps"]
    with tqdm(total=total, desc="steps", mininterval=2) as bar:
        for seed in settings["seeds"]:
            loss_of = lambda generator: lessons.loss(net, base, settings["batch"], generator)
            runs.append(score(net.unet, layers, loss_of, seed, settings["epochs"], settings["steps"], settings["lr"], bar.update))
    found = record(layers, runs, settings | {"data": data.name, "pictures": len(source), "unet": base.sha256("unet")})
    write(found, layers, Path(settings["out"]))
    print(table(found))
    if len(runs) > 1:
        print("", *compare({data.name: found}), sep="\n")
    print(f"\nproposal: {len(found['layers'])} layers, model.net.layers={Path(settings['out']) / FILE}\n"
          f"picture: {Path(settings['out']) / PICTURE}")
    return found


def check(settings: dict) -> None:
    if settings["score"] not in SCORES:
        raise UserError(f"no such score: {settings['score']!r}", "score", f"give {' or '.join(SCORES)}")
    for key in ("epochs", "steps", "batch", "rank", "budget", "size"):
        if (type(settings[key]) is not int or settings[key] < 1) and not (key == "size" and settings[key] is None):
            raise UserError(f"{settings[key]!r} is no whole number above 0", key, "correct it")
    if type(settings["lr"]) not in (int, float) or settings["lr"] <= 0:
        raise UserError(f"{settings['lr']!r} is no number above 0", "lr", "correct it")
    if type(settings["random"]) is not int or settings["random"] < 0:
        raise UserError(f"{settings['random']!r} lists", "random", "give 0 or more")
    if not isinstance(settings["out"], str):
        raise UserError("where to?", "out", "give a folder")
    try:
        torch.empty(0, device=settings["device"])
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError("torch has no such device here", f"device={settings['device']}", "use device=cpu") from error
    seeds = settings["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{seeds!r} are no seeds", "seeds", "give some, as [0,1,2]")


if __name__ == "__main__":
    from datamodules.errors import door

    door(lambda: main(sys.argv[1:]))
