"""Boundaries of runs side by side."""

import numpy as np
import pytest
import yaml

from datamodules.errors import UserError
from tests.contract import build
from tests.doors.test_doors import config
from zoo import hub
from zoo.tools.boundaries import FALSE, FOUND, MISSED, contours, main


def test_found_false_and_missed_boundaries_have_their_colours():
    truth, guess = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    truth[:, 10:] = 1
    truth[30:] = 2
    guess[:, 11:] = 1                                       # a pixel off: found; the row at 30 is missed
    guess[5:8, 20:23] = 3                                   # nothing is there
    drawn = contours(np.full((40, 40, 3), 90, np.uint8), truth, guess)
    assert tuple(drawn[15, 10]) == FOUND
    assert tuple(drawn[29, 30]) == MISSED
    assert tuple(drawn[6, 19]) == FALSE
    assert tuple(drawn[20, 30]) == (30, 30, 30)


def test_two_runs_are_drawn_side_by_side(tmp_path):
    for name in ("a", "b"):
        folder = hub.export(build("massformer"), tmp_path / name, {})
        settings = config("train", "model=massformer", "data.size=64", "data.crop=64", "data.n_val=3")
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    main([str(tmp_path / "a"), str(tmp_path / "b"), f"out={tmp_path / 'x.png'}", "scenes=2"])
    from PIL import Image

    assert Image.open(tmp_path / "x.png").width > 4 * 64


def test_no_run_is_said_in_one_line():
    with pytest.raises(UserError, match="no run is named"):
        main([])
