"""The authors' checkpoint to our export folder: python -m zoo.massformer.convert official.pth out_dir

The file is what mmengine writes (or a bare state_dict); it is read without executing anything of it. The map below is
literal and strict both ways. Widths, depth and classes are read from the shapes.
"""

import re
import sys

from torch import Tensor

from datamodules.errors import UserError
from zoo.massformer.net import MaSSFormerNet

PIXELS = "decode_head.pixel_decoder.pixel_decoder."
ATTENTION = {"in_proj_weight": "in_proj.weight", "in_proj_bias": "in_proj.bias"}

# official prefix -> ours; the first that fits counts
PREFIXES = [
    ("backbone.", "encoder.body."),
    (PIXELS + "in_projections.", "pixels.project."),
    (PIXELS + "conv_avg.", "pixels.context."),
    (PIXELS + "SEB.0.mlp.0.mlp.", "pixels.gates.3.mlp."),
    (PIXELS + "SEB.1.mlp.0.mlp.", "pixels.gates.2.mlp."),
    (PIXELS + "SEB.2.mlp.0.mlp.", "pixels.gates.1.mlp."),
    (PIXELS + "SEB.3.mlp.0.mlp.", "pixels.gates.0.mlp."),
    (PIXELS + "LSE.cbn1.", "pixels.lse.plain."),
    (PIXELS + "LSE.dcn3.", "pixels.lse.deform."),
    (PIXELS + "LSE.conv1.", "pixels.lse.attend1."),
    (PIXELS + "LSE.conv2.", "pixels.lse.attend2."),
    (PIXELS + "LSE.cbn2.", "pixels.lse.fuse."),
    (PIXELS + "CST.dcn1.up_sample.", "pixels.cst.up1.conv."),
    (PIXELS + "CST.dcn1.up_bn.", "pixels.cst.up1.bn."),
    (PIXELS + "CST.dcn2.up_sample.", "pixels.cst.up2.conv."),
    (PIXELS + "CST.dcn2.up_bn.", "pixels.cst.up2.bn."),
    (PIXELS + "CST.dcn1.", "pixels.cst.deform1."),
    (PIXELS + "CST.dcn2.", "pixels.cst.deform2."),
    (PIXELS + "CST.cross_self_attn.cross_attn.attn.", "pixels.cst.cross."),
    (PIXELS + "CST.cross_self_attn.self_attn.attn.", "pixels.cst.self_."),
    (PIXELS + "CST.cross_self_attn.ffn1.layers.0.0.", "pixels.cst.ffn1.0."),
    (PIXELS + "CST.cross_self_attn.ffn1.layers.1.", "pixels.cst.ffn1.2."),
    (PIXELS + "CST.cross_self_attn.ffn2.layers.0.0.", "pixels.cst.ffn2.0."),
    (PIXELS + "CST.cross_self_attn.ffn2.layers.1.", "pixels.cst.ffn2.2."),
    (PIXELS + "RFB.deformaspp.", "pixels.rfb.fields."),
    (PIXELS + "RFB.conv1.", "pixels.rfb.fuse."),
    (PIXELS + "RFB.bn.", "pixels.rfb.bn1."),
    (PIXELS + "RFB.upconv.", "pixels.rfb.up."),
    (PIXELS + "RFB.bn2.", "pixels.rfb.bn2."),
    (PIXELS + "edge_conv.", "pixels.edge."),
    (PIXELS + "edge_rec.conv1.", "pixels.egf.reduce."),
    (PIXELS + "edge_rec.dcn.", "pixels.egf.deform."),
    (PIXELS + "edge_rec.conv2.", "pixels.egf.expand."),
    (PIXELS + "edge_rec.norm.", "pixels.egf.bn."),
    (PIXELS + "out.0.", "pixels.masks."),
    (PIXELS + "out.1.", "pixels.memories.0."),
    (PIXELS + "out.2.", "pixels.memories.1."),
    (PIXELS + "out.3.", "pixels.memories.2."),
    ("decode_head.transformer_decoder.post_norm.", "decoder.norm."),
    ("decode_head.transformer_decoder.layers.", "decoder.layers."),
    ("decode_head.query_feat.", "decoder.query."),
    ("decode_head.query_embed.", "decoder.query_position."),
    ("decode_head.level_embed.", "decoder.level."),
    ("decode_head.cls_embed.", "decoder.to_class."),
    ("decode_head.mask_embed.", "decoder.to_mask."),
]
# what differs behind the prefix
ENDINGS = [
    ("dcn_offset.", "offset."),
    ("dcn.weight", "weight"),
    ("dcn_bn.", "bn."),
    ("self_attn.attn.", "self_."),
    ("cross_attn.attn.", "cross."),
    ("ffn.layers.0.0.", "ffn.0."),
    ("ffn.layers.1.", "ffn.2."),
    ("in_proj_weight", "in_proj.weight"),
    ("in_proj_bias", "in_proj.bias"),
]


def our_key(official: str) -> str | None:
    """The name of an official tensor in `MaSSFormerNet`, or None where there is none."""
    for prefix, ours in PREFIXES:
        if official.startswith(prefix):
            rest = official[len(prefix) :]
            for old, new in ENDINGS if not prefix.startswith("backbone") else ():
                rest = rest.replace(old, new, 1)
            return ours + rest
    return None


def convert(official: dict[str, Tensor], net: MaSSFormerNet, where: str = "checkpoint") -> None:
    """Fills `net` with official weights, strict both ways; a `UserError` names the first key that does not fit."""
    official = {key.removeprefix("module."): value for key, value in official.items()}
    renamed = {our_key(key): key for key in official}
    wanted = net.state_dict()
    back = {key: key for key in wanted}
    unexpected = [key for key in official if our_key(key) not in wanted]
    missing = [back[key] for key in wanted if key not in renamed]
    if unexpected or missing:
        raise UserError(
            f"not a MaSSFormer checkpoint of this shape: {len(missing)} tensors missing (first: "
            f"{missing[0] if missing else 'none'}), {len(unexpected)} unexpected (first: "
            f"{unexpected[0] if unexpected else 'none'})",
            where,
            "give the file the authors publish for MaSSFormer",
        )
    for ours, key in renamed.items():
        if official[key].shape != wanted[ours].shape:
            raise UserError(f"{key} is {tuple(official[key].shape)}, expected {tuple(wanted[ours].shape)}", where)
    net.load_state_dict({ours: official[key] for ours, key in renamed.items()})


def settings(official: dict[str, Tensor], where: str = "checkpoint") -> dict:
    """Arguments of `MaSSFormerNet` (without heads, which shapes do not tell) read from an official state_dict."""
    official = {key.removeprefix("module."): value for key, value in official.items()}
    try:
        rows = {name: official[f"decode_head.{name}.weight"].shape for name in ("cls_embed", "query_feat")}
        first = official["decode_head.transformer_decoder.layers.0.ffn.layers.0.0.weight"].shape
        width = official[PIXELS + "edge_conv.0.conv.weight"].shape[1]
        cst = official[PIXELS + "CST.cross_self_attn.ffn1.layers.0.0.weight"].shape[0]
    except KeyError as error:
        found = next(iter(official), "nothing")
        raise UserError(
            f"this is not a MaSSFormer checkpoint: {error.args[0]} is missing, its first key is {found}",
            where,
            "give the file the authors publish for MaSSFormer",
        ) from None
    layers = {int(m[1]) for key in official if (m := re.match(r"decode_head\.transformer_decoder\.layers\.(\d+)\.", key))}
    encoder, options = _encoder(official)
    return {
        "classes": rows["cls_embed"][0] - 1,
        "encoder": encoder,
        "encoder_options": options,
        "width": width,
        "queries": rows["query_feat"][0],
        "layers": len(layers),
        "hidden": first[0],
        "cst_hidden": cst,
    }


def _encoder(official: dict[str, Tensor]) -> tuple[str, dict]:
    """The timm ResNet these keys belong to; stages of other widths than the standard ones become an option."""
    blocks = [
        1 + max(int(key.split(".")[2]) for key in official if key.startswith(f"backbone.layer{stage}."))
        for stage in (1, 2, 3, 4)
    ]
    bottleneck = "backbone.layer1.0.conv3.weight" in official
    known = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50" if bottleneck else "resnet34", (3, 4, 23, 3): "resnet101"}
    widths = [official[f"backbone.layer{stage}.0.conv1.weight"].shape[0] for stage in (1, 2, 3, 4)]
    return known[tuple(blocks)], {} if widths == [64, 128, 256, 512] else {"channels": widths}


def main(arguments: list[str]) -> None:
    from datamodules.files import load_torch_pickle, sha256_of
    from zoo import hub
    from zoo.massformer.module import MaSSFormer
    from zoo.optim import Optimisation

    if len(arguments) != 2:
        raise UserError("two arguments are needed", mend="python -m zoo.massformer.convert official.pth out_dir")
    path, out = arguments
    content = load_torch_pickle(path)
    official = content.get("state_dict", content)
    if "ema_state_dict" in content:
        print("this file also holds ema_state_dict, which is left out")
    chosen = settings(official, path)
    classes = CLASSES if chosen["classes"] == len(CLASSES) else [f"class_{i}" for i in range(chosen["classes"])]
    config = {
        "_target_": "zoo.massformer.module.MaSSFormer",
        "net": {"_target_": "zoo.massformer.net.MaSSFormerNet", "_partial_": True}
        | {key: value for key, value in chosen.items() if key != "classes"},
    }
    model = hub.build(config, classes=classes, palette=PALETTE if classes is CLASSES else None, ignore=255)
    convert(official, model.net, path)
    hub.export(model, out, {"source": path.rsplit("/", 1)[-1], "source_sha256": sha256_of(path), "licence": "Apache-2.0"})
    print(f"{len(official)} tensors -> {out}")


CLASSES = ["others", "person", "building", "tree", "ground", "sky", "water"]
PALETTE = [(0, 0, 0), (255, 0, 0), (64, 34, 64), (0, 255, 0), (93, 64, 0), (0, 0, 255), (0, 255, 255)]


if __name__ == "__main__":
    from datamodules.errors import door

    door(lambda: main(sys.argv[1:]))
