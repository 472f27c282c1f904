"""Parameter groups, the optimiser and its schedule."""

import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = {
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
    "linear": lambda t: 1 - t,
    "poly": lambda t: (1 - t) ** 0.9,
    "steps": lambda t: 0.1 ** ((t >= 0.88) + (t >= 0.96)),     # Mask2Former's and Mask-Adapter's
    "constant": lambda t: 1.0,
}


@dataclass
class Optimisation:
    """AdamW or SGD with groups. A key of a config is an argument here.

    lr_factors: learning rate factor by prefix of a parameter's name ({"net.encoder": 0.1}); the longest prefix counts.
    no_decay: parts of names that get no weight decay; norms never do, biases do.
    schedule: cosine | linear | poly | steps (x 0.1 at 88 % and 96 %) | constant over the run, after `warmup` steps of
    linear rise.
    optimizer: adamw | sgd (betas are AdamW's, momentum is SGD's).
    clip: the gradients' largest total norm; null leaves them as they are.
    """

    lr: float = 3e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "cosine"
    warmup: int = 0
    lr_factors: dict[str, float] = field(default_factory=dict)
    no_decay: tuple[str, ...] = ()
    clip: float | None = None
    optimizer: str = "adamw"
    momentum: float = 0.9

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule} must be one of {', '.join(SCHEDULES)}")
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"optimizer={self.optimizer} must be adamw or sgd")
        if self.lr <= 0 or self.weight_decay < 0 or self.warmup < 0 or (self.clip or 1) <= 0:
            found = f"lr={self.lr}, weight_decay={self.weight_decay}, warmup={self.warmup}, clip={self.clip}"
            raise ValueError(f"{found}: lr and clip must be positive, the others not negative")

    def groups(self, module: nn.Module) -> list[dict]:
        """What learns, by (learning rate, decay)."""
        norms = {
            f"{prefix}.{name}" if prefix else name
            for prefix, part in module.named_modules()
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.SyncBatchNorm))
            for name, _ in part.named_parameters(recurse=False)
        }
        found: dict[tuple[float, float], list] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                fits = max((p for p in self.lr_factors if name.startswith(p)), key=len, default=None)
                factor = 1.0 if fits is None else self.lr_factors[fits]
                bare = name in norms or any(part in name for part in self.no_decay)
                key = (self.lr * factor, 0.0 if bare else self.weight_decay)
                found.setdefault(key, []).append(parameter)
        return [{"params": parameters, "lr": lr, "weight_decay": decay} for (lr, decay), parameters in found.items()]

    def configure(self, module: nn.Module, steps: int) -> dict:
        """What Lightning's `configure_optimizers` returns, for a run of `steps` optimiser steps."""
        groups = self.groups(module)
        if self.optimizer == "sgd":
            optimizer = SGD(groups, lr=self.lr, momentum=self.momentum)
        else:
            optimizer = AdamW(groups, lr=self.lr, betas=tuple(self.betas))
        shape = SCHEDULES[self.schedule]

        def factor(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            return shape(min(1.0, (step - self.warmup) / max(1, steps - self.warmup)))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


class Average:
    """Exponential mean of what learns (values += (1 - decay) (weights - values)); frozen parts and buffers are not kept."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Puts the mean into the module and keeps the module's weights; the same again undoes it."""
        for name, parameter in module.named_parameters():
            if name in self.values:
                kept = parameter.clone()
                parameter.copy_(self.values[name])
                self.values[name] = kept
