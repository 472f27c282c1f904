"""Base models: one path from a folder in diffusers' format to frozen parts, for Stable Diffusion and what is built like it.

    base = load_base("path/to/stable-diffusion-2-1")    # or a name of zoo.hub, or owner/name of the Hugging Face hub
    base.latent_channels, base.factor, base.prediction, base.text_width, base.side

Sides, channels, text width and what the UNet predicts are read from the folder's configs. What would be loaded differently
than it was saved (missing or unknown tensors, other kinds of base) is refused in one line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.files import offline, sha256_of
from zoo import download
from zoo.diffusion.schedule import PREDICTIONS
from zoo.diffusion.text import Text

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

_OURS = [f"diffusion_pytorch_model{kind}" for kind in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")]
WEIGHTS = {                              # the weights of a part: the first of these files that is there
    "vae": _OURS,
    "unet": _OURS,
    "text_encoder": ["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin"],
}
SETTINGS = (".json", ".txt")             # a part's other files
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SECONDS = 10                             # the hub must answer within


@dataclass
class Base:
    """A frozen base in evaluation mode, on the CPU at first.

    It is no nn.Module on purpose: a method that keeps it in an attribute neither trains nor saves nor averages it, and
    moves it by `to`. configs: the JSON of vae, unet and scheduler. extra: see `load_unet`.
    """

    name: str
    folder: Path
    vae: AutoencoderKL
    unet: UNet2DConditionModel | None
    text: Text | None
    configs: dict[str, dict]
    extra: dict[str, Tensor] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def latent_channels(self) -> int:
        return self.configs["vae"]["latent_channels"]

    @property
    def factor(self) -> int:
        """Pixels per latent cell, along each side."""
        return 2 ** (len(self.configs["vae"]["block_out_channels"]) - 1)

    @property
    def scaling(self) -> float:
        """By which latents are multiplied, so that their spread is about one."""
        return self.vae.config.scaling_factor

    @property
    def prediction(self) -> str:
        """What the UNet answers with, see schedule.py."""
        return self.configs["scheduler"].get("prediction_type", "epsilon")

    @property
    def text_width(self) -> int:
        return self.configs["unet"]["cross_attention_dim"]

    @property
    def latent_side(self) -> int:
        """Of the latents the UNet was trained on; other sides work too."""
        return self.configs["unet"]["sample_size"]

    @property
    def side(self) -> int:
        """Of the pictures it was trained on, in pixels."""
        return self.latent_side * self.factor

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the latents of a picture."""
        if height % self.factor or width % self.factor or min(height, width) < 1:
            raise UserError(f"{width}x{height} pixels", self.name, f"give sides that are multiples of {self.factor}")
        return height // self.factor, width // self.factor

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Base:
        """Moves all parts, and casts them if a dtype is given."""
        with _quiet():                                       # diffusers warns of every cast
            for part in (self.vae, self.unet, self.text and self.text.encoder):
                if part is not None:
                    part.to(device=device, dtype=dtype)
        self.extra = {name: value.to(device=device, dtype=dtype) for name, value in self.extra.items()}
        return self

    def sha256(self, part: str) -> str:
        """Of a part's weights file: vae, unet or text_encoder; of its tensors where it was handed over ready."""
        if part not in self.digests:
            self.digests[part] = sha256_of(_weights(self.folder / part, part))
        return self.digests[part]

    def record(self, *parts: str) -> dict[str, str]:
        """What an export writes about its base: the name and the sha256 of the parts it was made with."""
        return {"name": self.name, **{part: self.sha256(part) for part in parts}}

    def expect(self, record: dict[str, str]) -> None:
        """Refuses to be used with what was made with another base."""
        for part in WEIGHTS:
            if part in record and self.sha256(part) != record[part]:
                raise UserError(f"its {part} is not the one these weights were made with (sha256 {record[part][:16]}...)",
                                self.folder, f"give the base {record.get('name', 'they were made with')}")


def load_base(place: str | Path, *, unet: bool = True, text: bool = True, text_encoder: CLIPTextModel | None = None,
              tokenizer: CLIPTokenizer | None = None, extra: tuple[str, ...] = ()) -> Base:
    """The base in a folder of diffusers' format, in fp32 whatever it is stored in.

    place: the folder, a name of `python -m zoo.hub list`, or owner/name on the Hugging Face hub: taken from its local cache
    if it is there, downloaded if not, and at once refused if offline mode is set. unet, text: whether these parts are wanted.
    text_encoder, tokenizer: ready ones, for a folder without them. extra: see `load_unet`.
    """
    parts = ["scheduler", "vae", "unet"]
    parts += ["text_encoder"] if text and text_encoder is None else []
    parts += ["tokenizer"] if text and tokenizer is None else []
    folder = _find(str(place), parts if unet else [p for p in parts if p != "unet"])
    scheduler = _settings(folder / "scheduler" / "scheduler_config.json")
    configs = {"scheduler": scheduler} | {part: _settings(folder / part / "config.json") for part in ("vae", "unet")}
    if refusal := _foreign(configs):
        raise UserError(refusal, folder, "give a folder of Stable Diffusion 1 or 2, or one built like it")
    vae, _ = _load("vae", folder / "vae")
    net, more = load_unet(folder, extra) if unet else (None, {})
    base = Base(str(place), folder, vae, net, None, configs, more)
    if text:
        if text_encoder is not None:
            base.digests["text_encoder"] = digest(text_encoder)
        encoder = text_encoder or _load("text_encoder", folder / "text_encoder")[0]
        base.text = Text(frozen(encoder), tokenizer or _tokenizer(folder / "tokenizer"))
        if base.text.width != base.text_width:
            raise UserError(f"a text encoder of width {base.text.width}, but the UNet reads {base.text_width}", folder,
                            "give the text encoder that belongs to this base")
    return base


def load_unet(place: str | Path, extra: tuple[str, ...] = ()) -> tuple[UNet2DConditionModel, dict[str, Tensor]]:
    """The frozen UNet in a local folder (unet/ of a base, or itself), and tensors of its file that belong to none.

    extra: names of such tensors, wanted where they are there (DiffewS keeps its second first convolution so). Any other
    tensor that a UNet2DConditionModel has not is an error, as is one that it lacks.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise UserError("no such folder", folder, "give the folder of a UNet in diffusers' format")
    return _load("unet", folder / "unet" if (folder / "unet").is_dir() else folder, extra)


def frozen(net: nn.Module) -> nn.Module:
    return net.requires_grad_(False).eval()


def digest(net: nn.Module) -> str:
    """sha256 of a module's tensors, their names, shapes and types."""
    out = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        value = value.detach().cpu().contiguous()
        out.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        out.update(value.flatten().view(torch.uint8).numpy())
    return out.hexdigest()


# -- where a base lies -------------------------------------------------------------------------------------------------
def _find(place: str, parts: list[str]) -> Path:
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError("a file, not a folder in diffusers' format", folder,
                        "save it as one: StableDiffusionPipeline.from_single_file(...).save_pretrained(folder)")
    if place in download.entries():
        return download.get(place)
    if not HUB_ID.fullmatch(place):
        raise UserError("no such folder", folder, "give a folder in diffusers' format, or owner/name on the Hugging Face hub")
    return _from_hub(place, parts)


def _from_hub(name: str, parts: list[str]) -> Path:
    """The folder of a repository in the hub's own cache; what is there is taken, so a base stays what it was."""
    from huggingface_hub import HfApi, snapshot_download

    cached = None
    with contextlib.suppress(Exception):                     # the hub's library raises nearly anything for "not here"
        cached = Path(snapshot_download(name, local_files_only=True))
    if cached and all(_chosen(part, [path.name for path in (cached / part).glob("*")]) for part in parts):
        return cached
    if offline():
        if cached:
            return cached                                    # the loader says which part it lacks
        raise UserError("no such folder, and not in the Hugging Face cache; offline mode is set", name,
                        "give a folder in diffusers' format, or unset HF_HUB_OFFLINE and ZOO_OFFLINE")
    try:
        listed = [file.rfilename for file in HfApi().model_info(name, timeout=SECONDS).siblings]
        wanted = [f"{p}/{n}" for p in parts for n in _chosen(p, [f.split("/")[1] for f in listed if f.startswith(f"{p}/")])]
        wanted += ["unet/config.json"]
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=SECONDS))
    except Exception as error:                               # the hub's own errors, httpx's or requests'
        raise UserError(f"no such folder, and the Hugging Face hub does not give it ({_first_line(error)})", name,
                        "give a folder in diffusers' format, or try again") from error


def _chosen(part: str, names: list[str]) -> list[str]:
    """The files of a part that are read, of those in its folder; none if its weights are missing."""
    settings = [name for name in names if name.endswith(SETTINGS)]
    if part not in WEIGHTS:
        return settings
    weights = next((name for name in WEIGHTS[part] if name in names), None)
    return [*settings, weights] if weights else []


def _weights(folder: Path, part: str) -> Path:
    path = next((folder / name for name in WEIGHTS[part] if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"no weights of a {part} in diffusers' format", folder, f"it should hold {WEIGHTS[part][0]}")
    return path


# -- what a folder says of itself --------------------------------------------------------------------------------------
def _settings(path: Path) -> dict:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        whole = path.parent.parent
        raise UserError(f"no folder of a base in diffusers' format: {path.parent.name}/{path.name} is missing", whole,
                        "it needs scheduler/, vae/, unet/ and, for prompts, text_encoder/ and tokenizer/") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({_first_line(error)})", path, "copy or download it again") from error
    if not isinstance(found, dict):
        raise UserError("not the settings of a model", path, "copy or download it again")
    return found


def _foreign(configs: dict[str, dict]) -> str | None:
    """Why a base is none of those that are understood here."""
    vae, unet, scheduler = (configs[part] for part in ("vae", "unet", "scheduler"))
    for part, keys in (("vae", ("latent_channels", "block_out_channels")),
                       ("unet", ("in_channels", "out_channels", "cross_attention_dim", "sample_size"))):
        if lacks := [key for key in keys if key not in configs[part]]:
            return f"{part}/config.json lacks {lacks[0]}"
    for part, keys in (("vae", ("shift_factor", "latents_mean", "latents_std")),
                       ("unet", ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"))):
        if used := [key for key in keys if configs[part].get(key) is not None]:
            return f"another kind of base: its {part} has {used[0]}"
    if scheduler.get("prediction_type", "epsilon") not in PREDICTIONS:
        return f"its UNet predicts {scheduler['prediction_type']!r}, not one of {', '.join(PREDICTIONS)}"
    if scheduler.get("rescale_betas_zero_snr"):
        return "its noise ends in nothing but noise (rescale_betas_zero_snr)"
    if {unet["in_channels"], unet["out_channels"]} != {vae["latent_channels"]}:
        return (f"its UNet turns {unet['in_channels']} channels into {unet['out_channels']}, its VAE has "
                f"{vae['latent_channels']} (an inpainting or upscaling base?)")
    if not isinstance(unet["cross_attention_dim"], int) or not isinstance(unet["sample_size"], int):
        return "its cross_attention_dim and sample_size are not one number each"
    return None


# -- loading -----------------------------------------------------------------------------------------------------------
def _load(part: str, folder: Path, extra: tuple[str, ...] = ()) -> tuple[nn.Module, dict[str, Tensor]]:
    """A frozen part in fp32 and the tensors of its file named in `extra`."""
    kind = _class_of(part)
    _settings(folder / "config.json")
    path = _weights(folder, part)
    try:
        with _quiet():
            net, report = kind.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, use_safetensors=path.suffix == ".safetensors",
                variant="fp16" if ".fp16." in path.name else None,
            )
            net.to(torch.float32)
    except Exception as error:                               # the libraries raise nearly anything for a foreign or torn file
        raise UserError(f"no {kind.__name__} can be made of it ({_first_line(error)})", path,
                        "it is damaged or of another kind; copy or download it again") from error
    unknown = set(report["unexpected_keys"]) - set(extra)
    for what, names in (("lacks tensors of", report["missing_keys"]), ("holds tensors unknown to", unknown)):
        if names:
            raise UserError(f"{what} {kind.__name__}: {len(names)}, first {min(names)}", path,
                            "give the folder this part was saved in, or the method that these weights belong to")
    kept = {name: value.float() for name, value in _some(path, set(report["unexpected_keys"])).items()}
    return frozen(net), kept


def _class_of(part: str) -> type:
    if part == "text_encoder":
        from transformers import CLIPTextModel

        return CLIPTextModel
    from diffusers import AutoencoderKL, UNet2DConditionModel

    return {"vae": AutoencoderKL, "unet": UNet2DConditionModel}[part]


def _some(path: Path, names: set[str]) -> dict[str, Tensor]:
    """Single tensors of a weights file."""
    if not names:
        return {}
    if path.suffix == ".bin":
        whole = torch.load(path, map_location="cpu", weights_only=True)
        return {name: whole[name] for name in names}
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).clone() for name in names}


def _tokenizer(folder: Path) -> CLIPTokenizer:
    from transformers import CLIPTokenizerFast

    if not (folder / "tokenizer.json").is_file():            # without its files the library makes an empty one
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise UserError(f"{name} is missing", folder, "copy or download it again")
    try:
        with _quiet():
            return CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:                               # the library raises nearly anything for a damaged file
        raise UserError(f"no tokenizer can be made of it ({_first_line(error)})", folder, "copy or download it again") from error


@contextlib.contextmanager
def _quiet():
    """The libraries neither warn nor draw bars: what matters of it is checked, and said in one line."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    rooms = (of_diffusers, of_transformers)
    before = [(room.get_verbosity(), room.is_progress_bar_enabled()) for room in rooms]
    for room in rooms:
        room.set_verbosity(logging.CRITICAL)
        room.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for room, (verbosity, bars) in zip(rooms, before):
            room.set_verbosity(verbosity)
            if bars:
                room.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
