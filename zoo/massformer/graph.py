"""MaSSFormer from a picture to its scores as one graph, for `python -m zoo.export`: the plain path, without bands."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.massformer.net import MaSSFormerNet


class PictureToScores(nn.Module):
    """1 3 H W, RGB 0..255 -> 1 K H W. mean, std: of RGB, 3 1 1; multiple: of the sides where a graph must know their shapes."""

    def __init__(self, net: MaSSFormerNet, mean: Tensor, std: Tensor):
        super().__init__()
        self.net, self.multiple = net, net.multiple
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, image: Tensor) -> Tensor:
        H, W = image.shape[-2:]
        out = self.net((image - self.mean) / self.std)
        masks = torch.einsum("bqc,bchw->bqhw", *out.masks(-1))
        masks = F.interpolate(masks, scale_factor=2, mode="bilinear")[..., :H, :W].sigmoid()            # 1 Q H W
        return torch.einsum("bqk,bqhw->bkhw", out.logits[-1].softmax(-1)[..., :-1], masks)
