"""What every method must do. A method is found by its `zoo/<method>/tiny.yaml`; nothing here knows one by name."""

import copy
import importlib.util
import inspect
import math
import re
import shlex
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from callbacks.checkpoint import AtomicIO
from callbacks.reseed import Reseed
from datamodules.base import SceneData
from datamodules.episodes import EpisodeData, ObjectPictures, even_plans
from datamodules.sources import SceneSource
from tests.conftest import ROOT
from zoo import hub, predict
from zoo.base import Segmenter
from zoo.visualize import save_png

METHODS = sorted(path.parent.name for path in (ROOT / "zoo").glob("*/tiny.yaml"))
CLASSES = ["ground", "thing", "sky"]


class Squares(SceneSource):
    """Pictures of 64 x 64 in which a class is a colour; the first is ignored everywhere."""

    names = [f"square_{i}" for i in range(7)]

    def read(self, index):
        rng = np.random.default_rng(index)
        labels = np.kron(rng.integers(0, 3, (4, 4)), np.ones((16, 16))).astype(np.uint8)
        image = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)[labels].transpose(2, 0, 1)
        if index == 0:
            labels[:] = 255
        return {"image": torch.tensor(image), "labels": torch.tensor(labels), "name": self.names[index], "size": (64, 64)}


@dataclass(kw_only=True, eq=False, repr=False)
class SquareData(SceneData):
    crop: int = 64
    batch_size: int = 2
    workers: int = 0
    scale: tuple = (1.0, 1.0)

    def __post_init__(self):
        self.name, self.classes = "squares", CLASSES
        self.palette = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
        super().__post_init__()

    def make_source(self, split):
        return Squares()


class SquareObjects(ObjectPictures):
    """Each square's pictures as examples of one class; the first query is ignored everywhere."""

    def picture(self, name):
        return Squares().read(int(name[-1]))["image"]

    def mask(self, name, class_id):
        labels = Squares().read(int(name[-1]))["labels"]
        return torch.where(labels == 255, labels, (labels == class_id).to(torch.uint8))


@dataclass(kw_only=True, eq=False, repr=False)
class SquareEpisodes(EpisodeData):
    batch_size: int = 2
    workers: int = 0
    size: int = 64
    episodes: int = 7
    ignored: bool = False              # every object and background of the evaluation and of training is ignored

    def __post_init__(self):
        self.name, self.classes = "square_episodes", CLASSES
        super().__post_init__()

    def names_by_class(self, split):
        return dict.fromkeys(range(3), Squares.names[1:])

    def make_plans(self, split):
        return even_plans(self.names_by_class(split), self.shots, self.episodes, self.rng())

    def pictures(self, split):
        return SquareObjects()

    def collate(self, samples):
        batch = super().collate(samples)
        if self.ignored:
            batch["query_mask"].fill_(255)
        return batch


def data_for(model, **settings):
    """What this kind of method learns from."""
    if model.samples == "episodes":
        return SquareEpisodes(**settings)
    return SquareData(segments=model.samples == "segments", **settings)


def build(method):
    seed_everything(0, verbose=False)
    config = yaml.safe_load((ROOT / "zoo" / method / "tiny.yaml").read_text())
    return hub.build(config, CLASSES, SquareData().palette)


def trainer(folder, steps, **more):
    options = {"accelerator": "cpu", "devices": 1, "callbacks": [Reseed(0)], "limit_val_batches": 0}
    return Trainer(
        default_root_dir=str(folder), max_steps=steps, enable_model_summary=False, plugins=[AtomicIO()],
        use_distributed_sampler=False, enable_checkpointing=False, num_sanity_val_steps=0, logger=False,
        enable_progress_bar=False,
        **options | more,
    )  # fmt: skip


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


def test_two_steps_train_and_the_loss_is_finite(method, tmp_path):
    model = build(method)
    before = copy.deepcopy(model.state_dict())
    fitted = trainer(tmp_path, 2)
    fitted.fit(model, data_for(model))
    assert math.isfinite(fitted.callback_metrics["train/loss"])
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_every_parameter_that_learns_gets_a_gradient(method, tmp_path):
    model = build(method)
    model.trainer = trainer(tmp_path, 1)
    model.log_dict = model.log = lambda *args, **kwargs: None
    data = data_for(model)
    data.trainer = model.trainer
    samples = data.training()
    model.training_step(data.collate([samples[visit, visit] for visit in (1, 2)]), 0).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_resumed_run_equals_one_that_never_stopped(method, tmp_path):
    class Half(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole = build(method)
    trainer(tmp_path, 4, callbacks=[Reseed(0), Half()]).fit(whole, data_for(whole))
    resumed = build(method)
    trainer(tmp_path, 4).fit(resumed, data_for(resumed), ckpt_path=str(tmp_path / "half.ckpt"), weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_bf16_trains_with_a_finite_loss(method, tmp_path):
    fitted, model = trainer(tmp_path, 1, precision="bf16-mixed"), build(method)
    fitted.fit(model, data_for(model))
    assert math.isfinite(fitted.callback_metrics["train/loss"])


def test_an_export_reloads_equal(method, tmp_path):
    model = build(method).eval()
    hub.export(model, tmp_path / "export", {"seed": 0})
    for place in (tmp_path / "export", tmp_path / "export" / hub.WEIGHTS):
        again = hub.load(place)
        assert again.classes == model.classes
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name


def commands(page):
    """The `python ...` lines of a page's code blocks, as lists of words; <placeholders> stand for paths."""
    lines = re.findall(r"^python (.+?)(?:\s+#.*)?$", page.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(re.sub(r"<[^>]*>", "somewhere", line)) for line in lines]


def parses(words):
    """Whether the door knows every key of a command."""
    doors = {"train.py": "train", "evaluate.py": "evaluate"}
    if words[0] in doors:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            compose(doors[words[0]], [word for word in words[1:] if not word.startswith("-") and word != "job"])
    elif words[:2] == ["-m", "zoo.predict"]:
        predict.parse(words[2:])
    else:
        assert importlib.util.find_spec(words[1]), words


def test_the_card_names_its_paper_and_its_commands_parse(method):
    card = (ROOT / "zoo" / method / "README.md").read_text()
    assert "@inproceedings" in card
    found = commands(card)
    assert any(f"model={method}" in words for words in found)
    for words in found:
        parses(words)


def test_the_readmes_commands_parse():
    found = commands((ROOT / "README.md").read_text()) + commands((ROOT / "docs" / "dashboard.md").read_text())
    assert len(found) >= 10
    for words in found:
        parses(words)


def segmenter(method):
    model = build(method).eval()
    if not isinstance(model, Segmenter):
        pytest.skip(f"{method} labels no pictures")
    return model


def prompt(model, folder):
    """What the method is asked with, for a picture called picture.png: examples or masks where it needs them."""
    takes = inspect.signature(model.predict).parameters
    square = Squares().read(1)
    save_png(folder / "a.png", square["image"].permute(1, 2, 0).numpy())
    save_png(folder / "a_mask.png", 255 * (square["labels"] == 0).numpy().astype(np.uint8))
    given = {}
    if "support" in takes:
        given["support"] = [[str(folder / "a.png"), str(folder / "a_mask.png")]]
    if "masks" in takes:
        for part in (0, 1):
            mask = np.zeros((45, 71), np.uint8)
            mask[:, 35 * part : 35 * part + 36] = 255
            save_png(folder / "masks" / "picture" / f"{part}.png", mask)
        given["masks"] = str(folder / "masks")
    return model.prepare(**given)


def test_a_picture_of_odd_size_is_labelled_at_its_own_size(method, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (45, 71, 3), dtype=np.uint8)
    save_png(tmp_path / "picture.png", picture)
    model = segmenter(method)
    answer = model.predict(tmp_path / "picture.png", **prompt(model, tmp_path))
    assert answer.labels.shape == (45, 71)
    assert set(np.unique(answer.labels)) <= {*range(len(answer.classes)), answer.ignore}


def test_predictions_do_not_depend_on_the_batch(method):
    model = segmenter(method)
    if model.samples != "scenes":
        pytest.skip(f"{method} is asked picture by picture; its own tests compare batches")
    images = torch.stack([Squares().read(i)["image"] for i in (1, 2)])
    with torch.inference_mode():
        together = model.scores(images)
        alone = torch.cat([model.scores(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-4)


def test_an_all_ignored_batch_gives_a_finite_loss(method, tmp_path):
    class Ignored(SquareData):
        def make_source(self, split):
            source = Squares()
            source.names = source.names[:1]
            return source

    fitted, model = trainer(tmp_path, 2), build(method)
    whole = SquareEpisodes(ignored=True) if model.samples == "episodes" else Ignored(segments=model.samples == "segments")
    fitted.fit(model, whole)
    assert math.isfinite(fitted.callback_metrics["train/loss"])


def evaluate(folder, method, devices):
    torch.set_num_threads(1)
    judge = trainer(folder, 1, devices=devices, strategy="ddp_fork" if devices > 1 else "auto", limit_val_batches=1.0)
    model = build(method)
    return judge.validate(model, data_for(model), verbose=False)[0]


def test_two_processes_judge_an_odd_number_of_pictures_as_one(method, tmp_path):
    segmenter(method)
    one, two = (evaluate(tmp_path, method, devices) for devices in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        assert one[name] == two[name] or (one[name] != one[name] and two[name] != two[name]), name
