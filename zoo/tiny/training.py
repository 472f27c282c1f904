"""The loop of the three trainings: resumable at any step, with progress lines; every step is a function of (seed, step)."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datamodules.errors import UserError
from datamodules.files import atomic, make_folder

SAVE_EVERY = 120  # seconds
REPORT_EVERY = 25  # steps


def arguments(about: str, out: str, folders: dict[str, Path] | None = None) -> argparse.Namespace:
    """What the three scripts are asked; folders: what else they read, with its default."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the training; a killed one goes on there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps: 0.01 is a trial run")
    for name, folder in (folders or {}).items():
        parser.add_argument(f"--{name}", type=Path, default=folder)
    return parser.parse_args()


def train(out: Path, recipe: dict, steps: int, parts: dict[str, Any],
          step: Callable[[int, np.random.Generator], dict[str, float]]) -> None:
    """Calls step(number, rng) `steps` times; it returns figures to be printed.

    parts: what has a state_dict, all of it kept in out/training.ckpt with the number of steps done. recipe: seed and settings;
    a folder of another recipe is refused.
    """
    make_folder(out)
    file = out / "training.ckpt"
    done = resume(file, recipe, parts)
    began, since, saved = time.monotonic(), done, time.monotonic()
    sums: dict[str, float] = {}
    for number in range(done, steps):
        figures = step(number, np.random.default_rng((recipe["seed"], number)))
        sums = {name: sums.get(name, 0.0) + value for name, value in figures.items()}
        last = number + 1 == steps
        if (number + 1) % REPORT_EVERY == 0 or last:
            pace = (time.monotonic() - began) / (number + 1 - since)
            means = "  ".join(f"{name} {value / (number % REPORT_EVERY + 1):.3f}" for name, value in sums.items())
            say(out, f"step {number + 1}/{steps}  {means}  {pace:.2f} s/step  {clock(pace * (steps - number - 1))} left")
            sums = {}
        if last or time.monotonic() - saved > SAVE_EVERY:
            with atomic(file) as kept:
                states = {name: part.state_dict() for name, part in parts.items()}
                torch.save({"recipe": recipe, "done": number + 1, "states": states}, kept)
            saved = time.monotonic()


def resume(file: Path, recipe: dict, parts: dict[str, Any]) -> int:
    """The steps already done in this folder, their state put into the parts."""
    if not file.exists():
        return 0
    kept = torch.load(file, weights_only=True)
    if kept["recipe"] != recipe:
        raise UserError(f"a training with {kept['recipe']} is here", file, "give another --out, or remove it")
    for name, part in parts.items():
        part.load_state_dict(kept["states"][name])
    say(file.parent, f"goes on after step {kept['done']}")
    return kept["done"]


def say(out: Path, line: str) -> None:
    print(line, flush=True)
    with open(out / "log.txt", "a") as log:
        log.write(f"{time.strftime('%H:%M:%S', time.gmtime())}  {line}\n")


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def optimiser(model: nn.Module, lr: float, decay: float, betas: tuple[float, float] = (0.9, 0.98)) -> torch.optim.AdamW:
    """AdamW; only matrices and convolutions are decayed."""
    groups = [[p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
    return torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": decay}, {"params": groups[1], "weight_decay": 0.0}], lr=lr, betas=betas
    )


def descend(loss: torch.Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One step down, of gradients of norm 1 at most."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def cosine(step: int, steps: int, warmup: int = 50, end: float = 0.02) -> float:
    """Factor of the learning rate: a linear rise, then a half cosine down to `end`."""
    if step < warmup:
        return (step + 1) / warmup
    t = (step - warmup) / max(1, steps - warmup)
    return end + (1 - end) * 0.5 * (1 + float(np.cos(np.pi * t)))


def average(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """The exponential mean of the weights: what is shipped."""
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay))
