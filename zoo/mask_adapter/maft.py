"""MAFT+: text that adapts to the picture, and two peculiarities its released weights need.

Paper: Jiao et al., "Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation", ECCV 2024
(arXiv 2408.00744). Both peculiarities are of the released code and not of the paper: take them for official weights only.
"""

import torch
from torch import Tensor, nn

from zoo.mask_adapter.parts import unpacked


def scrambled_dense(clip: nn.Module, feature: Tensor) -> Tensor:
    """feature B Cf H W -> B D H W as MAFT+'s released code computes it.

    It reshapes channels x rows x columns to rows of Cf numbers where it should permute: what passes for a position is Cf
    neighbours in memory, a mixture of places, different for every padded size. Its weights were trained with this.
    """
    B, C, H, W = feature.shape
    return clip.project(feature.reshape(B, H * W, C)).reshape(B, H, W, clip.width).permute(0, 3, 1, 2)


class _Attention(nn.Module):
    """The tensors below `cdt.cross_atten.`, under their released names."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.MLP = nn.Linear(width, width)


class ContentTransfer(nn.Module):
    """The rows of text look at the picture and change.

    norm_last: True, LN(t + MLP(a)), is the form of maftp_b, maftp_l and of the adapter trained on the base model; False,
    t + LN(MLP(a)), that of the adapter trained on the large one and of maftp_l_pano. The released code chooses between them
    by whether panoptic output is asked for. The result is not brought back to unit length.
    """

    def __init__(self, width: int, heads: int = 8, norm_last: bool = True):
        super().__init__()
        self.cross_atten, self.norm_last = _Attention(width, heads), norm_last

    def forward(self, text: Tensor, dense: Tensor) -> Tensor:
        """text B T D, dense B D H W -> B T D."""
        values = dense.flatten(2).transpose(1, 2)                                       # B HW D
        keys = values + sine_position(*dense.shape[-2:], dense.shape[1]).to(values)
        part = self.cross_atten
        change = part.MLP(part.multihead_attn(text, keys, values, need_weights=False)[0])
        return part.norm(text + change) if self.norm_last else text + part.norm(change)


def sine_position(height: int, width: int, channels: int) -> Tensor:
    """HW C: sines and cosines of the row, then of the column, both counted from 1 and stretched to 2 pi (as in DETR)."""
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

    make = Mask2FormerSinePositionEmbedding(channels // 2, normalize=True)
    return make(torch.Size((1, channels, height, width)), torch.device("cpu"), torch.float32)[0].flatten(1).T


def load_transfer(file: str) -> ContentTransfer:
    """From a file that zoo.mask_adapter.convert wrote."""
    return unpacked(ContentTransfer, file)
