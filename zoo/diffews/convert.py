"""The released folders to our export, and back:

    python -m zoo.diffews.convert <folder> <out> [<base>]    a released folder (or one in its format) -> our export
    python -m zoo.diffews.convert --official <weights> <out>    weights of ours -> a folder in the released format

A released folder (coco_fold0, incontext, ...) is a stock UNet's in diffusers' format, with the two tensors of the supports' first
convolution in its file. VAE and prompt come from the base: a folder, owner/name of the Hugging Face hub, or "tiny". Where none is
named, it is the folder itself if that is whole, or the authors' base if python -m zoo.hub has got it. Folders of ours hold the
prompt too.
"""

import json
import sys
from pathlib import Path

from torch import Tensor

from datamodules.errors import UserError
from datamodules.files import sha256_of, write_bytes, write_json
from zoo.diffews.net import CONCATENATION, REFERENCE, DiffewSNet
from zoo.diffusion.base import load_unet

WEIGHTS, PROMPT = "diffusion_pytorch_model.safetensors", "text.safetensors"
AUTHORS_BASE = "diffews/base"                                # its name in the hub
AUTHORS_TOKENS = {"tokens": 2, "train_tokens": 77}


# -- folders and nets --------------------------------------------------------------------------------------------------
def load_net(place: str | Path, text: Tensor | None, *, initialise: bool = False, injection: str = CONCATENATION, tokens: int = 2,
             train_tokens: int = 2, checkpointing: bool = False) -> DiffewSNet:
    """The net of a local folder in the released format, strict; the other arguments are DiffewSNet's.

    text: states of the empty prompt; None: those that `save_folder` put there. initialise: a folder without the supports' first
    convolution (plain Stable Diffusion) gets one made from the query's; otherwise it is refused.
    """
    unet, extra = load_unet(place, REFERENCE)
    text = _read_prompt(Path(place)) if text is None else text
    reference = _reference(extra, unet.conv_in.weight.shape, place) if injection == CONCATENATION else None
    if injection == CONCATENATION and reference is None and not initialise:
        raise UserError(f"holds no {REFERENCE[0]}: a plain Stable Diffusion UNet, not one of DiffewS", place,
                        "give a folder of DiffewS, or start a training from this one")
    if injection != CONCATENATION and extra:
        raise UserError(f"holds {min(extra)}, which injection by {injection} has not", place, f"give injection={CONCATENATION}")
    return DiffewSNet(unet, text, injection, tokens, train_tokens, checkpointing, reference)


def save_folder(net: DiffewSNet, folder: str | Path) -> None:
    """unet/ as the authors' class saves it, and the prompt's states beside."""
    from safetensors.torch import save

    config = json.loads(net.unet.to_json_string())
    config.pop("_name_or_path", None)
    if net.injection == CONCATENATION:
        config |= {"_class_name": "MyUNet2DConditionModel", "in_channels_ref": 2 * net.channels}
    tensors = {official_name(key): value.detach().cpu().contiguous() for key, value in net.state_dict().items() if key != "text"}
    write_bytes(Path(folder) / "unet" / WEIGHTS, save(tensors, {"format": "pt"}))
    write_bytes(Path(folder) / PROMPT, save({"text": net.text.cpu()}))
    write_json(Path(folder) / "unet" / "config.json", config)


def official_name(key: str) -> str:
    """Of a parameter of DiffewSNet; its first convolutions stand beside the UNet, theirs in it."""
    return key.removeprefix("unet.")


def _reference(extra: dict[str, Tensor], first: tuple[int, ...], place) -> dict[str, Tensor] | None:
    """The supports' first convolution as it lies in a file, checked against the query's weight [out, in, k, k]."""
    if not extra:
        return None
    if missing := [name for name in REFERENCE if name not in extra]:
        raise UserError(f"holds no {missing[0]}, but its other half", place, "copy or download it again")
    wanted = (first[0], 2 * first[1], *first[2:])
    if tuple(extra[REFERENCE[0]].shape) != wanted:
        raise UserError(f"its {REFERENCE[0]} is {tuple(extra[REFERENCE[0]].shape)}, expected {wanted}", place,
                        "this is another variant of the method")
    return extra


def _read_prompt(place: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = next((folder / PROMPT for folder in (place, place.parent) if (folder / PROMPT).is_file()), place / PROMPT)
    if not path.is_file():
        raise UserError("no states of the empty prompt beside this UNet", place, "name the base they are to be computed with")
    try:
        return load_file(path)["text"]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"cannot be read ({error})", path, "copy it again") from error


# -- the two commands --------------------------------------------------------------------------------------------------
def export(folder: str, out: str, base: str | None) -> None:
    """A released folder -> our export."""
    from zoo import hub

    if not Path(folder).is_dir():
        raise UserError("no such folder", folder, "give a released folder, or one in its format")
    base = base or _base_of(Path(folder))
    net = {"_target_": "zoo.diffews.net.DiffewSNet", "_partial_": True, **AUTHORS_TOKENS}
    recipe = {"_target_": "zoo.diffews.module.DiffewS", "base": base, "start": "random", "net": net}
    method = hub.build(recipe, ["background", "object"])
    method.net = load_net(folder, method.net.text, **AUTHORS_TOKENS)
    path = next((Path(folder) / "unet" if (Path(folder) / "unet").is_dir() else Path(folder)).glob("diffusion_pytorch_model*"))
    licence = "unknown (the authors' code is BSD-2 for academic use, the base CreativeML Open RAIL++-M)"
    hub.export(method, out, {"source": Path(folder).name, "source_sha256": sha256_of(path), "licence": licence})
    print(f"{len(method.net.state_dict())} tensors -> {out}")


def _base_of(folder: Path) -> str:
    """The folder itself if it is whole, or the authors' base where it lies in the hub's cache."""
    from zoo import download

    for place in (folder, download.folder_of(AUTHORS_BASE)):
        if (place / "vae").is_dir():
            return str(place)
    raise UserError("a UNet without its VAE", folder, f"name the base as third argument, or python -m zoo.hub get {AUTHORS_BASE}")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["--official", weights, out]:
            from zoo import hub

            save_folder(hub.load(weights).net, out)
            print(f"-> {out}")
        case [folder, out] | [folder, out, _] if not folder.startswith("-"):
            export(folder, out, arguments[2] if len(arguments) == 3 else None)
        case _:
            raise UserError("which weights, and where to?",
                            mend="python -m zoo.diffews.convert <folder> <out> [<base>] | --official <weights> <out>")


if __name__ == "__main__":
    from datamodules.errors import door

    door(lambda: main(sys.argv[1:]))
