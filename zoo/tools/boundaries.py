"""Boundaries of several runs side by side: python -m zoo.tools.boundaries <run> <run> ... [out=boundaries.png] [scenes=3]

For validation scenes of the first run's data: the picture, the true boundaries, and those of each run: green where a boundary
lies within d pixels of a true one, red where it does not, blue where a true one was missed; d is that of BF1 (a thousandth of the
diagonal, at least 1). A boundary is where neighbours have different labels.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from datamodules.errors import UserError, door

USAGE = "python -m zoo.tools.boundaries <run> <run> ... [out=boundaries.png] [scenes=3]"
FOUND, FALSE, MISSED, TRUE = (60, 220, 60), (255, 60, 60), (70, 130, 255), (255, 255, 255)


def main(arguments: list[str]) -> None:
    options = {"out": "boundaries.png", "scenes": "3"}
    places = [a for a in arguments if a.partition("=")[0] not in options]
    options |= {key: value for key, _, value in (a.partition("=") for a in arguments) if key in options}
    if not places or not options["scenes"].isdigit() or options["scenes"] == "0":
        raise UserError(" ".join(arguments) or "no run is named", mend=USAGE)
    print(f"picture: {write([Path(place) for place in places], int(options['scenes']), Path(options['out']))}")


def write(folders: list[Path], scenes: int, out: Path) -> Path:
    """Draws `scenes` scenes, spread over the validation set."""
    from datamodules.settings import make
    from zoo import hub, runs
    from zoo.base import Segmenter
    from zoo.visualize import panel, save_png, stack

    data = make(runs.read_config(folders[0])["data"])
    source = data.source("val")
    indices = sorted({round(i * (len(source) - 1) / max(1, scenes - 1)) for i in range(scenes)})
    samples = [source.read(index) for index in indices]
    pictures = [sample["image"].permute(1, 2, 0).numpy() for sample in samples]
    truths = [np.asarray(sample["labels"]) for sample in samples]
    columns = {"picture": pictures, "truth": [contours(p, t, t, TRUE) for p, t in zip(pictures, truths)]}
    for folder in folders:
        model = hub.load(folder)
        if not isinstance(model, Segmenter) or model.samples != "scenes":
            raise UserError(f"{type(model).__name__} labels no scenes", folder, USAGE)
        guesses = [model.predict(picture).labels for picture in pictures]
        columns[folder.name] = [contours(p, t, g) for p, t, g in zip(pictures, truths, guesses)]
    save_png(out, stack([panel(list(row), list(columns)) for row in zip(*columns.values())]))
    return out


def contours(picture: np.ndarray, truth: np.ndarray, guess: np.ndarray, found=FOUND) -> np.ndarray:
    """A dark copy of the picture with the boundaries of `guess` and those of `truth` that it misses."""
    from zoo.metrics import boundary_width, box_kernel
    from zoo.visualize import edges

    kernel = box_kernel(boundary_width(*truth.shape))
    true, said = edges(truth), edges(guess)
    near_true, near_said = (cv2.dilate(mask.view(np.uint8), kernel).view(bool) for mask in (true, said))
    drawn = picture // 3
    drawn[true & ~near_said], drawn[said & near_true], drawn[said & ~near_true] = MISSED, found, FALSE
    return drawn


if __name__ == "__main__":
    door(lambda: main(sys.argv[1:]))
