"""compile=true: the net is compiled in place, and a method without one says so."""

import pytest
from torch import nn

from datamodules.errors import UserError
from tests.contract import build


def test_the_net_is_compiled_in_place(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    model = build("deeplabv3plus")
    model.compile()
    assert compiled == [model.net]


def test_a_method_without_a_net_says_so():
    with pytest.raises(UserError, match="AlignDiff has no net of its own to compile"):
        build("aligndiff").compile()
