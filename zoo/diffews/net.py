"""DiffewS: a diffusion UNet that segments by example (Zhu et al., NeurIPS 2024, arXiv 2410.02369).

A query photo's latents go into the UNet where noise would, and come out as the latents of its mask, drawn white on black. The
supports (photo and mask) go through the same UNet beforehand; the keys and values of all their self-attentions are put beside the
query's own (section 4.1, "KV fusion"). All weights are shared but those of the first convolution.
"""

from inspect import signature

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from datamodules.errors import UserError
from zoo.diffusion.attention import Fused, Memory, attentions, install

CONCATENATION, MASK = "concatenation", "mask"                   # how the supports' masks come in
REFERENCE = ("conv_in_ref.weight", "conv_in_ref.bias")           # the released name of the supports' first convolution
TIME = 1                                                         # of the one evaluation


class DiffewSNet(nn.Module):
    """A UNet that reads a memory of supports.

    unet: of the base; it is taken over, trained whole, and its first convolution moves out of it. text: T width, the base's
    states of the empty prompt, all of them; a saved buffer. injection: how the support's mask comes in (section 4.2):
    "concatenation" of its latents to the photo's, or "mask", which hides the cells outside it from the query. tokens,
    train_tokens: how many of the text's states are attended to (the authors train with all 77 and evaluate with 2, the start and
    the end). reference: the supports' first convolution by its released names; None: made from the query's.
    """

    def __init__(self, unet: UNet2DConditionModel, text: Tensor, injection: str = CONCATENATION, tokens: int = 2,
                 train_tokens: int = 2, checkpointing: bool = False, reference: dict[str, Tensor] | None = None):
        super().__init__()
        _check(unet, text, injection, (tokens, train_tokens))
        self.injection, self.tokens, self.train_tokens = injection, tokens, train_tokens
        self.channels = unet.config.in_channels
        self.conv_in, unet.conv_in = unet.conv_in, nn.Identity()
        if injection == CONCATENATION:
            self.conv_in_ref = reference_convolution(self.conv_in)
            if reference is not None:
                self.conv_in_ref.load_state_dict({name.removeprefix("conv_in_ref."): reference[name] for name in REFERENCE})
        self.unet = unet
        self.register_buffer("text", text.detach().clone())
        install(unet, Fused)
        self.names = [name for name in attentions(unet) if name.endswith("attn1")]
        self.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()

    def forward(self, query: Tensor, photos: Tensor, masks: Tensor, time: int | Tensor = TIME) -> Tensor:
        """v: B C h w fp32, in one pass over supports and queries; what `read` gives for what `write` keeps.

        query: latents B C h w. photos: latents B S C h w. masks: latents B S C h w, or 0/1 pixels B S H W where the mask hides.
        time: a number, or B of them.
        """
        supports, memory = self._supports(photos, masks)
        _check_query(query, memory)
        if len(photos) != len(query):
            raise UserError(f"{len(query)} queries, but supports of {len(photos)} episodes", "query", "give one episode a query")
        time = torch.as_tensor(time, device=query.device).expand(len(query))
        times = torch.cat([time.repeat_interleave(memory.shots), time])
        rows = torch.cat([supports, self.conv_in(query.to(self.conv_in.weight.dtype))])
        return self._run(rows, times, {"joint": memory})[len(supports) :]

    def write(self, photos: Tensor, masks: Tensor, time: int | Tensor = TIME, weights: Tensor | None = None) -> Memory:
        """What any number of queries may read; arguments as in `forward`. weights: B S, how much each support counts."""
        supports, memory = self._supports(photos, masks)
        memory.weights = weights
        times = torch.as_tensor(time, device=photos.device).expand(len(photos)).repeat_interleave(memory.shots)
        self._run(supports, times, {"write": memory})
        memory.visible = memory.weights = None                   # every layer has its own by now
        return memory

    def read(self, query: Tensor, memory: Memory, time: int | Tensor = TIME) -> Tensor:
        """v: B C h w fp32 of latents B C h w, with a memory of as many episodes, or of one."""
        if set(memory.layers) != set(self.names):
            raise UserError(f"a memory of {len(memory.layers)} self-attentions that are not those of this net", "memory",
                            "write it anew with these weights")
        _check_query(query, memory)
        if memory.episodes not in (1, len(query)):
            raise UserError(f"{len(query)} queries, but a memory of {memory.episodes} episodes", "query",
                            "give one episode, or one a query")
        times = torch.as_tensor(time, device=query.device).expand(len(query))
        return self._run(self.conv_in(query.to(self.conv_in.weight.dtype)), times, {"read": memory})

    def _supports(self, photos: Tensor, masks: Tensor) -> tuple[Tensor, Memory]:
        """The first convolution's output of B*S supports, and a memory to be written."""
        if photos.ndim != 5 or photos.shape[1] < 1:
            raise UserError(f"supports of shape {tuple(photos.shape)}", "supports", "give B S C h w with at least one shot")
        concatenated = self.injection == CONCATENATION
        if concatenated and masks.shape != photos.shape or masks.shape[:2] != photos.shape[:2]:
            raise UserError(f"supports of shape {tuple(photos.shape)}, masks of {tuple(masks.shape)}", "supports",
                            "give one mask a support, of the same size")
        memory = Memory(photos.shape[1], tuple(photos.shape[-2:]), None if concatenated else masks)
        rows = torch.cat([photos, masks], 2) if concatenated else photos
        convolution = self.conv_in_ref if concatenated else self.conv_in
        return convolution(rows.flatten(0, 1).to(convolution.weight.dtype)), memory

    def _run(self, rows: Tensor, times: Tensor, memory: dict[str, Memory]) -> Tensor:
        tokens = self.train_tokens if self.training else self.tokens
        text = self.text[:tokens].to(rows.dtype).expand(len(rows), -1, -1)
        return self.unet(rows, times, text, cross_attention_kwargs=memory).sample.float()


def reference_convolution(conv_in: nn.Conv2d) -> nn.Conv2d:
    """For photo and mask side by side: each half of the channels gets half the weights, as in Marigold."""
    made = nn.Conv2d(2 * conv_in.in_channels, conv_in.out_channels, conv_in.kernel_size, conv_in.stride, conv_in.padding)
    made.to(conv_in.weight.device, conv_in.weight.dtype)
    with torch.no_grad():
        made.weight.copy_(conv_in.weight.repeat(1, 2, 1, 1) / 2)
        made.bias.copy_(conv_in.bias)
    return made


def random_unet(config: dict) -> UNet2DConditionModel:
    """A UNet with fresh weights, of a base's unet/config.json."""
    known = signature(UNet2DConditionModel).parameters           # of a config's other keys, some are of other versions
    return UNet2DConditionModel(**{key: value for key, value in config.items() if key in known})


def _check(unet: UNet2DConditionModel, text: Tensor, injection: str, tokens: tuple[int, int]) -> None:
    if injection not in (CONCATENATION, MASK):
        raise UserError(f"no such injection: {injection!r}", "injection", f"give {CONCATENATION} or {MASK}")
    if text.ndim != 2 or text.shape[1] != unet.config.cross_attention_dim:
        raise UserError(f"states of the empty prompt of shape {tuple(text.shape)}, the UNet reads a width of "
                        f"{unet.config.cross_attention_dim}", "text", "give those of the base's own text encoder")
    if not 1 <= min(tokens) <= max(tokens) <= len(text):
        raise UserError(f"{tokens[0]} and {tokens[1]} tokens", "tokens, train_tokens", f"give 1 to {len(text)}")


def _check_query(query: Tensor, memory: Memory) -> None:
    if tuple(query.shape[-2:]) != tuple(memory.size):
        h, w = query.shape[-2:]
        raise UserError(f"a query with latents of {w}x{h}, supports with {memory.size[1]}x{memory.size[0]}", "query",
                        "bring both to one size")
