"""MaSSFormer: matting-level semantic segmentation of 4K photographs.

Paper: Xie et al., "MaSS13K: A Matting-level Semantic Segmentation Benchmark", CVPR 2025 (arXiv 2503.18364), Fig. 4.
Where paper and released code differ the code is followed, since its weights need it; the card names each place.
Letters: B pictures, C = inner width, D = 2C width of the transformer decoder, Q queries, K classes, H W size.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.massformer.layers import (
    Attention,
    ConvBNReLU,
    Deformable,
    FeedForward,
    SqueezeGate,
    Upsample,
    resize,
    sine_position,
)

STRIDES = (4, 8, 16, 32)
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class Encoder(nn.Module):
    """Any timm `features_only` backbone; gives its maps of strides 4, 8, 16, 32."""

    def __init__(self, name: str, weights: str | None = None, options: dict | None = None, freeze_affine: bool = False):
        """weights: None starts at random, "timm" takes timm's pretrained file, anything else is a local file.

        freeze_affine: the released recipe, weight and bias of the norms do not learn (running statistics do).
        """
        super().__init__()
        if not timm.is_model(name):
            near = ", ".join(get_close_matches(name, timm.list_models(), 3)) or "timm.list_models() lists them"
            raise ValueError(f"timm has no encoder {name}; near names: {near}")
        options = {key: tuple(v) if isinstance(v, (list, tuple)) else v for key, v in (options or {}).items()}
        with torch.device("meta"):
            reductions = timm.create_model(name, features_only=True, **options).feature_info.reduction()
        if not set(STRIDES) <= set(reductions):
            raise ValueError(f"encoder {name} has maps of strides {reductions}, but {STRIDES} are needed")
        if weights not in (None, "timm") and not Path(weights).is_file():
            raise ValueError(f"encoder_weights={weights}: no such file")
        try:
            self.body = timm.create_model(
                name,
                features_only=True,
                out_indices=[reductions.index(s) for s in STRIDES],
                pretrained=weights is not None,
                pretrained_cfg_overlay={"file": weights} if weights not in (None, "timm") else None,
                **options,
            )
        except OSError as error:                            # the hub is out of reach, say
            what = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"encoder_weights={weights} cannot be had for {name} ({what})") from error
        self.plain_resnet = name.split(".")[0] in RESNETS and set(options) <= {"channels"}
        self.channels = self.body.feature_info.channels()
        config = timm.get_pretrained_cfg(name)
        self.mean, self.std = (config.mean, config.std) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        if freeze_affine:
            for module in self.body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.body(image)


class CST(nn.Module):
    """Context from /32 to /16: a deformable layer, window attention of the coarse map on the fine one, another layer."""

    def __init__(self, width: int, heads: int, hidden: int, window: int):
        super().__init__()
        self.window = window
        self.deform1, self.up1 = Deformable(width, width), Upsample(width)
        self.deform2, self.up2 = Deformable(width, width), Upsample(width)
        self.cross, self.self_ = Attention(width, heads), Attention(width, heads)
        self.ffn1, self.ffn2 = FeedForward(width, hidden, nn.ReLU), FeedForward(width, hidden, nn.ReLU)

    def forward(self, context: Tensor, s4: Tensor, s3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x32 = self.deform1(s4 + context)                                                # B C H/32 W/32
        mixed = self.attend(self.up1(x32), s3)                                          # B C H/16 W/16
        x16 = self.deform2(mixed)
        return x32, x16, self.up2(x16)                                                  # the last: B C H/8 W/8

    def attend(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """There is no layer norm here, and every window has the same position encoding."""
        B, C, H, W = coarse.shape
        n = self.window
        a, s = self.windows(coarse), self.windows(fine)                                 # B*windows nn C
        position = sine_position(n, n, C, a.device).to(a.dtype).flatten(1).T
        a = a + self.cross(a + position, s + position, s)
        a = a + self.ffn1(a)
        a = a + self.self_(a + position, a + position, a)
        a = a + self.ffn2(a)
        return a.view(B, H // n, W // n, n, n, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, H, W)

    def windows(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        n = self.window
        return x.view(B, C, H // n, n, W // n, n).permute(0, 2, 4, 3, 5, 1).reshape(-1, n * n, C)


class PlainContext(nn.Module):
    """Stands in for CST in the ablation: sums of resized maps."""

    def forward(self, context: Tensor, s4: Tensor, s3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x32 = s4 + context
        x16 = s3 + resize(x32, s3.shape[-2:])
        return x32, x16, resize(x16, [2 * n for n in x16.shape[-2:]])


class RFB(nn.Module):
    """Receptive fields of 1, 3, 5 and 7 taps side by side at /8, and their up-sampled form at /4."""

    def __init__(self, width: int):
        super().__init__()
        self.fields = nn.ModuleList(Deformable(width, width // 4, kernel) for kernel in (1, 3, 5, 7))
        self.fuse, self.bn1 = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
        self.up, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x8 = F.relu(self.bn1(self.fuse(torch.cat([field(x) for field in self.fields], 1))))
        x4 = F.relu(self.bn2(self.up(resize(x8, [2 * n for n in x8.shape[-2:]]))))
        return x8, x4                                                                   # B C H/8 W/8, B C H/4 W/4


class PlainFields(nn.Module):
    """Stands in for RFB in the ablation: the map itself, and twice its size."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, resize(x, [2 * n for n in x.shape[-2:]])


class LSE(nn.Module):
    """Fine structure at H/2 from the picture itself and the stride-4 features."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.plain, self.deform = ConvBNReLU(half + 3, half), Deformable(half + 3, half)
        self.attend1, self.attend2 = (nn.Conv2d(2, 1, 7, padding=3) for _ in range(2))
        self.fuse = ConvBNReLU(width, width)

    def forward(self, image: Tensor, s1: Tensor) -> Tensor:
        size = [n // 2 for n in image.shape[-2:]]
        image, (first, second) = resize(image, size), resize(s1, size).chunk(2, 1)
        a = self.spatial(self.attend1, self.plain(torch.cat([image, first], 1)))
        b = self.spatial(self.attend2, self.deform(torch.cat([image, second], 1)))
        return self.fuse(torch.cat([a, b], 1))                                          # B C H/2 W/2

    @staticmethod
    def spatial(conv: nn.Conv2d, x: Tensor) -> Tensor:
        """The sigmoid stands before the convolution, and none after it."""
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1).sigmoid()
        return conv(pooled) * x + x


class PlainDetail(nn.Module):
    """Stands in for LSE in the ablation: the stride-4 features at H/2."""

    def forward(self, image: Tensor, s1: Tensor) -> Tensor:
        return resize(s1, [n // 2 for n in image.shape[-2:]])


class EGF(nn.Module):
    """Semantics t, sharpened where the details d say so."""

    def __init__(self, width: int):
        super().__init__()
        self.reduce, self.deform = nn.Conv2d(width, width // 2, 1), Deformable(width // 2, width // 2)
        self.expand, self.bn = nn.Conv2d(width // 2, width, 1), nn.BatchNorm2d(width)

    def forward(self, t: Tensor, d: Tensor) -> Tensor:
        return t + self.bn(self.expand(self.deform(self.reduce(d.sigmoid() * t))))


class PlainSum(nn.Module):
    """Stands in for EGF in the ablation."""

    def forward(self, t: Tensor, d: Tensor) -> Tensor:
        return t + d


class PixelDecoder(nn.Module):
    """Encoder maps to mask features at H/2, an edge map at H/2 and three memories at /32, /16, /8."""

    def __init__(
        self, channels: list[int], width: int, heads: int, cst_hidden: int, window: int,
        cst: bool, rfb: bool, lse: bool, egf: bool,
    ):  # fmt: skip
        super().__init__()
        self.project = nn.ModuleList(ConvBNReLU(c, width) for c in channels)            # S1..S4
        self.gates = nn.ModuleList(SqueezeGate(width) for _ in channels)                # S1..S4
        self.context = ConvBNReLU(channels[-1], width)
        self.cst = CST(width, heads, cst_hidden, window) if cst else PlainContext()
        self.rfb = RFB(width) if rfb else PlainFields()
        self.lse = LSE(width) if lse else PlainDetail()
        self.egf = EGF(width) if egf else PlainSum()
        self.edge = nn.Sequential(ConvBNReLU(width, 16), nn.Conv2d(16, 1, 1))
        self.masks = ConvBNReLU(width, 2 * width)
        self.memories = nn.ModuleList(ConvBNReLU(width, 2 * width) for _ in range(3))   # /32, /16, /8

    def forward(self, image: Tensor, maps: list[Tensor], edge: bool) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """`maps` is emptied: the encoder's maps are gigabytes at 4K and have no use beyond the first lines."""
        context = self.context(maps[-1].mean((-2, -1), keepdim=True))                   # B C 1 1
        s1, s2, s3, s4 = (gate(project(s)) for gate, project, s in zip(self.gates, self.project, maps))
        maps.clear()
        x32, x16, up8 = self.cst(context, s4, s3)
        x8, x4 = self.rfb(up8 + s2)
        memories = [out(x) for out, x in zip(self.memories, (x32, x16, x8))]            # B D h w each
        details = self.lse(image, s1)
        semantics = resize(x4, details.shape[-2:])
        edges = self.edge(semantics + details) if edge else None                        # B 1 H/2 W/2
        sharp = self.egf(semantics, details)                                            # B C H/2 W/2
        del semantics, details, x4, s1                                                  # gigabytes at 4K
        return self.masks(sharp), edges, memories                                       # B D H/2 W/2 first


class DecoderLayer(nn.Module):
    """Queries look at the pixels they already claim, at one another, and think. Norms stand after the sums."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.cross, self.self_ = Attention(width, heads), Attention(width, heads)
        self.ffn = FeedForward(width, hidden, nn.GELU)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, q: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, free: Tensor) -> Tensor:
        q = self.norms[0](q + self.cross(q + position, memory + memory_position, memory, free))
        q = self.norms[1](q + self.self_(q + position, q + position, q))
        return self.norms[2](q + self.ffn(q))


class TransformerDecoder(nn.Module):
    """Masked attention from /32 to /8, twice round (Mask2Former's decoder with six layers, GELU)."""

    def __init__(self, classes: int, width: int, queries: int, layers: int, heads: int, hidden: int):
        super().__init__()
        self.query, self.query_position = nn.Embedding(queries, width), nn.Embedding(queries, width)
        self.level = nn.Embedding(3, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        self.to_class = nn.Linear(width, classes + 1)                                   # the last one: no object
        self.to_mask = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, memories: list[Tensor], small: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """memories, small: B D h w at /32, /16, /8; `small` are the mask features resized to there (without a gradient).

        Returns class logits (B Q K+1) and mask embeddings (B Q D), first guess to last layer. A mask logit at a level is
        embedding . resized features: resizing and the product commute, so no Q x H/4 x W/4 tensor is made.
        """
        tokens, positions = [], []
        for level, memory in zip(self.level.weight, memories):
            h, w = memory.shape[-2:]
            tokens.append(memory.flatten(2).transpose(1, 2) + level)                    # B hw D
            positions.append(sine_position(h, w, memory.shape[1], memory.device).to(memory.dtype).flatten(1).T)
        small = [features.flatten(2) for features in small]                             # B D hw
        position = self.query_position.weight
        q = self.query.weight.expand(len(memories[0]), -1, -1)
        logits, embeddings = [], []
        for i in range(len(self.layers) + 1):
            n = self.norm(q)
            logits.append(self.to_class(n))
            embeddings.append(self.to_mask(n))
            if i < len(self.layers):
                free = self.claimed(embeddings[-1].detach() @ small[i % 3])
                q = self.layers[i](q, position, tokens[i % 3], positions[i % 3], free)
        return logits, embeddings

    @staticmethod
    def claimed(masks: Tensor) -> Tensor:
        """Where a query may look: its mask logit is not negative; a query that claims nothing looks everywhere."""
        free = masks >= 0                                                               # B Q hw
        return (free | ~free.any(-1, keepdim=True))[:, None]


@dataclass
class Prediction:
    """What the net says of a batch, before any mask is formed. Maps cover the padded picture."""

    logits: list[Tensor]        # B Q K+1: the first guess, then each layer
    embeddings: list[Tensor]    # B Q D
    features: Tensor            # B D Hp/2 Wp/2
    half: Tensor | None         # B D Hp/4 Wp/4: the features of all but the last layer's masks   (auxiliary)
    edge: Tensor | None         # B 1 Hp/2 Wp/2: edge logits                                       (auxiliary)
    size: tuple[int, int]       # H W of the picture
    padded: tuple[int, int]     # Hp Wp

    def masks(self, layer: int) -> tuple[Tensor, Tensor]:
        """Embeddings and features whose product are the mask logits of a layer (0: the first guess; -1: the last)."""
        last = layer in (-1, len(self.logits) - 1)
        return self.embeddings[layer], self.features if last else self.half


class MaSSFormerNet(nn.Module):
    """The whole of Fig. 4. Any size works: zeros are padded right and bottom to multiples of 16 * window (256)."""

    def __init__(
        self,
        classes: int,
        encoder: str = "resnet50",
        encoder_weights: str | None = None,
        encoder_options: dict | None = None,
        freeze_affine: bool = False,
        width: int = 128,
        queries: int = 100,
        layers: int = 6,
        heads: int = 8,
        hidden: int = 2048,
        cst_hidden: int = 1024,
        window: int = 16,
        cst: bool = True,
        rfb: bool = True,
        lse: bool = True,
        egf: bool = True,
    ):
        """width: C; the decoder is 2C wide. hidden, cst_hidden: feed-forward widths. window: side of CST's attention windows,
        in positions of stride 16. cst..egf=False: rows of the ablation.
        """
        super().__init__()
        for name, value in {"queries": queries, "layers": layers, "heads": heads, "window": window, "width": width}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if width % 4 or width % heads:
            raise ValueError(f"width={width} must be a multiple of 4 and of heads={heads}")
        self.encoder = Encoder(encoder, encoder_weights, encoder_options, freeze_affine)
        self.pixels = PixelDecoder(self.encoder.channels, width, heads, cst_hidden, window, cst, rfb, lse, egf)
        self.multiple = 16 * window
        self.decoder = TransformerDecoder(classes, 2 * width, queries, layers, heads, hidden)

    def forward(self, image: Tensor, auxiliary: bool = False) -> Prediction:
        """image: B 3 H W, normalised. auxiliary: keep what losses and pictures need beside the last layer's masks."""
        H, W = image.shape[-2:]
        image = F.pad(image, (0, -W % self.multiple, 0, -H % self.multiple))
        features, edge, memories = self.pixels(image, self.encoder(image), edge=auxiliary)
        half = resize(features, [n // 2 for n in features.shape[-2:]])
        small = [resize(half.detach(), memory.shape[-2:]) for memory in memories]
        logits, embeddings = self.decoder(memories, small)
        padded = tuple(image.shape[-2:])
        return Prediction(logits, embeddings, features, half if auxiliary else None, edge, (H, W), padded)

    def semantic_rows(self, out: Prediction, start: int, stop: int) -> Tensor:
        """Scores (sum over queries of class x mask) of rows start..stop of the picture, B K rows W, exact.

        The mask logits lie at half size; a band needs the rows below its own and one neighbour on each side.
        """
        embeddings, features = out.masks(-1)
        first, last = max(start // 2 - 1, 0), min((stop + 1) // 2 + 1, features.shape[-2])
        features = features[..., first:last, : (out.size[1] + 1) // 2 + 1]
        masks = F.interpolate(torch.einsum("bqc,bchw->bqhw", embeddings, features), scale_factor=2, mode="bilinear")
        masks = masks[..., start - 2 * first : stop - 2 * first, : out.size[1]].sigmoid()           # B Q rows W
        return torch.einsum("bqk,bqhw->bkhw", out.logits[-1].softmax(-1)[..., :-1], masks)
