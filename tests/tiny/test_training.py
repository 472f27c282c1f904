"""The loop of the trainings: a killed one goes on and ends with the same weights."""

import numpy as np
import pytest
import torch

from datamodules.errors import UserError
from zoo.tiny import training

RECIPE = {"seed": 3}


class Toy:
    def __init__(self):
        torch.manual_seed(0)
        self.net = torch.nn.Linear(3, 2)
        self.average = training.average(self.net, 0.9)
        self.optimizer = training.optimiser(self.net, 0.01, decay=0.1)
        self.parts = {"net": self.net, "average": self.average, "optimizer": self.optimizer}

    def step(self, number: int, rng: np.random.Generator) -> dict[str, float]:
        loss = (self.net(torch.from_numpy(rng.standard_normal((4, 3), np.float32))) - number).square().mean()
        training.descend(loss, self.net, self.optimizer, 0.01 * training.cosine(number, 20, warmup=3))
        self.average.update_parameters(self.net)
        return {"loss": loss.item()}


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole = Toy()
    training.train(tmp_path / "whole", RECIPE, 20, whole.parts, whole.step)
    monkeypatch.setattr(training, "SAVE_EVERY", -1)
    first = Toy()

    def killed(number, rng):
        if number == 13:
            raise KeyboardInterrupt
        return first.step(number, rng)

    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path / "killed", RECIPE, 20, first.parts, killed)
    second = Toy()
    training.train(tmp_path / "killed", RECIPE, 20, second.parts, second.step)
    for a, b in ((whole.net, second.net), (whole.average, second.average)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert "goes on after step 13" in (tmp_path / "killed" / "log.txt").read_text()


def test_a_finished_training_is_not_done_again(tmp_path):
    toy = Toy()
    training.train(tmp_path, RECIPE, 3, toy.parts, toy.step)
    training.train(tmp_path, RECIPE, 3, toy.parts, lambda number, rng: pytest.fail("a step too many"))


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    toy = Toy()
    training.train(tmp_path, RECIPE, 1, toy.parts, toy.step)
    with pytest.raises(UserError, match="give another --out"):
        training.train(tmp_path, {"seed": 4}, 1, toy.parts, toy.step)


def test_progress_tells_the_time_left(tmp_path, capsys):
    toy = Toy()
    training.train(tmp_path, RECIPE, 2 * training.REPORT_EVERY, toy.parts, toy.step)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "s/step" in lines[0] and lines[1].endswith("0:00 left")
