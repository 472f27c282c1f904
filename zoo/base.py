"""What every method is: a LightningModule that knows its classes, its optimisation and how it is judged."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from datamodules.errors import UserError
from datamodules.samples import Made, default_palette
from zoo.inference import Inference
from zoo.optim import Optimisation
from zoo.visualize import colourise, overlay


class Method(LightningModule):
    """Normalisation, logging names, optimiser, loading, frozen bases. A method adds `training_step` and `evaluator`.

    classes: names in the order of ids; palette: RGB 0..255 of each (a distinct one by default); ignore: the label value
    that counts nowhere; mean, std: of RGB in 0..1; recipe: the plain config this object was built from (see hub.build).
    """

    samples = "scenes"                          # what it learns from: scenes, segments or episodes (datamodules/samples.py)
    frozen: tuple[str, ...] = ()                # submodules that never learn and that no checkpoint holds, as ("net.clip",)

    def __init__(
        self,
        classes: list[str],
        palette: list[tuple[int, int, int]] | None,
        ignore: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        optimisation: Optimisation | None,
    ):
        super().__init__()
        self.classes, self.ignore = list(classes), ignore
        self.palette = [tuple(c) for c in palette] if palette else default_palette(len(classes))
        self.optimisation = optimisation or Optimisation()
        self.recipe: dict = {}
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def check_data(self, data) -> None:
        """Refuses a data module whose samples are of another kind."""
        if data.samples != self.samples:
            raise UserError(f"{type(self).__name__} needs {self.samples}, this set gives {data.samples}", f"data={data.name}",
                            "data.segments=true|false changes it" if {data.samples, self.samples} == {"scenes", "segments"}
                            else "choose another set")

    def compile(self) -> None:
        """torch.compile of the net, in place."""
        if not hasattr(self, "net"):
            raise UserError(f"{type(self).__name__} has no net of its own to compile", "compile", "leave it out")
        self.net.compile()

    def freeze(self) -> None:
        """Ends the making of a method that has `frozen` parts: they take no gradient and stay in eval mode."""
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Method":
        super().train(mode)
        for name in self.frozen:                            # no DropPath, no batch statistics, whoever calls train()
            self.get_submodule(name).eval()
        return self

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """What learns and what depends on it; of frozen bases nothing."""
        prefix = kwargs.get("prefix", "")
        state = super().state_dict(*args, **kwargs)
        for key in [key for key in state if self._is_frozen(key.removeprefix(prefix))]:
            del state[key]
        return state

    def load_state_dict(self, state: dict[str, Tensor], strict: bool = True, assign: bool = False):
        """As torch's; strict means all of `state_dict()`."""
        kept = {key: value for key, value in super().state_dict().items() if self._is_frozen(key)}
        return super().load_state_dict(state | kept, strict, assign)

    def _is_frozen(self, key: str) -> bool:
        return key.startswith(tuple(f"{name}." for name in self.frozen))

    def bases(self) -> dict[str, str]:
        """{name: sha256 of its weights} of the frozen bases; an export names them, and loads onto no others."""
        return {}

    def take_classes(self, classes: list[str], palette: list[tuple[int, int, int]] | None, where: str) -> None:
        """Prepares for judging a set of these classes; a method of fixed classes refuses all but its own."""
        if list(classes) != self.classes:
            raise UserError(
                f"the weights know {len(self.classes)} classes ({', '.join(self.classes[:4])}, ...), the data "
                f"{len(classes)} ({', '.join(classes[:4])}, ...)",
                where,
                "judge on the data they were trained for",
            )

    def closing(self, data, folder: Path) -> list[str]:
        """What a finished run says beside its metrics, line by line; pictures and tables are written into `folder`."""
        return []

    def normalise(self, images: Tensor) -> Tensor:
        """B 3 H W, 0..255 of any type -> float with the encoder's mean 0 and standard deviation 1."""
        return (images.float() - self.mean) / self.std

    def evaluator(self, split: str):
        """A fresh metric object for `split`: update(prediction, truth), compute() -> {name: value}."""
        raise NotImplementedError(f"{type(self).__name__} has no evaluator")

    def log_losses(self, losses: dict[str, Tensor]) -> Tensor:
        """Logs each loss and their sum as train/<name>; returns the sum."""
        total = sum(losses.values())
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        self.log("train/loss", total.detach(), prog_bar=True)
        self.log("step", float(self.global_step + 1))       # the row's place in the log; Lightning's own count drifts at a resume
        return total

    def configure_optimizers(self) -> dict:
        return self.optimisation.configure(self, self.trainer.estimated_stepping_batches)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clips to `optimisation.clip`; a value given to the trainer itself comes before it."""
        largest = self.optimisation.clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, largest, gradient_clip_algorithm)

    def saved_recipe(self) -> dict:
        """What an export or checkpoint is rebuilt from; a method may leave out what its weights replace."""
        return self.recipe

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["zoo"] = self.saved_recipe()

    def wrap(self, dataset):
        """The training data set as this method wants it loaded (with cached latents, say); torch Dataset -> the same."""
        return dataset


@dataclass
class Segmentation:
    """The answer to `predict`: labels of the picture, at its own size."""

    labels: np.ndarray                          # H W, uint8 or int32
    image: np.ndarray                           # H W 3, uint8
    classes: list[str]
    palette: list[tuple[int, int, int]]
    ignore: int

    def overlay(self, alpha: float = 0.5) -> np.ndarray:
        return overlay(self.image, self.labels, self.palette, alpha, self.ignore)

    def shares(self) -> dict[str, float]:
        """Share of the picture's pixels of each class that occurs, largest first."""
        ids, counts = np.unique(self.labels, return_counts=True)
        order = [i for i in np.argsort(-counts) if ids[i] != self.ignore]
        return {self.classes[ids[i]]: float(counts[i] / self.labels.size) for i in order}


class Segmenter(Method):
    """A method that labels pictures. It adds `scores` and `label_map`; validation and prediction are the same for all."""

    def __init__(self, *args, inference: Inference | None = None):
        super().__init__(*args)
        self.inference = inference or Inference(mode="bands")
        self.metrics = torch.nn.ModuleDict()

    def scores(self, images: Tensor) -> Tensor:
        """B 3 H W, 0..255 -> B K H W, scores that may be averaged."""
        raise NotImplementedError

    def label_map(self, image: Tensor, rows: int) -> Tensor:
        """3 H W, 0..255 -> H W labels of one pass; full-size scores exist for `rows` rows at a time."""
        raise NotImplementedError

    def panel(self, sample: dict) -> dict[str, np.ndarray]:
        """Pictures that show one validation sample, by caption. sample: as the data's source reads it."""
        image, labels = sample["image"], sample["labels"]
        picture = image.permute(1, 2, 0).cpu().numpy()
        guess = self.inference.labels(self, image.to(self.device)).cpu().numpy()
        return {
            "image": picture,
            "truth": colourise(labels.cpu().numpy(), self.palette, self.ignore),
            "prediction": colourise(guess, self.palette, self.ignore),
        }

    def on_validation_epoch_start(self) -> None:
        self._start("val")

    def on_test_epoch_start(self) -> None:
        self._start("test")

    def validation_step(self, batch: dict, index: int) -> None:
        self._judge("val", batch)

    def test_step(self, batch: dict, index: int) -> None:
        self._judge("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def _start(self, split: str) -> None:
        self.metrics[split] = self.evaluator(split).to(self.device)

    def _judge(self, split: str, batch: dict) -> None:
        for image, labels in zip(batch["image"], batch["labels"]):
            self.metrics[split].update(self.inference.labels(self, image), labels)

    def _finish(self, split: str) -> None:
        """Sums are exchanged between processes inside compute(); nothing is averaged over ranks."""
        for name, value in self.metrics[split].compute().items():
            self.log(f"{split}/{name}", torch.as_tensor(value, dtype=torch.float64).float(), rank_zero_only=False)
        self.log("step", float(self.global_step))

    def prepare(self, **prompt) -> dict:
        """What `predict` takes for this prompt, made once for many pictures (a few-shot model reads its examples here)."""
        return prompt

    @torch.inference_mode()
    def predict(self, picture: "str | Path | np.ndarray | Tensor") -> Segmentation:
        """picture: a file's path, H W 3 uint8, or 3 H W uint8 (RGB). Labels come at the picture's own size."""
        image = as_image(picture)
        self.eval()
        labels = self.inference.labels(self, image.to(self.device)).cpu().numpy()
        return Segmentation(labels, image.permute(1, 2, 0).numpy(), self.classes, self.palette, self.ignore)


def as_image(picture: "str | Path | np.ndarray | Tensor") -> Tensor:
    """3 H W uint8 RGB from a path, an H W 3 array or a 3 H W tensor."""
    if isinstance(picture, (str, Path)):
        from datamodules.files import read_image

        return read_image(picture)
    tensor = torch.as_tensor(picture)
    if isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[-1] == 3:
        tensor = tensor.permute(2, 0, 1)
    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.dtype != torch.uint8:
        found = f"{tuple(tensor.shape)} {tensor.dtype}"
        raise UserError(f"a picture is uint8 RGB of shape H W 3 (array) or 3 H W (tensor), not {found}", "predict")
    return tensor.contiguous()


# -- pictures with labels, made ----------------------------------------------------------------------------------------
MADE_WITH = "generate.json"                     # file of a synthetic folder: the settings it was made with


@dataclass
class Pair:
    """A made picture with its labels. source: the name of what it was made from (a label map, a word); number: among those of the
    same source; prompt, seed: what it was painted by; word: see `Made`; figures: a filter's."""

    source: str
    number: int
    picture: Tensor                             # uint8 3 H W
    labels: Tensor                              # H W
    seed: int
    prompt: str
    word: str = ""
    figures: dict[str, float] = field(default_factory=dict)


class Making(Protocol):
    """The work of `python -m zoo.generate`, in units that are each made and finished alone (a label map with its pictures)."""

    names: list[str]                            # of the units, no two alike
    about: dict                                 # plain: what the pairs depend on, beside weights and seed

    def make(self, units: list[int]) -> Iterator[tuple[int, list[Pair]]]:
        """The finished pairs of these units, one unit after another."""

    def summary(self, rows: list[Made]) -> dict[str, dict[str, float]]:
        """Figures of all that was made, fractions by column, from the rows of its manifest."""


class Generator(Method):
    """A method that makes pictures with labels. It is judged by how far what is seen in the pictures is what their labels say.

    It adds `generate`, `making`, and for validation `pairs_of`, `judged` and `seen`.
    """

    _start, _finish = Segmenter._start, Segmenter._finish
    on_validation_epoch_start, on_validation_epoch_end = Segmenter.on_validation_epoch_start, Segmenter.on_validation_epoch_end
    on_test_epoch_start, on_test_epoch_end = Segmenter.on_test_epoch_start, Segmenter.on_test_epoch_end
    validation_step, test_step = Segmenter.validation_step, Segmenter.test_step

    def __init__(self, *args):
        super().__init__(*args)
        self.metrics = torch.nn.ModuleDict()

    def generate(self, what: "Tensor | np.ndarray | str", k: int = 5, seed: int = 0, name: str = "") -> list[Pair]:
        """K pairs of a label map H W or of a word. They depend on seed, name and their numbers, and on no other picture."""
        raise NotImplementedError

    def making(self, data, settings: dict) -> Making:
        """What is to be made of a set. settings: the config of `python -m zoo.generate`."""
        raise NotImplementedError

    @property
    def judged(self) -> bool:
        """Whether there is somebody who can say what is to be seen in a picture of this set."""
        return False

    def seen(self, pictures: Tensor) -> Tensor:
        """Labels B H W of pictures uint8 B 3 H W, by the one who judges."""
        raise NotImplementedError

    def pairs_of(self, batch: dict) -> list[Pair]:
        """A pair for each sample of a validation batch."""
        raise NotImplementedError

    def _judge(self, split: str, batch: dict) -> None:
        for pair in self.pairs_of(batch) if self.judged else ():
            self.metrics[split].update(self.seen(pair.picture[None])[0], pair.labels)
