"""Mask-Adapter: where to look in CLIP's features to name a mask, instead of averaging them inside it.

Paper: Li et al., "Mask-Adapter: The Devil is in the Masks for Open-Vocabulary Segmentation", CVPR 2025 (arXiv 2412.04533).
Names of modules are those of the released weights (hustvl/MaskAdapter), so that its files load as they are.
Letters: B pictures, N masks, K activation maps of a mask, C classes, T rows of text (a class has one for each synonym),
Cf width of CLIP's trunk, D width of its joint space, H W its last grid (four cells of which are a mask's side, 4H 4W).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.mask_adapter import fast
from zoo.mask_adapter.generator import MaskGenerator
from zoo.mask_adapter.layers import Block, ChannelNorm, shrink
from zoo.mask_adapter.maft import ContentTransfer, scrambled_dense
from zoo.mask_adapter.similarity import class_logits


class AdapterHead(nn.Module):
    """A mask and CLIP's dense features to K activation maps (Fig. 4 of the paper)."""

    def __init__(self, joint: int, channels: int, mask_channels: int, maps: int):
        """joint: D; channels: width of the blocks; mask_channels: of the mask's patches, a multiple of 4; maps: K."""
        super().__init__()
        self.maps = maps
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 3, stride=2, padding=1), ChannelNorm(mask_channels // 4), nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 3, stride=2, padding=1), ChannelNorm(mask_channels), nn.GELU(),
            nn.Conv2d(mask_channels, joint, 1),
        )  # fmt: skip
        self.fuse = nn.Conv2d(joint, channels, 1)
        self.cnext1, self.cnext2, self.cnext3 = Block(channels), Block(channels), Block(channels)
        self.norm = ChannelNorm(channels, eps=1e-5)
        self.final = nn.Conv2d(channels, maps, 1)

    @property
    def blocks(self) -> tuple[Block, Block, Block]:
        return self.cnext1, self.cnext2, self.cnext3

    def forward(self, dense: Tensor, masks: Tensor) -> Tensor:
        """dense N D H W, that of each mask's picture; masks N 4H 4W -> maps N K H W, whose sigmoid is a cell's weight."""
        x = self.fuse(dense + self.mask_downscaling(masks[:, None]))                    # N channels H W
        for block in self.blocks:
            x = block(x)
        return self.final(self.norm(x))


@dataclass
class Features:
    """What CLIP sees in B pictures."""

    feature: Tensor                             # B Cf H W, before the last norm and the projection: what is pooled
    dense: Tensor                               # B D H W, after both: what the adapter looks at
    stages: list[Tensor]                        # of the trunk, finest first: what a mask generator looks at


class MaskAdapterNet(nn.Module):
    """A frozen CLIP, the adapter and the learned row of "no class"; with a frozen mask generator or without.

    Masks come from anywhere: drawn by hand, from a file, from a generator. Each gives one embedding in CLIP's joint space.
    """

    def __init__(
        self,
        clip: nn.Module,
        channels: int = 768,
        mask_channels: int = 16,
        maps: int = 16,
        generator: MaskGenerator | None = None,
        transfer: ContentTransfer | None = None,
        scrambled: bool = False,
    ):
        """clip: a zoo.mask_adapter.clip.FrozenCLIP. transfer, scrambled: of MAFT+'s weights, see maft.py."""
        super().__init__()
        self.clip = clip
        self.mask_adapter = AdapterHead(clip.width, channels, mask_channels, maps)
        self.void_embedding = nn.Embedding(1, clip.width)
        self.generator, self.transfer, self.scrambled = generator, transfer, scrambled
        for part in (generator, transfer):
            if part is not None:
                part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "MaskAdapterNet":
        super().train(mode)
        for part in (self.generator, self.transfer):                                    # frozen for good, as the CLIP is
            if part is not None:
                part.eval()
        return self

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """images: B 3 h w, normalised, sides multiples of the grid's stride (see clip.pad)."""
        feature, stages = self.clip.features(images)
        dense = scrambled_dense(self.clip, feature) if self.scrambled else self.clip.dense(feature)
        return Features(feature, dense, stages)

    # -- masks to embeddings -------------------------------------------------------------------------------------------
    def embeddings(
        self, feature: Tensor, dense: Tensor, masks: list[Tensor], sizes: list[tuple[int, int]] | None = None,
        plain: bool = False, half: bool = False,
    ) -> list[Tensor]:  # fmt: skip
        """One vector of the joint space a mask, N_b D for each of the B pictures; not normalised.

        masks: B tensors N_b h w, bool or 0..1, of any resolution, covering the padded picture. sizes: (h, w) in pixels of the
        pictures before padding; cells that lie wholly in the padding then weigh nothing. None lets them weigh, as released.
        While gradients are recorded all masks go through the head as written above; else the exact rewrites of fast.py are
        used (plain=True turns them off), with the linear layers in bf16 if `half` (not exact; see fast.bf16_pays).
        """
        H, W = feature.shape[-2:]
        valid = [None if sizes is None else self.inside((H, W), size) for size in sizes or masks]
        if plain or torch.is_grad_enabled():
            return [self.embed(a, f, v) for a, f, v in zip(self.maps(dense, masks, plain=True), feature, valid)]
        found = []
        for b, own in enumerate(masks):
            maps, which = fast.maps(self.mask_adapter, dense[b], own, half)
            parts = [self.embed(part, feature[b], valid[b]) for part in maps.split(fast.POOLED)]
            found.append(torch.cat(parts)[which])
        return found

    def maps(self, dense: Tensor, masks: list[Tensor], plain: bool = False) -> list[Tensor]:
        """The raw activation maps, N_b K H W for each picture."""
        if not plain:
            return [maps[which] for maps, which in (fast.maps(self.mask_adapter, d, m) for d, m in zip(dense, masks))]
        H, W = dense.shape[-2:]
        counts = [len(own) for own in masks]
        if not sum(counts):
            return [dense.new_zeros(0, self.mask_adapter.maps, H, W) for _ in masks]
        small = torch.cat([shrink(own, (4 * H, 4 * W)) for own in masks])
        repeats = torch.tensor(counts, device=dense.device)
        return list(self.mask_adapter(dense.repeat_interleave(repeats, 0), small).split(counts))

    def embed(self, maps: Tensor, feature: Tensor, valid: Tensor | None = None) -> Tensor:
        """maps N K H W, feature Cf H W -> N D: each map's weighted mean is projected, then the K of a mask are averaged."""
        with torch.autocast(maps.device.type, enabled=False):
            weights = weigh(maps, valid)                                                # N K HW
            pooled = weights @ feature.float().flatten(1).T                             # N K Cf
        return self.clip.project(pooled).mean(1)

    def inside(self, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """H W: cells that see at least one pixel of the picture."""
        rows, columns = (torch.arange(n) * self.clip.stride < s for n, s in zip(grid, size))
        return (rows[:, None] & columns).to(self.void_embedding.weight.device)

    def pooled(self, feature: Tensor, masks: list[Tensor], level: float = 0.5) -> list[Tensor]:
        """FC-CLIP's mask pooling, N_b D: the mean over the cells where the mask lies above `level` (0 for logits)."""
        found = []
        for own, picture in zip(masks, feature):
            hard = (shrink(own.float() - level, picture.shape[-2:]) > 0).flatten(1).to(picture.dtype)  # N HW
            mean = hard @ picture.flatten(1).T / (hard.sum(1, keepdim=True) + 1e-8)
            found.append(self.clip.project(mean))
        return found

    # -- embeddings to classes -----------------------------------------------------------------------------------------
    def with_void(self, rows: Tensor) -> Tensor:
        """rows T D of text -> T+1 D, the row of "no class" last."""
        return torch.cat([rows, F.normalize(self.void_embedding.weight, dim=-1)])

    def text_of(self, rows: Tensor, dense: Tensor) -> Tensor:
        """rows T D -> B T+1 D: the text each picture's embeddings are compared with."""
        text = self.with_void(rows)[None].expand(len(dense), -1, -1)
        return text if self.transfer is None else self.transfer(text, dense)

    def logits(self, embeddings: Tensor, text: Tensor, counts: list[int]) -> Tensor:
        """embeddings N D, text T+1 D (void last), counts of rows a class has -> N C+1, void last."""
        return class_logits(embeddings, text, counts, self.clip.scale)


def weigh(maps: Tensor, valid: Tensor | None = None) -> Tensor:
    """N K H W -> N K HW: sigmoid(a) over its sum over the (valid) cells, computed so that very low maps stay finite."""
    logs = F.logsigmoid(maps.float()).flatten(2)
    if valid is not None:
        logs = logs.masked_fill(~valid.flatten(), -torch.inf)
    return logs.softmax(-1)
