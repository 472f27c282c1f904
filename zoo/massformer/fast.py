"""MaSSFormer's scores for one picture with little time and memory: the numbers of `net.py`, which is the test of every piece.

- Batch norms are folded into the convolutions before them, when these run: no second copy of the weights that could grow stale.
- At half the picture's side (LSE, EGF, mask features, last masks, class sum) everything that can runs by bands of rows, on
  matrices P x C of a band's P positions. Whole maps exist of at most C/2 + 3 channels there: what a deformable layer reads,
  since its offsets may point anywhere, and what it gives.
- Buffers die with their last reader.

Letters as in `net.py`; h w are the sides of the padded picture's half, and a map of that size is h w C.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from zoo.massformer.deform import corners, deform_conv2d, weighted_rows
from zoo.massformer.layers import ConvBNReLU, Deformable, SqueezeGate, Upsample, resize
from zoo.massformer.net import CST, EGF, LSE, RFB, Encoder, MaSSFormerNet, PixelDecoder

ROW_UNIT = 8                # of the rows of a band: shorter ones would double their upper and lower neighbours in vain
LEVEL_UNIT = 16             # of those that are brought to /32: half of the stride
KEPT_NUMBERS = 2**27        # the mask features of the whole picture are kept for their second use up to here, then made again
TABLE_NUMBERS = 2**22       # of deform_conv2d on a CPU: what is made for a few taps stays in the cache


@torch.no_grad()
def score_bands(net: MaSSFormerNet, image: Tensor, rows: int) -> Iterator[Tensor]:
    """The scores of a picture (1 3 H W, normalised) from top to bottom, K n W with about `rows` rows each (32 or more).

    net: in eval mode. The rows of the ablation, which lack LSE or EGF, run as they stand in `net.py`.
    """
    if not (isinstance(net.pixels.lse, LSE) and isinstance(net.pixels.egf, EGF)):
        yield from plain_bands(net, image, rows)
        return
    H, W = image.shape[-2:]
    image = F.pad(image, (0, -W % net.multiple, 0, -H % net.multiple)).contiguous(memory_format=torch.channels_last)
    device, exact = image.device, torch.promote_types(image.dtype, torch.float32)       # the sum decides between near classes
    sharp, memories = pixel_features(net.pixels, image, encoder_maps(net.encoder, image))
    del image
    small, kept = sharp.at_levels()
    logits, embeddings = net.decoder(memories, small)
    del memories, small
    classes = logits[-1][0].to(exact).softmax(-1)[:, :-1].T.contiguous()                # K Q
    done = 0
    for masks in mask_bands(sharp, kept, embeddings[-1][0], rows):                      # n 2w Q
        masks = masks[: H - done, :W].to(exact)
        with torch.autocast(device.type, enabled=False):
            scores = classes @ masks.reshape(-1, masks.shape[-1]).sigmoid_().T
        yield scores.view(-1, *masks.shape[:2])
        done += len(masks)
        if done == H:
            return


@torch.no_grad()
def plain_bands(net: MaSSFormerNet, image: Tensor, rows: int) -> Iterator[Tensor]:
    """The same by `MaSSFormerNet.forward`."""
    out, height = net(image), image.shape[-2]
    for start in range(0, height, rows):
        yield net.semantic_rows(out, start, min(start + rows, height))[0]


# -- convolutions with their norms -------------------------------------------------------------------------------------
def folded(weight: Tensor, norm: nn.BatchNorm2d, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weight (outputs first) and bias of a convolution and the batch norm behind it as one."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return weight, shift if bias is None else shift + bias * scale


def convolve(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    return F.conv2d(x, *folded(conv.weight, norm, conv.bias), conv.stride, conv.padding)


def conv_relu(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    return torch.relu_(convolve(x, conv, norm))


def block(x: Tensor, layer: ConvBNReLU) -> Tensor:
    return conv_relu(x, layer.conv, layer.bn)


def gated(x: Tensor, gate: SqueezeGate) -> Tensor:
    return x.mul_(1 + gate.mlp(x.mean((-2, -1), keepdim=True)).sigmoid().sigmoid())


def upsampled(x: Tensor, layer: Upsample) -> Tensor:
    weight, bias = folded(layer.conv.weight.transpose(0, 1), layer.bn)
    return torch.relu_(F.conv_transpose2d(x, weight.transpose(0, 1), bias, stride=2, padding=1))


def deformed(x: Tensor, layer: Deformable) -> Tensor:
    offset, modulation = layer.offset(x).split((2 * layer.taps, layer.taps), 1)
    weight, bias = folded(layer.weight, layer.bn)
    numbers = TABLE_NUMBERS if x.device.type == "cpu" else 64 * TABLE_NUMBERS
    out = deform_conv2d(x, offset, modulation.sigmoid(), weight.to(x.dtype), numbers)
    return torch.relu_(out.add_(bias[:, None, None]))


# -- encoder, CST, RFB -------------------------------------------------------------------------------------------------
def encoder_maps(encoder: Encoder, image: Tensor) -> list[Tensor]:
    """The maps of strides 4 to 32; timm's plain ResNets with folded norms and sums in place, others as they are."""
    if not encoder.plain_resnet:
        return encoder(image)
    body = encoder.body
    x = F.max_pool2d(conv_relu(image, body.conv1, body.bn1), 3, 2, 1)
    maps = []
    for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
        for part in stage:
            x = residual(x, part)
        maps.append(x)
    return maps


def residual(x: Tensor, part: nn.Module) -> Tensor:
    y = conv_relu(x, part.conv1, part.bn1)
    if isinstance(part, Bottleneck):
        y = convolve(conv_relu(y, part.conv2, part.bn2), part.conv3, part.bn3)
    else:
        y = convolve(y, part.conv2, part.bn2)
    return torch.relu_(y.add_(x if part.downsample is None else convolve(x, *part.downsample)))


def context(cst: CST, mean: Tensor, s4: Tensor, s3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x32 = deformed(s4 + mean, cst.deform1)
    x16 = deformed(cst.attend(upsampled(x32, cst.up1), s3), cst.deform2)
    return x32, x16, upsampled(x16, cst.up2)


def fields(rfb: RFB, x: Tensor) -> tuple[Tensor, Tensor]:
    x8 = conv_relu(torch.cat([deformed(x, field) for field in rfb.fields], 1), rfb.fuse, rfb.bn1)
    return x8, conv_relu(resize(x8, [2 * n for n in x8.shape[-2:]]), rfb.up, rfb.bn2)


def pixel_features(pixels: PixelDecoder, image: Tensor, maps: list[Tensor]) -> "tuple[Sharp, list[Tensor]]":
    """`PixelDecoder.forward` without the edge map; empties `maps`."""
    mean = block(maps[-1].mean((-2, -1), keepdim=True), pixels.context)                 # 1 C 1 1
    s1, s2, s3, s4 = (gated(block(maps.pop(0), layer), gate) for layer, gate in zip(pixels.project, pixels.gates))
    x32, x16, up8 = context(pixels.cst, mean, s4, s3) if isinstance(pixels.cst, CST) else pixels.cst(mean, s4, s3)
    y = up8.add_(s2)
    del s2, s3, s4, up8
    x8, x4 = fields(pixels.rfb, y) if isinstance(pixels.rfb, RFB) else pixels.rfb(y)
    memories = [block(x, layer) for x, layer in zip((x32, x16, x8), pixels.memories)]
    plain, deform = details(pixels.lse, image, s1)
    del s1, x8, y
    reduced = gate_semantics(pixels, plain, deform, x4)
    del plain, deform
    return Sharp(deform_rows(pixels.egf.deform, reduced), x4, pixels), memories


# -- half the picture's side, by bands of rows -------------------------------------------------------------------------
def bands(height: int, width: int, device: torch.device, unit: int = ROW_UNIT) -> Iterator[tuple[int, int]]:
    """First and last row of each band: a multiple of `unit` rows, as many as fill a cache (a CPU's) or the GPU."""
    positions = 2**12 if device.type == "cpu" else 2**20
    n = max(positions // width // unit * unit, unit)
    yield from ((start, min(start + n, height)) for start in range(0, height, n))


def channels_first(x: Tensor) -> Tensor:
    """n w C as 1 C n w, in strides that torch takes for channels last: no copy is made of it."""
    return x[None].permute(0, 3, 1, 2)


def double(x: Tensor, start: int, stop: int) -> Tensor:
    """Rows start..stop (even numbers) of a map 1 C h/2 w/2 at twice its size, bilinear: n w C."""
    first, last = max(start // 2 - 1, 0), stop // 2 + 1
    wide = F.interpolate(x[..., first:last, :], scale_factor=2, mode="bilinear")
    return wide[0, :, start - 2 * first : stop - 2 * first].permute(1, 2, 0)


def beside_image(image: Tensor, s: Tensor, start: int, stop: int) -> Tensor:
    """Rows start..stop of the picture at half its size and the features s at twice theirs: n w 3+C/2."""
    small = F.avg_pool2d(image[..., 2 * start : 2 * stop, :], 2)[0].permute(1, 2, 0)
    return torch.cat([small.to(s.dtype), double(s, start, stop)], -1)


def framed(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """A map to be filled between a row of zeros above and one below: h+2 w C."""
    out = like.new_empty(height + 2, width, channels)
    out[0], out[-1] = 0, 0
    return out


def deform_rows(layer: Deformable, x: Tensor) -> Tensor:
    """A deformable layer with 3x3 taps, by bands: x framed, h+2 w Cin -> h w Cout.

    Here inputs are sampled first and then multiplied, which gathers from a map of Cin channels and not of 9 Cout.
    """
    h, w, inputs = x.shape[0] - 2, *x.shape[1:]
    weight, bias = folded(layer.weight, layer.bn)
    weight, bias = weight.permute(0, 2, 3, 1).flatten(1).to(x.dtype), bias.to(x.dtype)  # Cout 9 Cin
    table, out = x.view(-1, inputs), x.new_empty(h, w, len(weight))
    for start, stop in bands(h, w, x.device, 2):
        said = F.conv2d(channels_first(x[start : stop + 2]), layer.offset.weight, layer.offset.bias, padding=(0, 1))
        offset, modulation = said.split((18, 9), 1)
        cells, shares = corners(offset, modulation.sigmoid(), 0, 3, start, h)
        samples = weighted_rows(table, (cells + w).view(-1, 4), shares.view(-1, 4).to(x.dtype))    # 9P Cin
        out[start:stop] = torch.relu_(F.linear(samples.view(stop - start, w, -1), weight, bias))
    return out


def details(lse: LSE, image: Tensor, s1: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of LSE before they are fused, h w C/2 each."""
    h, w = (n // 2 for n in image.shape[-2:])
    first, second = s1.chunk(2, 1)
    x = framed(h, w, second.shape[1] + 3, second)
    for start, stop in bands(h, w, x.device):
        x[start + 1 : stop + 1] = beside_image(image, second, start, stop)
    deform = attended(deform_rows(lse.deform, x), lse.attend2)
    del x
    weight, bias = folded(lse.plain.conv.weight.flatten(1), lse.plain.bn)
    plain = first.new_empty(h, w, len(weight))
    for start, stop in bands(h, w, plain.device):
        plain[start:stop] = torch.relu_(F.linear(beside_image(image, first, start, stop), weight, bias))
    return attended(plain, lse.attend1), deform


def attended(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """`LSE.spatial` in place, h w C."""
    pooled = torch.stack([x.mean(-1), x.amax(-1)])[None].sigmoid_()                     # 1 2 h w
    return x.mul_(1 + conv(pooled)[0, 0, :, :, None].to(x.dtype))


def gate_semantics(pixels: PixelDecoder, plain: Tensor, deform: Tensor, x4: Tensor) -> Tensor:
    """What EGF's deformable layer reads: reduce(sigmoid(d) * t), framed, h+2 w C/2. d is LSE's result, t the map x4 at H/2."""
    h, w, _ = plain.shape
    fuse, fuse_bias = folded(pixels.lse.fuse.conv.weight.flatten(1), pixels.lse.fuse.bn)
    reduce = pixels.egf.reduce
    out = framed(h, w, reduce.out_channels, plain)
    for start, stop in bands(h, w, plain.device):
        d = torch.relu_(F.linear(torch.cat([plain[start:stop], deform[start:stop]], -1), fuse, fuse_bias))
        t = double(x4, start, stop)
        out[start + 1 : stop + 1] = F.linear(d.sigmoid_().mul_(t), reduce.weight.flatten(1), reduce.bias)
    return out


@dataclass
class Sharp:
    """EGF's result in parts, of which the mask features of any rows are made when they are asked for."""

    fine: Tensor            # h w C/2, of EGF's deformable layer
    x4: Tensor              # 1 C h/2 w/2, RFB's
    pixels: PixelDecoder

    def __post_init__(self):
        egf, masks = self.pixels.egf, self.pixels.masks
        self.expand = folded(egf.expand.weight.flatten(1), egf.bn, egf.expand.bias)
        self.widen = folded(masks.conv.weight.flatten(1), masks.bn)

    def features(self, start: int, stop: int) -> Tensor:
        """Mask features of rows start..stop, n w D."""
        sharp = F.linear(self.fine[start:stop], *self.expand).add_(double(self.x4, start, stop))
        return torch.relu_(F.linear(sharp, *self.widen))

    def at_levels(self) -> tuple[list[Tensor], list[Tensor]]:
        """Mask features by way of H/4 at /32, /16, /8 (1 D h w each), and those of every band, if they are not too many."""
        h, w, _ = self.fine.shape
        small, kept = ([], [], []), []
        for start, stop in bands(h, w, self.fine.device, LEVEL_UNIT):
            features = self.features(start, stop)
            if h * w * features.shape[-1] <= KEPT_NUMBERS:
                kept.append(features)
            quarter = F.avg_pool2d(channels_first(features), 2)
            for level, factor in zip(small, (16, 8, 4)):
                level.append(resize(quarter, ((stop - start) // factor, w // factor)))
        return [torch.cat(level, 2) for level in small], kept


def mask_bands(sharp: Sharp, kept: list[Tensor], embeddings: Tensor, rows: int) -> Iterator[Tensor]:
    """The last mask logits at the picture's size from top to bottom, n 2w Q; each band waits for the row below its own."""
    h, w, _ = sharp.fine.shape
    above, unit = None, LEVEL_UNIT if kept else ROW_UNIT
    for number, (start, stop) in enumerate(bands(h, w, sharp.fine.device, unit)):
        features = kept[number] if kept else sharp.features(start, stop)
        masks = F.linear(features, embeddings.to(features.dtype))                       # n w Q
        first, last = above is None, stop == h
        parts = [masks[:1] if first else above, masks, *([masks[-1:]] if last else [])]
        wide = F.interpolate(channels_first(torch.cat(parts)), scale_factor=2, mode="bilinear")[0].permute(1, 2, 0)
        above = masks[-1:].clone()
        yield from wide[1 + first : len(wide) - 1 - last].split(max(rows, 2 * LEVEL_UNIT))
