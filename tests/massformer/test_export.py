"""Graphs of MaSSFormer for other programs, and what the door says when it cannot."""

import pytest
import torch

from datamodules.errors import UserError
from tests.contract import build
from tests.massformer.test_fast import settled
from zoo import export, hub


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    model = build("massformer").eval()
    settled(model.net)
    return hub.export(model, tmp_path_factory.mktemp("weights"), {})


def picture(height, width):
    return 255 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))


def away(weights, answer, *sizes):
    """Largest difference of a graph's scores from those that the method itself gives."""
    model = hub.load(weights).eval()
    with torch.no_grad():
        return max((answer(picture(*size)) - model.scores(picture(*size))).abs().max().item() for size in sizes)


def test_onnx_runs_on_pictures_of_any_size_and_gives_the_methods_scores(weights, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = export.run(*export.parse([f"weights={weights}", f"out={tmp_path / 'x.onnx'}"]))
    session = onnxruntime.InferenceSession(str(path))
    answer = lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    assert away(weights, answer, (256, 256), (71, 300)) < 1e-3


@pytest.mark.slow
def test_torch_export_runs_on_multiples_and_gives_the_methods_scores(weights, tmp_path):
    path = export.run(*export.parse([f"weights={weights}", f"out={tmp_path / 'x.pt2'}", "format=torch.export", "size=[256,256]"]))
    assert away(weights, torch.export.load(path).module(), (512, 768)) < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=x.onnx"], "weights= is missing"),
        (["weights=x", "out=x.tflite", "format=tflite"], "format: no format tflite; choose one of onnx, torch.export"),
        (["weights=x", "out=x.onnx", "size=512"], "size: 512 is no height and width"),
        (["weights=x", "out=x.onnx", "opset=12"], "opset=12"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        export.run(*export.parse(arguments))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_that_cannot_be_exported_says_so_in_one_line(tmp_path):
    folder = hub.export(build("deeplabv3plus"), tmp_path / "other", {})
    with pytest.raises(UserError, match="DeepLabV3Plus cannot be exported as a graph"):
        export.run(*export.parse([f"weights={folder}", f"out={tmp_path / 'x.onnx'}"]))
    assert not (tmp_path / "x.onnx").exists()
