"""Self-support prototypes (SSP; Fan et al., ECCV 2022): the query's own sure pixels help the supports' prototypes.

Foreground and background prototypes are masked averages of the supports' features; any number of supports is two vectors. What
is surely one or the other in the query then gives prototypes of its own, and both are mixed; twice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import UserError
from zoo.nn.prototypes import similarity

TINY = "tiny"
SCALE = 10.0                             # of the cosines, before the softmax
SURE, SURE_AROUND, TOP = 0.7, 0.6, 12    # probabilities from which a cell is sure; where none is, so many of the likeliest
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class SSPNet(nn.Module):
    """encoder: a timm model, of whose feature levels the one of number `level` counts; or "tiny", the shipped base's UNet, asked
    at time 1 with the empty prompt, whose up block `level` counts. encoder_weights: null: random; timm: timm's; or a path.
    The authors' is a ResNet to its third stage (stride 8, 1,024 channels)."""

    def __init__(self, encoder: str = TINY, level: int = 2, encoder_weights: str | None = None,
                 encoder_options: dict | None = None):
        super().__init__()
        if encoder == TINY:
            self.encoder = TinyFeatures(level)
        else:
            self.encoder = TimmFeatures(encoder, level, encoder_weights, encoder_options or {})
        self.mean, self.std, self.stride = self.encoder.mean, self.encoder.std, self.encoder.stride

    def features(self, pictures: Tensor) -> Tensor:
        """B C h w of normalised pictures B 3 H W, whose sides are multiples of `stride`."""
        return self.encoder(pictures)

    def forward(self, features: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """Logits B 2 h w (background, object) after the first and the second round of self-support.

        features: B C h w of queries; kinds: B 2 C, the supports' prototypes of background and object.
        """
        rounds = [self.two_rounds(one[None], pair) for one, pair in zip(features, kinds)]
        return torch.cat([first for first, _ in rounds]), torch.cat([second for _, second in rounds])

    @staticmethod
    def two_rounds(features: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """Of one query 1 C h w and its prototypes 2 C."""
        ground, thing = kinds[0][:, None, None], kinds[1]                             # C 1 1; C
        own, around, local = self_support(features, score(features, ground, thing))
        thing_1 = 0.5 * thing + 0.5 * own
        ground_1 = 0.3 * around[:, None, None] + 0.7 * local                          # C h w
        first = score(features, ground_1, thing_1)
        own, around, local = self_support(features, first)
        thing_2 = 0.5 * thing + 0.2 * thing_1 + 0.3 * (0.5 * thing + 0.5 * own)
        ground_2 = 0.5 * ground + 0.2 * ground_1 + 0.3 * (0.3 * around[:, None, None] + 0.7 * local)
        return first, score(features, ground_2, thing_2)


def mixed(first: Tensor, second: Tensor, size: tuple[int, int]) -> Tensor:
    """The answer's logits B 2 H W."""
    return F.interpolate(0.7 * second + 0.3 * first, size, mode="bilinear", align_corners=True)


def score(features: Tensor, ground: Tensor, thing: Tensor) -> Tensor:
    """Logits 1 2 h w of features 1 C h w. ground: C 1 1 or C h w, a prototype or one for each cell; thing: C."""
    on_thing = similarity(features, thing[None])[:, 0]
    on_ground = F.cosine_similarity(features, ground[None].expand_as(features), dim=1)
    return SCALE * torch.stack([on_ground, on_thing], 1)


def self_support(features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes of the query itself, by what is sure in it: C of the object, C of the background, and C h w where each cell has
    the sure background that it is most like."""
    cells = features[0].flatten(1)                                                    # C n
    ground, thing = logits.softmax(1)[0].flatten(1)                                   # n
    own = cells[:, sure(thing, SURE)].mean(1)
    around = cells[:, sure(ground, SURE_AROUND)]                                      # C m
    alike = F.normalize(cells, dim=0).T @ F.normalize(around, dim=0)                  # n m
    local = around @ (2 * alike).softmax(1).T                                         # C n
    return own, around.mean(1), local.unflatten(1, features.shape[-2:])


def sure(probability: Tensor, threshold: float) -> Tensor:
    """Numbers of the cells."""
    chosen = (probability > threshold).nonzero()[:, 0]
    return chosen if len(chosen) else probability.topk(min(TOP, len(probability))).indices


# -- features ----------------------------------------------------------------------------------------------------------
class TimmFeatures(nn.Module):
    """A level of a timm model, pictures normalised as ImageNet's."""

    mean, std = IMAGENET

    def __init__(self, name: str, level: int, weights: str | None, options: dict):
        super().__init__()
        import timm

        source = {} if weights in (None, "timm") else {"checkpoint_path": weights}
        try:
            self.net = timm.create_model(name, pretrained=weights == "timm", features_only=True, out_indices=(level,), **options,
                                         **source)
        except (RuntimeError, OSError, IndexError, AssertionError) as error:
            what = (str(error).splitlines() or [type(error).__name__])[0]
            mend = "give a timm model, a level it has, and a file that is there"
            raise UserError(what, f"model.net.encoder={name}", mend) from error
        self.stride = self.net.feature_info.reduction()[0]

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net(pictures)[0]


class TinyFeatures(nn.Module):
    """What comes out of an up block of the shipped base's UNet, for pictures of -1..1."""

    mean, std = HALF
    time, tokens = 1, 2                                      # of the empty prompt: its start and its end

    def __init__(self, level: int):
        super().__init__()
        from zoo.tiny.base import open_base

        base = open_base(TINY)
        if not 0 <= level < len(base.unet.up_blocks):
            raise UserError(f"no up block {level}", "model.net.level", f"give 0 to {len(base.unet.up_blocks) - 1}")
        self.vae, self.unet, self.level, self.scaling = base.vae, base.unet, level, base.scaling
        self.stride = base.factor * 2 ** (len(base.unet.up_blocks) - 1)
        self.sha256 = {part: base.sha256(part) for part in ("vae", "text_encoder")}
        self.register_buffer("text", base.text.encode([""])[0, : self.tokens])
        self.learn(True)

    def learn(self, on: bool) -> None:
        """Of the UNet what comes before the features' block; the rest and the VAE never learn."""
        self.unet.requires_grad_(on)
        for part in (self.vae, self.unet.conv_norm_out, self.unet.conv_out, *self.unet.up_blocks[self.level + 1 :]):
            part.requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            latents = self.vae.encode(pictures.to(self.vae.dtype)).latent_dist.mean * self.scaling
        found: list[Tensor] = []
        hook = self.unet.up_blocks[self.level].register_forward_hook(lambda _, given, out: found.append(out))
        try:
            self.unet(latents, self.time, self.text.to(latents).expand(len(latents), -1, -1))
        finally:
            hook.remove()
        return found[0]
