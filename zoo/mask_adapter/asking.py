"""From a picture and masks of any source to named masks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError
from zoo.mask_adapter.clip import pad
from zoo.mask_adapter.inference import Canvas, adapter_only, ensemble, worth_naming
from zoo.mask_adapter.net import Features, MaskAdapterNet
from zoo.mask_adapter.proposals import superpixels
from zoo.mask_adapter.text import Text

SOURCES = ("truth", "generator", "superpixels")


@dataclass
class Judging:
    """How pictures are asked.

    masks: where they come from in validation: truth, generator, superpixels. side: the longest side a picture is brought to
    (None: its own). threshold: of a generator's probabilities. alpha, beta: the adapter's share in the geometric mean with the
    generator's own naming, for seen and unseen classes (1 and 1: the adapter alone). released_padding: the padding may weigh,
    and masks of the picture are stretched over it. prune: masks that the generator takes for nothing with this probability or
    more are left out (None: none are). half: the adapter's linear layers in bf16. bound: so many pictures at most in the table
    of the upper bound.
    """

    masks: str = "truth"
    side: int | None = None
    threshold: float = 0.5
    alpha: float = 0.7
    beta: float = 0.9
    released_padding: bool = False
    prune: float | None = None
    half: bool = False
    bound: int = 200

    def __post_init__(self):
        if self.masks not in SOURCES:
            raise UserError(f"masks={self.masks} must be one of {', '.join(SOURCES)}", "model.judging")
        if self.side is not None and self.side < 1:
            raise UserError(f"side={self.side} must be at least 1, or null", "model.judging")


@dataclass
class Look:
    """A picture as the net saw it. size: its own; inner: what it was resized to; padded: with the padding. All are (H, W)."""

    features: Features
    size: tuple[int, int]
    inner: tuple[int, int]
    padded: tuple[int, int]


@dataclass
class Asker:
    """Names masks. normalise: B 3 H W, 0..255, as the CLIP expects it."""

    net: MaskAdapterNet
    judging: Judging
    normalise: Callable[[Tensor], Tensor]

    def look(self, image: Tensor) -> Look:
        """image 3 H W, 0..255, where the net is."""
        size = inner = tuple(image.shape[-2:])
        picture = image[None].float()
        if self.judging.side and max(size) != self.judging.side:
            inner = tuple(max(1, round(n * self.judging.side / max(size))) for n in size)
            picture = F.interpolate(picture, inner, mode="bilinear", antialias=True)
        picture = pad(self.normalise(picture), self.net.clip.stride)
        return Look(self.net.features(picture), size, inner, tuple(picture.shape[-2:]))

    def place(self, masks: Tensor, look: Look) -> Tensor:
        """bool N h w that cover the picture, at any resolution -> the same on the padded picture."""
        if look.inner == look.padded or self.judging.released_padding or not len(masks):
            return masks
        inner = F.interpolate(masks[None].to(torch.uint8), look.inner, mode="nearest-exact")[0]
        return pad(inner, self.net.clip.stride).bool()

    def sizes(self, size: tuple[int, int], count: int) -> list[tuple[int, int]] | None:
        """What the net is told of the pictures' sizes before padding: nothing, as released, or (h, w) of each."""
        return None if self.judging.released_padding else [size] * count

    def embed(self, look: Look, placed: Tensor) -> Tensor:
        """One vector of the joint space a mask, N D."""
        seen, sizes = look.features, self.sizes(look.inner, 1)
        return self.net.embeddings(seen.feature, seen.dense, [placed], sizes, half=self.judging.half)[0]

    def name(self, look: Look, embeddings: Tensor, text: Text) -> Tensor:
        """Logits N C+1, void last."""
        return self.net.logits(embeddings, self.net.text_of(text.rows, look.features.dense)[0], text.counts)

    def given(self, image: Tensor, masks: Tensor, text: Text) -> Tensor:
        """Log probabilities N C+1 of masks bool N h w that cover the picture; each is something, so void's is -inf."""
        look = self.look(image)
        return adapter_only(self.name(look, self.embed(look, self.place(masks, look)), text))

    def found(self, image: Tensor, text: Text, seen: Tensor) -> tuple[Tensor, Canvas]:
        """Log probabilities Q C+1 and masks of a picture that comes alone: the generator's masks, or superpixels without one.

        seen: C bool, classes of the generator's own vocabulary.
        """
        if self.net.generator is None or self.judging.masks == "superpixels":
            masks = superpixels(image)
            size = tuple(masks.shape[-2:])
            return self.given(image, masks, text), Canvas(40.0 * masks - 20.0, size, size, tuple(image.shape[-2:]))
        look = self.look(image)
        proposed = self.net.generator(look.features.stages, self.net.with_void(text.rows), text.counts)
        masks, inside = proposed.masks[0], proposed.logits[0]
        if self.judging.prune is not None:
            worth = worth_naming(inside, self.judging.prune)
            masks, inside = masks[worth], inside[worth]
        outside = self.name(look, self.embed(look, masks.sigmoid() > self.judging.threshold), text)
        log_probs = ensemble(inside, outside, seen, self.judging.alpha, self.judging.beta)
        return log_probs, Canvas(masks, look.padded, look.inner, look.size)
