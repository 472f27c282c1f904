"""FC-CLIP's mask generator: Mask2Former on the stages of a frozen CLIP, its masks named by pooling and text.

Paper: Yu et al., "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP", NeurIPS 2023
(arXiv 2308.02487). The pixel decoder and the masked-attention decoder are transformers' Mask2Former; the head that names masks is
here. MAFT+'s generator is the same with 100 queries.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.mask_adapter.parts import unpacked
from zoo.mask_adapter.similarity import class_logits


@dataclass
class Proposals:
    """Q masks of each picture and what the generator itself takes them for."""

    masks: Tensor                               # B Q h w, logits, at stride 4 of the padded picture
    logits: Tensor                              # B Q C+1, of the vocabulary it was trained with; void last


class NamingHead(nn.Module):
    """What stands in place of Mask2Former's linear classifier; its 11 tensors keep their released names."""

    def __init__(self, width: int, joint: int):
        super().__init__()
        self._mask_pooling_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.class_embed = nn.Module()
        self.class_embed.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, joint)])
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, queries: Tensor, masks: Tensor, features: Tensor, text: Tensor, counts: list[int]) -> Tensor:
        """queries B Q c, masks B Q h w (logits), features B c h w, text T+1 D -> logits B Q C+1."""
        hard = (masks > 0).flatten(2).to(features.dtype)                                # B Q hw
        pooled = hard @ features.flatten(2).transpose(1, 2) / (hard.sum(-1, keepdim=True) + 1e-8)
        x = self._mask_pooling_proj(pooled) + queries
        first, second, last = self.class_embed.layers
        x = last(F.relu(second(F.relu(first(x)))))                                      # B Q D
        return class_logits(x, text, counts, self.logit_scale.exp().clamp(max=100))


class MaskGenerator(nn.Module):
    """channels, strides: of the trunk's four stages, finest first; joint: D. The rest are the released sizes."""

    def __init__(
        self,
        channels: list[int],
        joint: int,
        queries: int = 250,
        width: int = 256,
        heads: int = 8,
        encoder_layers: int = 6,
        encoder_hidden: int = 1024,
        decoder_layers: int = 9,
        decoder_hidden: int = 2048,
        strides: tuple[int, int, int, int] = (4, 8, 16, 32),
    ):
        from transformers import Mask2FormerConfig
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder, Mask2FormerTransformerModule

        super().__init__()
        config = Mask2FormerConfig(
            feature_size=width, mask_feature_size=width, hidden_dim=width, num_attention_heads=heads, num_queries=queries,
            encoder_layers=encoder_layers, encoder_feedforward_dim=encoder_hidden, feature_strides=list(strides), common_stride=4,
            decoder_layers=decoder_layers + 1, dim_feedforward=decoder_hidden,           # the class uses one layer fewer
            dropout=0.0, pre_norm=False, enforce_input_projection=False,
        )  # fmt: skip
        self.pixel_decoder = Mask2FormerPixelDecoder(config, list(channels))
        nn.init.normal_(self.pixel_decoder.level_embed)                                 # it is made without values
        self.decoder = Mask2FormerTransformerModule(width, config)
        self.naming = NamingHead(width, joint)
        self.void = nn.Parameter(torch.zeros(1, joint))                # its own row of "no class": stage 2 starts from it

    def forward(self, stages: list[Tensor], text: Tensor, counts: list[int]) -> Proposals:
        """stages: four of B c h w, finest first; text T+1 D (unit rows, void last); counts: rows of each of the C classes."""
        features, masks, queries = self.decode(stages)
        return Proposals(masks[-1], self.naming(queries[-1], masks[-1], features, text, counts))

    def decode(self, stages: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Mask features B c h w; after each layer, from before the first: masks B Q h w (logits) and queries B Q c (normed)."""
        pixels = self.pixel_decoder(list(stages), output_attentions=False, output_hidden_states=False, return_dict=True)
        out = self.decoder(list(pixels.multi_scale_features), pixels.mask_features)
        queries = [state.transpose(0, 1) for state in out.intermediate_hidden_states]
        return pixels.mask_features, list(out.masks_queries_logits), queries


def load_generator(file: str) -> MaskGenerator:
    """From a file that zoo.mask_adapter.convert wrote."""
    return unpacked(MaskGenerator, file)
