"""One family of attention processors for a base's UNet: plain, fused with a memory of other pictures, rectified by a label map.

    install(unet, Fused)
    memory = Memory(shots, (h, w))
    unet(supports, time, text, cross_attention_kwargs={"write": memory})     # B*S rows, shot j of episode b is row b*S + j
    unet(queries, time, text, cross_attention_kwargs={"read": memory})

    install(unet, Rectified)
    unet(latents, time, text, cross_attention_kwargs={"guide": Guide(seen)})      # who sees which word

Processors belong to the attentions of transformer blocks (attn1: a picture's cells to themselves, attn2: to the text). What they
need beside the cells comes by name through `cross_attention_kwargs` and stays with the caller; nothing is kept in a module. They
call the projections, so these may be wrapped (peft), and may run twice for the same cells (gradient checkpointing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention


# -- the family --------------------------------------------------------------------------------------------------------
class Plain:
    """Attention as it is. name: of the attention in its UNet, "down_blocks.0.attentions.0.transformer_blocks.0.attn1"."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, temb: Tensor | None = None) -> Tensor:
        """hidden_states: B L width; encoder_hidden_states: B T width of the text. The names are diffusers'."""
        assert attention_mask is None, "these processors take no mask of the UNet's"
        return finish(attn, attend(attn, *project(attn, hidden_states, encoder_hidden_states)))


class Fused(Plain):
    """Self-attention that also sees the keys and values of other pictures; attention to the text is plain.

    write: rows are supports, each sees itself alone, and what it offers is put into the memory. read: rows are queries that see
    themselves and the memory. joint: both in one pass, rows are all supports, then all queries; nothing is kept.
    """

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, temb: Tensor | None = None, write: Memory | None = None,
                 read: Memory | None = None, joint: Memory | None = None) -> Tensor:
        if encoder_hidden_states is not None or (write, read, joint) == (None, None, None):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        q, k, v = project(attn, hidden_states)
        if write is not None:
            write.keep(self.name, k, v)
            out = attend(attn, q, k, v)
        elif read is not None:
            out = attend(attn, q, *read.layers[self.name].beside(k, v))
        else:
            out = _attend_jointly(attn, q, k, v, joint)
        return finish(attn, out)


class Rectified(Plain):
    """Attention to the text in which a cell sees some of the words only, mixed with the plain one; self-attention is plain.

    guide: of the last rows of the batch; those before them (the unconditional half of the guidance) are plain.
    """

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, temb: Tensor | None = None, guide: Guide | None = None) -> Tensor:
        if encoder_hidden_states is None or guide is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        q, (k, v) = attn.to_q(hidden_states), guide.offered(self.name, attn, encoder_hidden_states)
        seen = guide.seen[q.shape[1]]
        free = len(q) - len(seen)
        rectified = attend(attn, q[free:], k[free:], v[free:], seen)
        gate = guide.gates.get(self.name)
        if gate is None:
            plain = attend(attn, q[:free], k[:free], v[:free]) if free else q[:0]
        else:                                   # the outputs are mixed: the maps would be too, since the values are the same
            plain, own = attend(attn, q, k, v).split([free, len(seen)])
            rectified = torch.lerp(own, rectified, gate(hidden_states[free:]).to(own.dtype))
        return finish(attn, torch.cat([plain, rectified]))


def install(unet: UNet2DConditionModel, make: Callable[[str], Plain]) -> None:
    """Gives every attention of the UNet its processor, make(name)."""
    unet.set_attn_processor({f"{name}.processor": make(name) for name in attentions(unet)})


def attentions(unet: UNet2DConditionModel) -> list[str]:
    """Names of all attentions, in the order of the net's parts."""
    return [key.removesuffix(".processor") for key in unet.attn_processors]


def grid_of(size: tuple[int, int], tokens: int) -> tuple[int, int]:
    """(h, w) of the cells at a level of the UNet that has so many, for latents of `size`: each level halves, rounding up."""
    height, width = size
    while height * width > tokens:
        height, width = (height + 1) // 2, (width + 1) // 2
    assert height * width == tokens, f"no level of latents {size} has {tokens} cells"
    return height, width


# -- what the processors are made of -----------------------------------------------------------------------------------
def project(attn: Attention, cells: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries B L C of the cells; keys and values B T C of the context, or of the cells themselves. Heads are not split."""
    context = cells if context is None else context
    return attn.to_q(cells), attn.to_k(context), attn.to_v(context)


def attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """B L C. seen: bool B T, or B L T where each query has its own: which keys take part (None: all)."""
    q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (q, k, v))       # B heads L C/heads
    mask = None if seen is None else seen[:, None] if seen.ndim == 3 else seen[:, None, None]      # B 1 L|1 T
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


def finish(attn: Attention, out: Tensor) -> Tensor:
    """The projection after the heads, and its dropout."""
    return attn.to_out[1](attn.to_out[0](out))


def _attend_jointly(attn: Attention, q: Tensor, k: Tensor, v: Tensor, memory: Memory) -> Tensor:
    rows = len(q) * memory.shots // (memory.shots + 1)                  # B*S supports, then B queries
    supports = attend(attn, q[:rows], k[:rows], v[:rows])
    layer = memory.fold(k[:rows], v[:rows])
    return torch.cat([supports, attend(attn, q[rows:], *layer.beside(k[rows:], v[rows:]))])


# -- the memory --------------------------------------------------------------------------------------------------------
class Layer(NamedTuple):
    """What the supports of B episodes offer at one self-attention: T cells each."""

    keys: Tensor                       # B T C, heads not split
    values: Tensor
    seen: Tensor | None                # bool B T: cells that queries may see; or fp32 B T, added to the logits; None: all

    def beside(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values, seen of queries with the supports' after their own; one episode serves any number of queries."""
        rows, own, _ = keys.shape
        k, v = (torch.cat([a, b.to(a.dtype).expand(rows, -1, -1)], 1)
                for a, b in ((keys, self.keys), (values, self.values)))
        if self.seen is None:
            return k, v, None
        free = self.seen.new_full((rows, own), self.seen.dtype == torch.bool)                # True, or nothing added
        seen = torch.cat([free, self.seen.expand(rows, -1)], 1)
        return k, v, seen if seen.dtype == torch.bool else seen.to(k.dtype)


@dataclass
class Memory:
    """Keys and values of S supports for each of B episodes, by self-attention.

    size: (h, w) of the supports' latents. visible: B S H W, at the pictures' own size, 1 where queries may see the support
    (None: everywhere); weights: B S, how often each support's cells count (None: once). Both are read while the memory is
    written.
    """

    shots: int
    size: tuple[int, int]
    visible: Tensor | None = None
    layers: dict[str, Layer] = field(default_factory=dict)
    weights: Tensor | None = None

    @property
    def episodes(self) -> int:
        """B."""
        return len(next(iter(self.layers.values())).keys)

    def keep(self, name: str, keys: Tensor, values: Tensor) -> None:
        """B*S L C. What is there stays: with gradient checkpointing the same comes again, in the backward pass."""
        if name not in self.layers:
            self.layers[name] = self.fold(keys, values)

    def fold(self, keys: Tensor, values: Tensor) -> Layer:
        """B*S L C -> B S*L C."""
        return Layer(*(part.unflatten(0, (-1, self.shots)).flatten(1, 2) for part in (keys, values)), self._seen(keys.shape[1]))

    def _seen(self, tokens: int) -> Tensor | None:
        seen = None
        if self.visible is not None:
            seen = F.interpolate(self.visible.float(), grid_of(self.size, tokens)).flatten(1) == 1       # nearest; B S*L
        if self.weights is None:
            return seen
        added = self.weights.float().log().repeat_interleave(tokens, 1)       # a key that counts w times: log w on its logit
        return added if seen is None else added.masked_fill(~seen, -torch.inf)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Memory:
        """A copy elsewhere."""

        def moved(layer: Layer) -> Layer:
            seen = None if layer.seen is None else layer.seen.to(device)
            return Layer(layer.keys.to(device, dtype), layer.values.to(device, dtype), seen)

        return replace(self, layers={name: moved(layer) for name, layer in self.layers.items()})

    def sampled(self, seeds: list[int]) -> Memory:
        """As many cells as one support has, drawn evenly without repetition from those of all; a seed for each episode.

        Each self-attention draws its own, the same for keys and values and for all heads. (The paper's KV sampling, section 4.5,
        which leaves these points open.)
        """
        assert len(seeds) == self.episodes, f"{len(seeds)} seeds, {self.episodes} episodes"
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def some(layer: Layer) -> Layer:
            count, device = layer.keys.shape[1], layer.keys.device
            drawn = torch.stack([torch.randperm(count, generator=rng)[: count // self.shots] for rng in generators]).to(device)
            rows = torch.arange(len(seeds), device=device)[:, None]
            return Layer(*(None if part is None else part[rows, drawn] for part in layer))       # B L, of B S*L

        if self.shots == 1:
            return self
        return replace(self, shots=1, layers={name: some(self.layers[name]) for name in sorted(self.layers)})


# -- the guide ---------------------------------------------------------------------------------------------------------
@dataclass
class Guide:
    """Which of T words each cell of R rows sees, by the number of cells of a level: bool R cells T, made once for all attentions.

    gates: by attention, cells R L C -> the rectified part's share 0..1 (R or 1, L or 1, 1); an attention without one takes all of
    it. kept: keys and values of the text, R T C, by attention, filled at the first evaluation: for sampling only, where neither
    text nor weights change from step to step. None: they are not kept.
    """

    seen: dict[int, Tensor]
    gates: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    kept: dict[str, tuple[Tensor, Tensor]] | None = None

    def offered(self, name: str, attn: Attention, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text."""
        if self.kept is None:
            return attn.to_k(text), attn.to_v(text)
        if name not in self.kept:
            self.kept[name] = attn.to_k(text), attn.to_v(text)
        return self.kept[name]
