"""Groups, schedules and the mean of what learns."""

import math

import pytest
import torch
from torch import nn

from zoo.optim import Average, Optimisation


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.query = nn.Embedding(2, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)


def test_groups_scale_rates_by_prefix_and_spare_norms_and_named_parts_from_decay():
    module = Small()
    groups = Optimisation(lr=1.0, weight_decay=0.1, lr_factors={"encoder": 0.5}, no_decay=("query",)).groups(module)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found[id(module.encoder[0].weight)] == (0.5, 0.1)
    assert found[id(module.encoder[0].bias)] == (0.5, 0.1)         # biases do decay
    assert found[id(module.encoder[1].weight)] == (0.5, 0.0)
    assert found[id(module.query.weight)] == (1.0, 0.0)
    assert found[id(module.head.weight)] == (1.0, 0.1)
    assert not any(id(p) in found for p in module.frozen.parameters())


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("cosine", 0.5, 0.0), ("poly", 0.5**0.9, 0.0), ("constant", 1.0, 1.0)]
)
def test_schedules_rise_over_the_warmup_and_then_fall_as_named(schedule, middle, end):
    made = Optimisation(lr=1.0, schedule=schedule, warmup=4).configure(Small(), 104)
    factor = made["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert math.isclose(factor(54), middle)
    assert math.isclose(factor(104), end, abs_tol=1e-9)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule=step must be one of"):
        Optimisation(schedule="step")


def test_the_mean_follows_its_formula_and_swaps_in_and_out():
    module = Small()
    start = module.head.weight.detach().clone()
    average = Average(module, 0.9)
    assert not any(name.startswith("frozen") for name in average.values)
    with torch.no_grad():
        module.head.weight.add_(1)
    average.update(module)
    average.swap(module)
    assert torch.allclose(module.head.weight, start + 0.1)
    average.swap(module)
    assert torch.allclose(module.head.weight, start + 1)
