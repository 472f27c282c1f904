"""MatchMask's generator: a frozen diffusion UNet that paints into a label map, by an adapter on a few of its layers.

    net = MatchMaskNet(base.unet)                                      # on Stable Diffusion v1 706,560 parameters and a gate
    guide = net.guide(labels, prompt.tokens[None], (h, w))             # once for a label map
    answer = net(noisy, times, text, guide)

Rectified attention: a cell of the latents attends to the words of its own class alone, and to the tokens that are no words
(FreestyleNet's, CVPR 2023). Layer-adaptive fusion: each attention mixes that with what it was before, by a gate it learns
(MatchMask, CVPR 2026; what the gate looks at is our choice, since neither code nor formula is public).
"""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from datamodules.errors import UserError
from zoo.diffusion.attention import Guide, Rectified, attentions, install
from zoo.matchmask.layers import WHOLE, choose
from zoo.matchmask.masks import NEAREST, REDUCTIONS, visible

PICTURE, PIXEL, CONSTANT, OFF = GATES = ("picture", "pixel", "constant", "off")
GATED = ("all", "key")


class Gate(nn.Module):
    """The rectified attention's share, 0..1, seen from the cells that ask: sigmoid(weight . cells + bias)."""

    def __init__(self, width: int, kind: str, start: float):
        super().__init__()
        self.kind = kind
        self.weight = None if kind == CONSTANT else nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.full((1,), float(start)))

    def forward(self, cells: Tensor) -> Tensor:
        """R L C -> one share a picture, of the mean cell (R 1 1), a cell (R L 1) or for all (1 1 1); always in fp32."""
        if self.kind == CONSTANT:
            return self.bias.float().sigmoid().view(1, 1, 1)
        asking = cells.float() if self.kind == PIXEL else cells.float().mean(1, keepdim=True)
        return ((asking * self.weight.float()).sum(-1, keepdim=True) + self.bias.float()).sigmoid()


class MatchMaskNet(nn.Module):
    """unet: of the base; it is taken over, and stays in eval mode. What learns, and what parameters and state_dict hold, are the
    adapter's layers and the gates; the frozen UNet moves with them to another device.

    layers, rank: see layers.py; layers="whole": no adapter, all of the UNet learns. alpha: the adapter's outputs are scaled by
    alpha / rank (null: by 1). gate: picture | pixel | constant, or off: what is attended to is rectified, and nothing is mixed.
    gate_start: its bias at the start (4: a share of 0.982; 0: of a half). gate_layers: gates at all attentions to the text, or at
    those in blocks of the adapter (key). reduce: see masks.py. checkpointing: less memory in training, for a third more time.
    """

    def __init__(self, unet: UNet2DConditionModel, layers: str | int | list[str] = "finest", rank: int = 32,
                 alpha: float | None = None, gate: str = PICTURE, gate_start: float = 4.0, gate_layers: str = "all",
                 reduce: str = NEAREST, checkpointing: bool = False):
        super().__init__()
        if reduce not in REDUCTIONS:
            raise UserError(f"no such reduction: {reduce!r}", "reduce", f"give {' or '.join(REDUCTIONS)}")
        unet.requires_grad_(False).eval()
        self._held = (unet,)                                 # in a tuple, so that torch does not count it as ours
        whole = layers == WHOLE
        self.layers, self.rank = ([], 0) if whole else choose(unet, layers, rank)
        self.alpha = self.rank if alpha is None else alpha
        self.gate, self.gate_start, self.gate_layers, self.reduce = gate, gate_start, gate_layers, reduce
        gates = gated(unet, gate, gate_layers, None if whole else self.layers, gate_start)
        self.gates = tree({f"{name}.gate": module for name, module in gates.items()})
        self._gates = (gates,)
        install(unet, Rectified)
        if self.layers:
            _adapt(unet, self.layers, self.rank, self.alpha)
        self.lora = tree({f"{name}.{part}": getattr(unet.get_submodule(name), part)["default"]
                          for name in self.layers for part in ("lora_A", "lora_B")})
        if whole:
            self.whole = unet.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()

    @property
    def unet(self) -> UNet2DConditionModel:
        return self._held[0]

    def _apply(self, fn, recurse=True):
        self.unet._apply(fn, recurse)
        return super()._apply(fn, recurse)                   # what both hold is moved twice, the second time to where it is

    def guide(self, labels: Tensor, tokens: Tensor, size: tuple[int, int], rows: list[int] | None = None,
              keep: bool = False) -> Guide:
        """What the attentions need to know of M label maps, for all steps of a picture.

        labels: M H W, of any size. tokens: M T, see prompts.py. size: (h, w) of the latents. rows: which map each of the last
        rows of a batch follows (None: one row a map). keep: for sampling, where text and weights stay the same.
        """
        seen = {}
        for _ in self.unet.config.block_out_channels:        # a level each, half as large as the one before, rounded up
            level = visible(labels, tokens, size, self.reduce)
            seen[size[0] * size[1]] = level if rows is None else level[rows]
            size = (size[0] + 1) // 2, (size[1] + 1) // 2
        return Guide(seen, self._gates[0], {} if keep else None)

    def forward(self, latents: Tensor, times: Tensor, text: Tensor, guide: Guide | None = None) -> Tensor:
        """What the UNet answers, B C h w fp32, to noisy latents B C h w at times B with text B T width.

        Without a guide the text is attended to as in the base.
        """
        dtype = self.unet.dtype
        return self.unet(latents.to(dtype), times, text.to(dtype), cross_attention_kwargs={"guide": guide}).sample.float()


def gated(unet: UNet2DConditionModel, kind: str, where: str, layers: list[str] | None, start: float = 4.0) -> dict[str, Gate]:
    """Gates by the name of the attention. layers: those of the adapter (None: all of the UNet's)."""
    if kind not in GATES or where not in GATED:
        raise UserError(f"gate={kind}, gate_layers={where}", "gate", f"give {' | '.join(GATES)}, and {' | '.join(GATED)}")
    if kind == OFF:
        return {}
    names = [name for name in attentions(unet) if name.endswith("attn2")]
    if where == "key" and layers is not None:
        blocks = {_block(layer) for layer in layers}
        names = [name for name in names if _block(name) in blocks]
    device = unet.device
    return {name: Gate(unet.get_submodule(name).query_dim, kind, start).to(device) for name in names}


def _block(name: str) -> str:
    """down_blocks.0, mid_block, ..."""
    return ".".join(name.split(".")[: 1 if name.startswith("mid") else 2])


def _adapt(unet: UNet2DConditionModel, layers: list[str], rank: int, alpha: float) -> None:
    """Puts LoRA on the layers, as the identity: A is drawn, B is 0."""
    import re

    from peft import LoraConfig

    named = "|".join(map(re.escape, layers))
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=f"(?:{named})", init_lora_weights="gaussian"))


def tree(modules: dict[str, nn.Module]) -> nn.Module:
    """One module that holds others under the names, with dots, that they have elsewhere."""
    root = nn.Module()
    for name, module in modules.items():
        *way, last = name.split(".")
        place = root
        for step in way:
            if step not in dict(place.named_children()):
                place.add_module(step, nn.Module())
            place = place.get_submodule(step)
        place.add_module(last, module)
    return root
