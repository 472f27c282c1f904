"""The frozen CLIP: any open_clip model with a ConvNeXt, from open_clip itself, from a file or from a folder.

    FrozenCLIP("tiny")                                                        # this zoo's own, for the demonstration
    FrozenCLIP("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup")          # the paper's; or "convnext_base_w_320", ...
    FrozenCLIP("convnext_large_d_320", "open_clip_model.safetensors")         # the same from a file
    FrozenCLIP("local-dir:folder")                                            # open_clip_config.json, open_clip_model.safetensors
    FrozenCLIP("convnext_base_w_320", "random")                               # to count or to test with
"""

import json
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.files import offline
from zoo.mask_adapter.parts import sha256_of_tensors

TINY, FOLDER, RANDOM = "tiny", "local-dir:", "random"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


class FrozenCLIP(nn.Module):
    """CLIP in evaluation mode for good: it takes no gradients, and `train()` changes nothing in it.

    width: D, of the joint space. channels, strides: of the trunk's four stages; the last is the grid masks are pooled on.
    mean, std: of RGB in 0..1. side: of the square pictures it was trained on.
    """

    def __init__(self, name: str = TINY, weights: str | None = None):
        """name: `tiny`, `local-dir:<folder>` or open_clip's name of a model. weights: open_clip's tag or a file (None: the one in
        the folder), or `random`, which gives the same values each time."""
        import open_clip

        super().__init__()
        config, preprocess = _config(name)
        self.mean = tuple(preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN))
        self.std = tuple(preprocess.get("std", open_clip.OPENAI_DATASET_STD))
        self.config = {"model_cfg": config, "preprocess_cfg": {"mean": list(self.mean), "std": list(self.std)}}
        self.model = _build(name, config)
        if weights != RANDOM:
            _load(self.model, _file(name, weights))
        stages = self.model.visual.trunk.feature_info
        self.channels, self.strides = [s["num_chs"] for s in stages], [s["reduction"] for s in stages]
        self.width, self.stride = config["embed_dim"], self.strides[-1]
        self.side = config["vision_cfg"].get("image_size", 224)
        self.tokenizer = open_clip.SimpleTokenizer(context_length=self.model.context_length)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenCLIP":
        return super().train(False)

    @property
    def scale(self) -> Tensor:
        return self.model.logit_scale.exp().clamp(max=100)

    @cached_property
    def sha256(self) -> str:
        """Of its tensors, see `sha256_of_tensors`."""
        return sha256_of_tensors(self)

    # -- pictures ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """images B 3 h w, normalised, sides multiples of `stride` -> the last grid B Cf H W and the four stages, finest first."""
        trunk, stages = self.model.visual.trunk, []
        x = trunk.stem(images)
        for stage in trunk.stages:
            x = stage(x)
            stages.append(x)
        return trunk.norm_pre(x), stages

    @torch.no_grad()
    def dense(self, feature: Tensor) -> Tensor:
        """B Cf H W -> B D H W: each cell through the last norm and the projection."""
        visual = self.model.visual
        return visual.head(visual.trunk.head.norm(feature).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def project(self, pooled: Tensor) -> Tensor:
        """... Cf -> ... D: the same of vectors pooled on the grid; gradients pass. Not of unit length."""
        visual = self.model.visual
        flat = visual.trunk.head.norm(pooled.reshape(-1, pooled.shape[-1], 1, 1)).flatten(1)
        return visual.head(flat).reshape(*pooled.shape[:-1], self.width)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """B 3 h w, normalised -> B D, of whole pictures; not of unit length."""
        return self.model.encode_image(images)

    # -- text ----------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def encode_text(self, sentences: list[str]) -> Tensor:
        """n sentences -> n D, not of unit length. What goes beyond the context (77 tokens) is cut off, the end mark stays.

        The tower is causal: what follows a sentence's end changes nothing, so only as many tokens are run as the longest needs.
        """
        from zoo.tiny.clip import encode_text

        ids = self.tokenizer(sentences).to(self.model.positional_embedding.device)
        return encode_text(self.model, ids[:, : int(ids.argmax(1).max()) + 1])

    def token_count(self, text: str) -> int:
        """With the start and end marks, before anything is cut."""
        return len(self.tokenizer.encode(text)) + 2


def pad(images: Tensor, stride: int) -> Tensor:
    """B 3 h w (normalised: 0 is the mean colour), or masks, with zeros right and below up to multiples of `stride`."""
    return F.pad(images, (0, -images.shape[-1] % stride, 0, -images.shape[-2] % stride))


# -- making it ---------------------------------------------------------------------------------------------------------
def _config(name: str) -> tuple[dict, dict]:
    """open_clip's config of the model, and of how its pictures are prepared ({} where that is the usual way)."""
    import open_clip

    from zoo.tiny import clip as tiny  # makes the tiny model's vision tower known to timm

    if name == TINY or name.startswith(FOLDER):
        path = _folder(name, tiny.FOLDER) / CONFIG
        try:
            content = json.loads(path.read_text())
            return content["model_cfg"], content.get("preprocess_cfg", {})
        except OSError as error:
            raise UserError(f"no CLIP here ({error.strerror})", path, f"give a folder with {CONFIG} and {WEIGHTS}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError("not open_clip's config of a model", path, "copy or download it again") from error
    config = open_clip.get_model_config(name)
    if config is None:
        known = [n for n in open_clip.list_models() if "convnext" in n]
        near = ", ".join(get_close_matches(name, known, 3, 0.3) or known)
        raise UserError("open_clip has no such model", f"clip.name={name}", f"near names: {near}; or tiny, or {FOLDER}<folder>")
    return config, {}


def _folder(name: str, tiny: Path) -> Path:
    return tiny if name == TINY else Path(name.removeprefix(FOLDER)).expanduser()


def _build(name: str, config: dict) -> nn.Module:
    import open_clip
    from timm.models.convnext import ConvNeXt

    if "timm_model_name" not in config["vision_cfg"] or "hf_model_name" in config["text_cfg"] or config.get("custom_text"):
        raise UserError("not a CLIP with a ConvNeXt", f"clip.name={name}", "take convnext_base_w_320, convnext_large_d_320, ...")
    vision = config["vision_cfg"] | {"timm_model_pretrained": False}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = open_clip.CLIP(**config | {"vision_cfg": vision})
    except (TypeError, RuntimeError, ValueError) as error:
        raise UserError(f"open_clip cannot make this model ({error})", f"clip.name={name}", "correct its config") from error
    if not isinstance(model.visual.trunk, ConvNeXt):
        raise UserError(f"its vision tower is a {type(model.visual.trunk).__name__}, not a ConvNeXt", f"clip.name={name}",
                        "take convnext_base_w_320, convnext_large_d_320, ...")
    return model


def _file(name: str, weights: str | None) -> Path:
    """The file of the weights, downloaded if it is one of open_clip's tags."""
    import open_clip

    from zoo.tiny import clip as tiny

    tags = open_clip.list_pretrained_tags_by_model(name)
    mend = f"give a file{' or one of open_clip: ' + ', '.join(tags) if tags else ''}"
    if weights in tags:
        return _download(name, weights, open_clip.get_pretrained_cfg(name, weights))
    if weights is None and name != TINY and not name.startswith(FOLDER):
        raise UserError("a CLIP without weights", f"clip.name={name}", f"set clip.weights: {mend}")
    path = Path(weights).expanduser() if weights else _folder(name, tiny.FOLDER) / WEIGHTS
    if not path.is_file():
        raise UserError("no weights of the CLIP here", path, mend)
    return path


def _download(name: str, weights: str, tag: dict) -> Path:
    """open_clip's file, from its cache or the network."""
    import open_clip

    try:
        return Path(open_clip.download_pretrained(tag))
    except Exception as error:                               # the hub's library and urllib raise nearly anything
        why = "offline, and not in the cache" if offline() else (str(error).splitlines() or [type(error).__name__])[0][:120]
        mend = "give a file (clip.weights=...), or download it once where there is a network"
        raise UserError(f"open_clip's weights cannot be had ({why})", f"clip.weights={weights} of {name}", mend) from error


def _load(model: nn.Module, file: Path) -> None:
    import open_clip

    try:
        open_clip.load_checkpoint(model, str(file))
    except Exception as error:                               # a foreign or torn file may raise nearly anything
        line = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"not the weights of this CLIP ({line})", file, "give the file that belongs to clip.name") from error
