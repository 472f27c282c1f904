"""The authors' checkpoint to our export folder: python -m zoo.massformer.convert official.pth out_dir

The file is what mmengine writes (or a bare state_dict); it is read without executing anything of it. The map below is
literal and strict both ways. Widths, depth and classes are read from the shapes.
"""

import re
import sys
from pathlib import Path

from torch import Tensor

from datamodules.errors import UserError
from zoo.massformer.net import MaSSFormerNet

PIXELS = "decode_head.pixel_decoder.pixel_decoder."


def _deformable(ours: str, official: str) -> list[tuple[str, str]]:
    return [(f"{ours}.offset.", f"{official}.dcn_offset."), (f"{ours}.weight", f"{official}.dcn.weight"),
            (f"{ours}.bn.", f"{official}.dcn_bn.")]  # fmt: skip


def _attention(ours: str, official: str) -> list[tuple[str, str]]:
    return [(f"{ours}.in_proj.weight", f"{official}.attn.in_proj_weight"),
            (f"{ours}.in_proj.bias", f"{official}.attn.in_proj_bias"),
            (f"{ours}.out_proj.", f"{official}.attn.out_proj.")]  # fmt: skip


def _feed_forward(ours: str, official: str) -> list[tuple[str, str]]:
    return [(f"{ours}.0.", f"{official}.layers.0.0."), (f"{ours}.2.", f"{official}.layers.1.")]


def names(layers: int) -> list[tuple[str, str]]:
    """(our name, official name) of every module or tensor, for a net with `layers` decoder layers."""
    pairs = [("encoder.body.", "backbone."), ("pixels.context.", PIXELS + "conv_avg.")]
    for i in range(4):
        pairs.append((f"pixels.project.{i}.", f"{PIXELS}in_projections.{i}."))
        pairs.append((f"pixels.gates.{i}.mlp.", f"{PIXELS}SEB.{3 - i}.mlp.0.mlp."))             # SEB.0 belongs to S4
        pairs += _deformable(f"pixels.rfb.fields.{i}", f"{PIXELS}RFB.deformaspp.{i}")
    for i in (1, 2):
        pairs += _deformable(f"pixels.cst.deform{i}", f"{PIXELS}CST.dcn{i}")
        pairs.append((f"pixels.cst.up{i}.conv.", f"{PIXELS}CST.dcn{i}.up_sample."))
        pairs.append((f"pixels.cst.up{i}.bn.", f"{PIXELS}CST.dcn{i}.up_bn."))
        pairs += _feed_forward(f"pixels.cst.ffn{i}", f"{PIXELS}CST.cross_self_attn.ffn{i}")
    pairs += _attention("pixels.cst.cross", PIXELS + "CST.cross_self_attn.cross_attn")
    pairs += _attention("pixels.cst.self_", PIXELS + "CST.cross_self_attn.self_attn")
    pairs += _deformable("pixels.lse.deform", PIXELS + "LSE.dcn3")
    pairs += _deformable("pixels.egf.deform", PIXELS + "edge_rec.dcn")
    for ours, official in (
        ("rfb.fuse", "RFB.conv1"), ("rfb.bn1", "RFB.bn"), ("rfb.up", "RFB.upconv"), ("rfb.bn2", "RFB.bn2"),
        ("lse.plain", "LSE.cbn1"), ("lse.attend1", "LSE.conv1"), ("lse.attend2", "LSE.conv2"), ("lse.fuse", "LSE.cbn2"),
        ("edge", "edge_conv"), ("egf.reduce", "edge_rec.conv1"), ("egf.expand", "edge_rec.conv2"), ("egf.bn", "edge_rec.norm"),
        ("masks", "out.0"), ("memories.0", "out.1"), ("memories.1", "out.2"), ("memories.2", "out.3"),
    ):  # fmt: skip
        pairs.append((f"pixels.{ours}.", f"{PIXELS}{official}."))
    for i in range(layers):
        ours, official = f"decoder.layers.{i}", f"decode_head.transformer_decoder.layers.{i}"
        pairs += _attention(f"{ours}.cross", f"{official}.cross_attn") + _attention(f"{ours}.self_", f"{official}.self_attn")
        pairs += _feed_forward(f"{ours}.ffn", f"{official}.ffn") + [(f"{ours}.norms.", f"{official}.norms.")]
    for ours, official in (
        ("norm", "transformer_decoder.post_norm"), ("query", "query_feat"), ("query_position", "query_embed"),
        ("level", "level_embed"), ("to_class", "cls_embed"), ("to_mask", "mask_embed"),
    ):  # fmt: skip
        pairs.append((f"decoder.{ours}.", f"decode_head.{official}."))
    return pairs


def official_names(net: MaSSFormerNet) -> dict[str, str]:
    """{our tensor: official tensor} of a net with all its parts."""
    pairs, found = names(len(net.decoder.layers)), {}
    for key in net.state_dict():
        ours, official = next(pair for pair in pairs if key.startswith(pair[0]))
        found[key] = official + key[len(ours) :]
    return found


def convert(official: dict[str, Tensor], net: MaSSFormerNet, where: str = "checkpoint") -> None:
    """Fills `net` with official weights, strict both ways; a `UserError` names the first key that does not fit."""
    official = {key.removeprefix("module."): value for key, value in official.items()}
    ours, wanted = official_names(net), net.state_dict()
    unexpected = sorted(set(official) - set(ours.values()))
    missing = [key for key in ours.values() if key not in official]
    if unexpected or missing:
        raise UserError(
            f"not a MaSSFormer checkpoint of this shape: {len(missing)} tensors missing (first: "
            f"{missing[0] if missing else 'none'}), {len(unexpected)} unexpected (first: "
            f"{unexpected[0] if unexpected else 'none'})",
            where,
            "give the file the authors publish for MaSSFormer",
        )
    for mine, theirs in ours.items():
        if official[theirs].shape != wanted[mine].shape:
            raise UserError(f"{theirs} is {tuple(official[theirs].shape)}, expected {tuple(wanted[mine].shape)}", where)
    net.load_state_dict({mine: official[theirs] for mine, theirs in ours.items()})


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
    if tuple(blocks) not in known:
        what = f"an encoder with {blocks} blocks a stage is no ResNet we know"
        raise UserError(what, "checkpoint", "R18, R34, R50 and R101 load")
    return known[tuple(blocks)], {} if widths == [64, 128, 256, 512] else {"channels": widths}


def main(arguments: list[str]) -> None:
    from datamodules.files import load_torch_pickle, sha256_of
    from zoo import hub

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
    licence = "unknown (the authors' code is Apache-2.0)"
    hub.export(model, out, {"source": Path(path).name, "source_sha256": sha256_of(path), "licence": licence})
    print(f"{len(official)} tensors -> {out}")


CLASSES = ["others", "person", "building", "tree", "ground", "sky", "water"]
PALETTE = [(0, 0, 0), (255, 0, 0), (64, 34, 64), (0, 255, 0), (93, 64, 0), (0, 0, 255), (0, 255, 255)]


if __name__ == "__main__":
    from datamodules.errors import door

    door(lambda: main(sys.argv[1:]))
