"""Label pictures: python -m zoo.predict weights=<run> image=<file, folder or glob> [out=predictions] [inference.mode=slide]

What a method is asked with goes beside them: classes=[cat,sofa] (open vocabulary), masks=<folder> (proposals),
support=[[a.jpg,a_mask.png]] (by example), memory=<file> (examples read before); see the method's card.
For each picture: <name>_mask.png (class numbers with a palette, the picture's own size) and <name>_overlay.jpg; beside
them classes.txt and legend.png. A second start skips what is there.
"""

import sys
import time
from pathlib import Path

from datamodules.errors import UserError, door
from datamodules.files import write_bytes, write_text

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
PROMPTS = ("classes", "masks", "support", "memory")
PLAIN = ("weights", "image", "out", *PROMPTS)     # values that may hold anything: taken before Hydra reads the rest
CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")


def main(arguments: list[str]) -> None:
    run(*parse(arguments))


def parse(arguments: list[str]) -> tuple[dict[str, str], dict]:
    """{"weights": ..., "image": ..., "out": ...} and the composed config of everything else."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from zoo.settings import check

    given, rest = {"out": "predictions"}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in PLAIN:
            given[key] = value
        else:
            rest.append(argument)
    for key in ("weights", "image"):
        if not given.get(key):
            raise UserError(f"{key}= is missing", mend="python -m zoo.predict weights=<run> image=<file, folder or glob>")
    try:
        with initialize_config_dir(CONFIGS, version_base="1.3"):
            return given, check(OmegaConf.to_container(compose("predict", rest), resolve=True))
    except (HydraException, OmegaConfBaseException) as error:
        mend = f"keys are {', '.join(PLAIN)}, device, overwrite and inference (see configs/predict.yaml)"
        raise UserError(str(error).splitlines()[0], " ".join(rest), mend) from error


def pictures(image: str) -> list[tuple[Path, str]]:
    """(file, name of its outputs) of a file, of every picture in a folder, or of a glob."""
    path = Path(image).expanduser()
    if path.is_file():
        return [(path, path.stem)]
    if path.is_dir():
        root, found = path, path.rglob("*")
    else:
        root, pattern = (Path(path.anchor), str(path.relative_to(path.anchor))) if path.is_absolute() else (Path(), str(path))
        found = root.glob(pattern)
    files = sorted(p for p in found if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise UserError("no picture there", image, f"give a file, a folder or a quoted glob of {', '.join(sorted(SUFFIXES))}")
    names = [str(p.relative_to(root).with_suffix("")) if path.is_dir() else p.stem for p in files]
    if len(set(names)) < len(names):  # a.jpg beside a.png, or equal names in two folders
        names = [str(p.relative_to(root) if not p.is_absolute() else p.relative_to(p.anchor)).replace(".", "_") for p in files]
    return list(zip(files, names))


def asked(given: dict[str, str], model) -> dict:
    """The prompts among what was given, read as YAML without types (a class may be called `no`), for `model.predict`."""
    import inspect

    import yaml

    takes = inspect.signature(model.predict).parameters
    prompt = {}
    for key in PROMPTS:
        if key in given:
            if key not in takes:
                known = [name for name in PROMPTS if name in takes]
                mend = f"it takes {', '.join(known)}" if known else "it labels its own classes without being asked"
                raise UserError(f"{type(model).__name__} takes no {key}=", f"{key}={given[key]}", mend)
            try:
                prompt[key] = yaml.load(given[key], yaml.BaseLoader)
            except yaml.YAMLError as error:
                raise UserError("brackets or quotes do not match", f"{key}={given[key]}", f"e.g. {key}=[one,two]") from error
    return prompt


def check_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:         # torch says both of a device that it has not
        raise UserError("torch has no such device here", f"device={name}", "use device=cpu") from error


def run(given: dict[str, str], cfg: dict) -> list[Path]:
    """Writes the outputs; a picture that cannot be read is said, and the others go on. Returns the mask files."""
    from PIL import Image

    import zoo
    from datamodules.settings import make
    from zoo.base import Segmenter
    from zoo.visualize import encoded, legend, save_label_png, save_png

    todo, out = pictures(given["image"]), Path(given["out"])
    check_device(cfg["device"])
    model = zoo.load(given["weights"], cfg["device"])
    if not isinstance(model, Segmenter):
        raise UserError(f"{type(model).__name__} labels no pictures", given["weights"], "use it with python -m zoo.generate")
    model.inference = make(cfg["inference"])
    if cfg["compile"]:
        model.compile()
    prompt = model.prepare(**asked(given, model))
    masks, failed = [], []
    for number, (file, name) in enumerate(todo, 1):
        mask, over = out / f"{name}_mask.png", out / f"{name}_overlay.jpg"
        masks.append(mask)
        if mask.exists() and over.exists() and not cfg["overwrite"]:
            print(f"[{number}/{len(todo)}] {file}: there already (overwrite=true makes it again)")
            continue
        start = time.perf_counter()
        try:
            answer = model.predict(file, **prompt)
        except UserError as error:
            print(f"[{number}/{len(todo)}] error: {error}", file=sys.stderr)
            failed.append(file)
            continue
        write_text(out / "classes.txt", "".join(f"{c} {r} {g} {b}\n" for c, (r, g, b) in zip(answer.classes, answer.palette)))
        save_png(out / "legend.png", legend(answer.classes, answer.palette))
        save_label_png(mask, answer.labels, answer.palette)
        write_bytes(over, encoded(Image.fromarray(answer.overlay()), "JPEG"))
        shares = ", ".join(f"{c} {100 * s:.0f} %" for c, s in list(answer.shares().items())[:4])
        h, w = answer.labels.shape
        print(f"[{number}/{len(todo)}] {file} {w}x{h}, {time.perf_counter() - start:.1f} s: {shares} -> {mask}", flush=True)
    if failed:
        raise UserError(f"{len(failed)} of {len(todo)} pictures could not be read", failed[0], "see the lines above")
    return masks


if __name__ == "__main__":
    door(lambda: main(sys.argv[1:]))
