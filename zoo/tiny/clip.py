"""The tiny CLIP: an open_clip model of our own config, loaded as any other.

    import zoo.tiny.clip                                        # makes its vision tower known to timm
    model = open_clip.create_model("local-dir:zoo/tiny/weights/clip")   # open_clip_config.json, open_clip_model.safetensors
"""

import json
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from timm.models import register_model
from timm.models.convnext import ConvNeXt, _create_convnext
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "weights" / "clip"
LAYER_SCALE = 0.5  # timm's 1e-6 is for deep nets: from nothing, a small one then learns nothing for hundreds of steps


@register_model
def convnext_zoo_tiny(pretrained: bool = False, **settings) -> ConvNeXt:
    """Four stages at strides 4, 8, 16, 16: small pictures keep a grid worth pooling on."""
    shape = {"depths": (1, 2, 3, 1), "dims": (32, 64, 96, 128), "output_stride": 16, "ls_init_value": LAYER_SCALE}
    nothing_to_download = {"pretrained_cfg": {"architecture": "convnext_zoo_tiny"}}
    return _create_convnext("convnext_zoo_tiny", pretrained=pretrained, **shape | settings | nothing_to_download)


def load(folder: Path = FOLDER) -> open_clip.CLIP:
    """The trained model in fp32, ready to be used."""
    return open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()


def untrained(words: list[str]) -> open_clip.CLIP:
    """The model to be trained. Only the tokens of `words` have a vector: every other row of the table is zero, and stays so."""
    model = open_clip.CLIP(**json.loads((FOLDER / "open_clip_config.json").read_text())["model_cfg"])
    for part in model.visual.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)  # timm's 0.02 is small for widths of 32 to 128
    table = model.token_embedding.weight.data
    used = torch.zeros(len(table), 1)
    used[tokens(words).unique()] = 1
    table.mul_(used)
    return model


def tokens(sentences: list[str]) -> Tensor:
    """Token ids [N, L], cut after the longest sentence's end."""
    ids = open_clip.get_tokenizer("ViT-B-32")(sentences)  # the BPE that open_clip brings along, context 77
    return ids[:, : int(ids.argmax(1).max()) + 1]


def encode_text(model: open_clip.CLIP, ids: Tensor) -> Tensor:
    """[N, L] -> [N, D] as model.encode_text, for ids cut short: the tower is causal, so what follows the end changes nothing."""
    length = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    ends = model.ln_final(x)[torch.arange(len(ids)), ids.argmax(1)]
    return ends @ model.text_projection


def dense(model: open_clip.CLIP, images: Tensor) -> Tensor:
    """Features of the grid before the last norm and the projection, [B, C, H, W]."""
    return model.visual.trunk.forward_features(images)


def project(model: open_clip.CLIP, pooled: Tensor) -> Tensor:
    """Pooled grid features [N, C] -> unit vectors [N, D], through the trunk's last norm and the projection."""
    return F.normalize(model.visual.head(model.visual.trunk.forward_head(pooled[:, :, None, None])), dim=-1)


def normalised(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] as the model expects it."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
