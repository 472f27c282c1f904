"""DeepLabV3+ of segmentation_models_pytorch, put together as UniMatch does: resized by sizes, so that any size works unpadded.

Paper: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018 (arXiv
1802.02611). The card names where the parts differ. Letters: B pictures, C = inner width, K classes, H W size.
"""

from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FINE = 2                        # of the encoder's maps (the picture, strides 2, 4, 8, ...): the one of stride 4


class DeepLabV3PlusNet(nn.Module):
    """A dilated encoder, image context at five scales (ASPP), and its sum sharpened by the features of stride 4."""

    def __init__(
        self,
        classes: int,
        encoder: str = "resnet101.tv_in1k",
        encoder_weights: str | None = None,
        encoder_options: dict | None = None,
        output_stride: int = 16,
        rates: tuple[int, int, int] = (6, 12, 18),
        width: int = 256,
    ):
        """encoder: a timm model whose last stages can be dilated to `output_stride` (8 or 16); encoder_options go to timm.

        encoder_weights: None starts at random, "timm" takes timm's pretrained file, anything else is a local file.
        rates: dilations of the three 3x3 convolutions of ASPP. width: channels of ASPP and decoder.
        """
        super().__init__()
        options = dict(encoder_options or {})
        if encoder_weights not in (None, "timm"):
            if not Path(encoder_weights).is_file():
                raise ValueError(f"encoder_weights={encoder_weights}: no such file")
            options["pretrained_cfg_overlay"] = {"file": encoder_weights}
        try:
            parts = smp.DeepLabV3Plus(
                f"tu-{encoder}",
                encoder_weights=None if encoder_weights is None else True,      # its word for "pretrained"
                encoder_output_stride=output_stride,
                decoder_channels=width,
                decoder_atrous_rates=rates,
                decoder_aspp_separable=False,
                decoder_aspp_dropout=0.0,
                classes=classes,
                **options,
            )
        except OSError as error:                            # the hub is out of reach, say
            what = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"encoder_weights={encoder_weights} cannot be had for {encoder} ({what})") from error
        self.encoder, self.decoder, self.classify = parts.encoder, parts.decoder, parts.segmentation_head[0]
        config = timm.get_pretrained_cfg(encoder)
        self.mean, self.std = (config.mean, config.std) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def forward(self, image: Tensor) -> Tensor:
        """image: B 3 H W, normalised -> logits B K H/4 W/4."""
        features = self.encoder(image)
        fine = self.decoder.block1(features[FINE])                                      # B 48 H/4 W/4
        context = self.decoder.aspp(features[-1])                                       # B C H/16 W/16
        context = F.interpolate(context, fine.shape[-2:], mode="bilinear", align_corners=True)
        return self.classify(self.decoder.block2(torch.cat([context, fine], 1)))


def widen_rows(logits: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Rows start..stop of F.interpolate(logits, size, mode="bilinear", align_corners=True), to float32's rounding.

    logits: B K h w -> float32 B K stop-start W.
    """
    (H, W), h = size, logits.shape[-2]
    at = torch.arange(start, stop, dtype=torch.float64, device=logits.device) * ((h - 1) / max(H - 1, 1))
    upper = at.long().clamp(max=h - 1)
    lower = (upper + 1).clamp(max=h - 1)
    rows = torch.lerp(logits[..., upper, :].float(), logits[..., lower, :].float(), (at - upper).float()[:, None])
    return F.interpolate(rows, (stop - start, W), mode="bilinear", align_corners=True)
