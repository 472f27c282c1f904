"""A checkpoint in mmengine's very format, read without mmengine and without executing anything of it."""

import sys
import types

import numpy as np
import pytest
import torch

from datamodules.errors import UserError
from tests.massformer.test_net import preset
from zoo import hub
from zoo.massformer.convert import PIXELS, convert, main, official_names, settings
from zoo.massformer.net import MaSSFormerNet

SMALL = {"encoder": "resnet18", "width": 16, "queries": 6, "layers": 3, "hidden": 16, "cst_hidden": 24}


def official(net):
    names = official_names(net)
    return {names[key]: value for key, value in net.state_dict().items()}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return MaSSFormerNet(classes=7, heads=8, **SMALL)


@pytest.fixture
def checkpoint(net, tmp_path):
    """What mmengine's CheckpointHook writes: objects of its own classes and numpy scalars around the state dict."""
    names = ["mmengine", "mmengine.logging", "mmengine.logging.history_buffer"]
    modules = {name: types.ModuleType(name) for name in names}

    class HistoryBuffer:
        def __init__(self):
            self.max_length, self._log_history, self._count_history = 10, np.arange(3.0), np.ones(3)
            self._statistics_methods = {"min": getattr}

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = names[-1], "HistoryBuffer"
    modules[names[-1]].HistoryBuffer = HistoryBuffer
    sys.modules.update(modules)
    content = {
        "meta": {"epoch": 1, "iter": 7, "cfg": "model = dict()", "dataset_meta": {"classes": ("a",)}},
        "message_hub": {"log_scalars": {"loss": HistoryBuffer()}, "runtime_info": {"eta": np.float64(3)}},
        "state_dict": official(net),
        "optimizer": {"state": {}, "param_groups": []},
        "param_schedulers": [{"last_step": 7}],
    }
    path = tmp_path / "official.pth"
    torch.save(content, path)
    for name in names:
        del sys.modules[name]
    return path


def test_a_file_in_mmengines_format_converts_to_equal_weights(net, checkpoint, tmp_path):
    with pytest.raises(Exception, match="(?i)weights only|weights_only"):
        torch.load(checkpoint, weights_only=True)
    main([str(checkpoint), str(tmp_path / "out")])
    loaded = hub.load(tmp_path / "out")
    assert loaded.classes[1] == "person"
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.net.state_dict()[name], value), name


def test_reading_executes_nothing_of_the_file(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "touched"), "w")

    from datamodules.files import load_torch_pickle

    torch.save({"state_dict": {"x": torch.ones(2)}, "meta": Evil()}, tmp_path / "evil.pth")
    content = load_torch_pickle(tmp_path / "evil.pth")
    assert torch.equal(content["state_dict"]["x"], torch.ones(2))
    assert not (tmp_path / "touched").exists()


def test_r50_has_660_official_entries_with_the_published_shapes():
    net = preset("massformer_r50")
    state = official(net)
    assert len(state) == 660
    assert sum(v.numel() for v in state.values()) == 37_637_938
    assert tuple(state[PIXELS + "RFB.deformaspp.3.dcn_offset.weight"].shape) == (147, 128, 7, 7)
    assert tuple(state["decode_head.transformer_decoder.layers.5.cross_attn.attn.in_proj_weight"].shape) == (768, 256)
    found = settings(state)
    assert found["encoder"] == "resnet50" and found["classes"] == 7 and found["layers"] == 6 and found["width"] == 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"backbone.conv1.weight": s["backbone.conv1.weight"]}, "not a MaSSFormer checkpoint"),
        (lambda s: s | {"decode_head.extra.weight": torch.ones(1)}, "1 unexpected \\(first: decode_head.extra.weight\\)"),
        (lambda s: {k: v for k, v in s.items() if "LSE.cbn2.bn.bias" not in k}, "1 tensors missing"),
    ],
)
def test_a_file_that_is_something_else_is_refused_in_one_line(net, change, message):
    state = change(official(net))
    with pytest.raises(UserError, match=message) as error:
        convert(state, type(net)(**settings(state), heads=8))
    assert "\n" not in str(error.value)
