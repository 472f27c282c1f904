"""Mask2Former of transformers, of any classes and encoder.

Paper: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022 (arXiv 2112.01527).
Letters: B pictures, Q queries, K classes, H W size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoBackbone, Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.utils import logging

STRIDES = (4, 8, 16, 32)
STAGES = ["stage1", "stage2", "stage3", "stage4"]
UNUSED = "swin.layernorm."                                  # a norm of transformers' Swin that no map passes through
OF_CLASSES = ("class_predictor.", "criterion.")             # tensors whose shape is the number of classes
OF_STAGES = ("hidden_states_norms.", "classifier.")         # what a classifier's weights lack, and what only they have


@dataclass
class Prediction:
    """What the net says of a batch, before masks are brought to full size."""

    logits: Tensor                                          # B Q K+1; the last one: no object
    masks: Tensor                                           # B Q Hp/4 Wp/4, logits
    auxiliary: list[dict[str, Tensor]] | None               # the same of the first guess and the inner layers
    size: tuple[int, int]                                   # H W of the picture
    padded: tuple[int, int]                                 # Hp Wp


class Mask2FormerNet(nn.Module):
    """The whole of it. Any size works: zeros are padded right and bottom to multiples of 32."""

    def __init__(
        self,
        classes: int,
        encoder: str = "swin",
        encoder_options: dict | None = None,
        encoder_weights: str | None = None,
        weights: str | None = None,
        width: int = 256,
        queries: int = 100,
        layers: int = 9,
        heads: int = 8,
        hidden: int = 2048,
        pixel_layers: int = 6,
        pixel_hidden: int = 1024,
        points: int = 12_544,
    ):
        """encoder: a timm model, or the kind of a transformers backbone (swin, resnet), whose config encoder_options are.

        encoder_weights: None starts at random; for a timm model "timm" or a local file; for others a local folder or a name on
        the Hugging Face hub. weights: those of a whole Mask2Former, in the same way; classes of another number start afresh.
        layers, hidden: of the mask decoder and its feed-forward; pixel_*: of the pixel decoder. points: at which losses look.
        """
        super().__init__()
        if width < 64 or width % 32 or width % heads:
            raise ValueError(f"width={width} must be 64 or more, and a multiple of 32 (group norms) and of heads={heads}")
        with quiet():
            config = Mask2FormerConfig(
                backbone_config=backbone(encoder, encoder_options),
                num_labels=classes,
                feature_size=width,
                mask_feature_size=width,
                hidden_dim=width,
                num_queries=queries,
                decoder_layers=layers + 1,                      # transformers counts the first guess
                num_attention_heads=heads,
                dim_feedforward=hidden,
                encoder_layers=pixel_layers,
                encoder_feedforward_dim=pixel_hidden,
                train_num_points=points,
            )
            self.whole = whole(config, weights) if weights else Mask2FormerForUniversalSegmentation(config)
            if encoder_weights:
                self.whole.model.pixel_level_module.encoder = pretrained(config.backbone_config, encoder_weights)
        for name, parameter in self.whole.named_parameters():
            if UNUSED in name:
                parameter.requires_grad_(False)
        known = timm.get_pretrained_cfg(encoder) if timm.is_model(encoder) else None
        self.mean, self.std = (known.mean, known.std) if known else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def forward(self, image: Tensor, auxiliary: bool = False) -> Prediction:
        """image: B 3 H W, normalised. auxiliary: keep what the losses need beside the last layer."""
        H, W = image.shape[-2:]
        image = F.pad(image, (0, -W % STRIDES[-1], 0, -H % STRIDES[-1]))
        out = self.whole(image, output_auxiliary_logits=auxiliary)
        padded = tuple(image.shape[-2:])
        return Prediction(out.class_queries_logits, out.masks_queries_logits, out.auxiliary_logits, (H, W), padded)


def backbone(encoder: str, options: dict | None) -> dict:
    """The settings of a transformers backbone whose maps have strides 4, 8, 16, 32."""
    if encoder in CONFIG_MAPPING:
        return {"model_type": encoder, "out_features": STAGES} | (options or {})
    if not timm.is_model(encoder):
        raise ValueError(f"neither timm nor transformers has an encoder {encoder}")
    if options:
        raise ValueError(f"encoder_options are for transformers' encoders; the timm model {encoder} takes none")
    with torch.device("meta"):
        reductions = timm.create_model(encoder, features_only=True).feature_info.reduction()
    if not set(STRIDES) <= set(reductions):
        raise ValueError(f"encoder {encoder} has maps of strides {reductions}, but {STRIDES} are needed")
    return {"model_type": "timm_backbone", "backbone": encoder, "out_indices": [reductions.index(s) for s in STRIDES]}


def pretrained(config, weights: str) -> nn.Module:
    """The encoder of a backbone's config with its weights."""
    if config.model_type != "timm_backbone":
        return loaded(AutoBackbone, weights, config, OF_STAGES)
    if weights != "timm" and not Path(weights).is_file():
        raise ValueError(f"encoder_weights={weights}: no such file")
    overlay = {} if weights == "timm" else {"file": weights}
    made = AutoBackbone.from_config(config)
    try:
        body = timm.create_model(config.backbone, features_only=True, out_indices=config.out_indices, pretrained=True,
                                 pretrained_cfg_overlay=overlay)  # fmt: skip
    except OSError as error:
        raise ValueError(f"the weights {weights} of {config.backbone} cannot be had ({first_line(error)})") from error
    made._backbone.load_state_dict(body.state_dict())
    return made


def whole(config: Mask2FormerConfig, weights: str) -> Mask2FormerForUniversalSegmentation:
    return loaded(Mask2FormerForUniversalSegmentation, weights, config, OF_CLASSES)


def loaded(kind: type, weights: str, config, free: tuple[str, ...]) -> nn.Module:
    """A model of transformers with the weights of a folder or of the hub; tensors whose names begin as in `free` need not fit."""
    try:
        made, report = kind.from_pretrained(weights, config=config, ignore_mismatched_sizes=True, output_loading_info=True)
    except OSError as error:
        raise ValueError(f"the weights {weights} cannot be had ({first_line(error)})") from error
    unfit = [*report["missing_keys"], *report["unexpected_keys"], *(key for key, *_ in report["mismatched_keys"])]
    wrong = sorted(key for key in unfit if not key.startswith(free) and UNUSED not in key)
    if wrong:
        raise ValueError(f"the weights {weights} are of another shape than these settings: {len(wrong)} tensors ({wrong[0]})")
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' tables of what fits and its words on encoders it has not tried; what is wrong is raised here."""
    kept = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(kept)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
