"""A CLIP of a few thousand weights (beside the token table) in open_clip's folder format, as small as tests want it."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.mask_adapter.clip import CONFIG, WEIGHTS, FrozenCLIP


def clip_folder(folder: Path, joint: int = 40, trunk: str = "test_convnext", proj: str = "linear",
                given: dict[str, Tensor] | None = None, seed: int = 1) -> Path:
    """A random one; `given` tensors, by open_clip's names, take their place."""
    config = {
        "embed_dim": joint,
        "vision_cfg": {"timm_model_name": trunk, "timm_model_pretrained": False, "timm_pool": "", "timm_proj": proj,
                       "timm_drop": 0.0, "timm_drop_path": 0.1, "image_size": 64},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(seed)
    model = open_clip.CLIP(**json.loads(json.dumps(config)))
    left = model.load_state_dict(given or {}, strict=False)
    assert not left.unexpected_keys
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / WEIGHTS)
    return folder


def small_clip(folder: Path, joint: int = 40, trunk: str = "test_convnext", proj: str = "linear",
               given: dict[str, Tensor] | None = None, seed: int = 1) -> FrozenCLIP:
    return FrozenCLIP(f"local-dir:{clip_folder(folder, joint, trunk, proj, given, seed)}")
