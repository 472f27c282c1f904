"""Official files to ours: python -m zoo.mask_adapter.convert official.pth out_dir [clip=<which>] [classes=<list>]

Takes Mask-Adapter's files, FC-CLIP's and MAFT+'s. They are read without executing anything of them, every tensor by its name.
What is written into out_dir, as far as the file holds it:
  weights.safetensors, model.yaml   the adapter and the row of "no class": what weights=out_dir loads
  generator.safetensors             the mask generator
  transfer.safetensors              MAFT+'s content-dependent transfer
  clip/                             the CLIP, as a folder of open_clip
clip: <open_clip's name>@<tag or file>, or a folder of open_clip: uses that one, if it is the same, and writes none.
classes: the list of classes the weights were trained on (FC-CLIP's coco_panoptic_with_prompt_eng.txt or MAFT+'s
coco_stuff_with_prompt_eng.txt), which tells the seen classes of a vocabulary from the unseen ones.
"""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.files import load_torch_pickle, sha256_of, write_bytes, write_text
from datamodules.samples import ignore_of
from zoo.mask_adapter.clip import CONFIG, FOLDER, RANDOM, WEIGHTS, FrozenCLIP
from zoo.mask_adapter.generator import MaskGenerator
from zoo.mask_adapter.maft import ContentTransfer
from zoo.mask_adapter.net import AdapterHead
from zoo.mask_adapter.parts import packed, sha256_of_tensors
from zoo.mask_adapter.text import read_classes

CLIP, PIXELS, PREDICTOR = "backbone.clip_model.", "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
ADAPTER, TRANSFER, VOID = "mask_adapter.", "cdt.", "void_embedding.weight"
CONSTANTS = ("attn_mask",)              # of CLIP: older files hold it
CLIPS = ("convnext_large_d_320", "convnext_base_w_320")


@dataclass
class Official:
    """A file's tensors, by part and without the part's prefix."""

    adapter: dict[str, Tensor] = field(default_factory=dict)
    void: Tensor | None = None
    pixels: dict[str, Tensor] = field(default_factory=dict)
    predictor: dict[str, Tensor] = field(default_factory=dict)
    clip: dict[str, Tensor] = field(default_factory=dict)
    transfer: dict[str, Tensor] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)           # names that belong to none: stale copies, training's own


def read(path: str) -> dict[str, Tensor]:
    """The tensors of a torch file or a .safetensors, with or without detectron2's wrapper."""
    if str(path).endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot be read ({error})", path, "download it again") from error
    if not Path(path).is_file():
        raise UserError("no such file", path, "give the file the authors publish")
    content = load_torch_pickle(path)
    content = content.get("model", content) if isinstance(content, dict) else {}
    return {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}


def split(tensors: dict[str, Tensor], where: str) -> Official:
    """Sorts the tensors into parts. A copy of the adapter below another name is stale: the released code saved it by accident."""
    found = Official()
    parts = {ADAPTER: found.adapter, PIXELS: found.pixels, PREDICTOR: found.predictor, CLIP: found.clip, TRANSFER: found.transfer}
    for key, value in tensors.items():
        prefix = next((p for p in parts if key.startswith(p)), None)
        if key == VOID:
            found.void = value
        elif prefix is None or (ADAPTER in key and prefix != ADAPTER) or key.removeprefix(CLIP) in CONSTANTS:
            found.left.append(key)
        else:
            parts[prefix][key.removeprefix(prefix)] = value
    if not (found.adapter or found.predictor):
        first = next(iter(tensors), "nothing")
        raise UserError(f"neither an adapter nor a mask generator is in it (its first tensor is {first})", where,
                        "give a file of Mask-Adapter, FC-CLIP or MAFT+")
    return found


def check_adapter(official: Official, where: str) -> dict[str, int]:
    """Arguments of `MaskAdapterNet` from the shapes, after all 43 tensors and void's were found to be as they should."""
    if official.void is None:
        raise UserError(f"{VOID} is missing", where, "give the file the authors publish, whole")
    keys = ("fuse.weight", "final.weight", "mask_downscaling.3.weight")
    fuse, final, patch = _shapes(official.adapter, ADAPTER, keys, where)
    sizes = {"channels": fuse[0], "mask_channels": patch[0], "maps": final[0]}
    with torch.device("meta"):
        wanted = AdapterHead(fuse[1], **sizes).state_dict()
    tensors = {ADAPTER + k: v for k, v in official.adapter.items()} | {VOID: official.void}
    _strict(tensors, {ADAPTER + k: v.shape for k, v in wanted.items()} | {VOID: torch.Size((1, fuse[1]))}, where)
    return sizes


def _shapes(tensors: dict[str, Tensor], prefix: str, keys: tuple[str, ...], where: str) -> list[torch.Size]:
    for key in keys:
        if key not in tensors:
            raise UserError(f"{prefix}{key} is missing", where, "give the file the authors publish, whole")
    return [tensors[key].shape for key in keys]


def _strict(tensors: dict[str, Tensor], wanted: dict[str, torch.Size], where: str) -> None:
    """Refuses tensors whose names or shapes are not the wanted ones."""
    missing, unexpected = [k for k in wanted if k not in tensors], [k for k in tensors if k not in wanted]
    if missing or unexpected:
        first = [names[0] if names else "none" for names in (missing, unexpected)]
        raise UserError(f"{len(missing)} tensors missing (first: {first[0]}), {len(unexpected)} unexpected (first: {first[1]})",
                        where, "give the file the authors publish, whole")
    for key, shape in wanted.items():
        if tensors[key].shape != shape:
            raise UserError(f"{key} is {tuple(tensors[key].shape)}, expected {tuple(shape)}", where)


# -- the mask generator ------------------------------------------------------------------------------------------------
def generator_names(encoder_layers: int, decoder_layers: int) -> list[tuple[str, str]]:
    """(our name, official name) of every module or tensor of the generator, self-attention's projections excepted."""
    pairs = [("pixel_decoder.level_embed", PIXELS + "transformer.level_embed"),
             ("pixel_decoder.mask_projection.", PIXELS + "mask_features.")]
    pairs += [(f"pixel_decoder.input_projections.{i}.", f"{PIXELS}input_proj.{i}.") for i in range(3)]
    for name in ("adapter_1", "layer_1"):
        pairs += [(f"pixel_decoder.{name}.0.", f"{PIXELS}{name}."), (f"pixel_decoder.{name}.1.", f"{PIXELS}{name}.norm.")]
    for i in range(encoder_layers):
        ours, theirs = f"pixel_decoder.encoder.layers.{i}", f"{PIXELS}transformer.encoder.layers.{i}"
        for a, b in (("self_attn_layer_norm", "norm1"), ("final_layer_norm", "norm2"), ("fc1", "linear1"), ("fc2", "linear2"),
                     ("self_attn", "self_attn")):  # fmt: skip
            pairs.append((f"{ours}.{a}.", f"{theirs}.{b}."))
    for i in range(decoder_layers):
        ours = f"decoder.decoder.layers.{i}"
        for a, b in (
            ("cross_attn", "cross_attention_layers.{}.multihead_attn"),
            ("cross_attn_layer_norm", "cross_attention_layers.{}.norm"),
            ("self_attn.out_proj", "self_attention_layers.{}.self_attn.out_proj"),
            ("self_attn_layer_norm", "self_attention_layers.{}.norm"), ("final_layer_norm", "ffn_layers.{}.norm"),
            ("fc1", "ffn_layers.{}.linear1"), ("fc2", "ffn_layers.{}.linear2"),
        ):  # fmt: skip
            pairs.append((f"{ours}.{a}.", f"{PREDICTOR}transformer_{b.format(i)}."))
    for i in range(3):
        pairs.append((f"decoder.decoder.mask_predictor.mask_embedder.{i}.0.", f"{PREDICTOR}mask_embed.layers.{i}."))
    for a, b in (("queries_features", "query_feat"), ("queries_embedder", "query_embed"), ("level_embed", "level_embed"),
                 ("decoder.layernorm", "decoder_norm")):  # fmt: skip
        pairs.append((f"decoder.{a}.", f"{PREDICTOR}{b}."))
    return [*pairs, ("naming.", PREDICTOR), ("void", VOID)]


def official_of(name: str, pairs: list[tuple[str, str]]) -> tuple[str, int | None]:
    """The official tensor of one of ours, and which third of its rows where it holds queries, keys and values in one."""
    if found := re.fullmatch(r"decoder\.decoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
        layer, part, kind = found.groups()
        return f"{PREDICTOR}transformer_self_attention_layers.{layer}.self_attn.in_proj_{kind}", "qkv".index(part)
    ours, theirs = max((pair for pair in pairs if name.startswith(pair[0])), key=lambda pair: len(pair[0]))
    return theirs + name[len(ours) :], None


def generator_of(official: Official, strides: list[int], where: str) -> tuple[MaskGenerator, dict]:
    """The generator with the file's weights, and the arguments it was made with."""
    p, d = official.pixels, official.predictor
    encoder = 1 + max((int(m[1]) for key in p if (m := re.match(r"transformer\.encoder\.layers\.(\d+)\.", key))), default=-1)
    decoder = 1 + max((int(m[1]) for key in d if (m := re.match(r"transformer_ffn_layers\.(\d+)\.", key))), default=-1)
    layer = "transformer.encoder.layers.0."
    offsets, hidden, res5, res4, res3, res2 = _shapes(p, PIXELS, (
        layer + "self_attn.sampling_offsets.bias", layer + "linear1.bias", "input_proj.0.0.weight", "input_proj.1.0.weight",
        "input_proj.2.0.weight", "adapter_1.weight"), where)  # fmt: skip
    queries, wide, joint = _shapes(d, PREDICTOR, ("query_feat.weight", "transformer_ffn_layers.0.linear1.bias",
                                                  "class_embed.layers.2.bias"), where)  # fmt: skip
    settings = {
        "channels": [res2[1], res3[1], res4[1], res5[1]], "joint": joint[0], "queries": queries[0], "width": queries[1],
        "heads": offsets[0] // (3 * 4 * 2),                  # three levels, four points, x and y
        "encoder_layers": encoder, "encoder_hidden": hidden[0], "decoder_layers": decoder, "decoder_hidden": wide[0],
        "strides": list(strides),
    }  # fmt: skip
    generator = MaskGenerator(**settings)
    theirs = {PIXELS + k: v for k, v in p.items()} | {PREDICTOR + k: v for k, v in d.items()}
    theirs[VOID] = official.void if official.void is not None else torch.zeros(1, joint[0])
    generator.load_state_dict(_renamed(generator, theirs, generator_names(encoder, decoder), where))
    return generator.requires_grad_(False).eval(), settings


def _renamed(generator: MaskGenerator, theirs: dict[str, Tensor], pairs: list[tuple[str, str]], where: str) -> dict[str, Tensor]:
    """Our state dict of the official tensors, each of which must be used and of its shape."""
    ours, wanted = {}, {}
    for name, value in generator.state_dict().items():
        key, third = official_of(name, pairs)
        wanted[key] = value.shape if third is None else torch.Size((3 * value.shape[0], *value.shape[1:]))
        ours[name] = (key, third)
    _strict(theirs, wanted, where)
    return {name: theirs[key] if third is None else theirs[key].chunk(3)[third] for name, (key, third) in ours.items()}


# -- the transfer ------------------------------------------------------------------------------------------------------
def transfer_of(official: Official, norm_last: bool, where: str) -> tuple[ContentTransfer, dict]:
    """MAFT+'s transfer with the file's weights, and the arguments it was made with."""
    (norm,) = _shapes(official.transfer, TRANSFER, ("cross_atten.norm.weight",), where)
    settings = {"width": norm[0], "heads": 8, "norm_last": norm_last}
    transfer = ContentTransfer(**settings)
    wanted = {TRANSFER + k: v.shape for k, v in transfer.state_dict().items()}
    _strict({TRANSFER + k: v for k, v in official.transfer.items()}, wanted, where)
    transfer.load_state_dict(official.transfer)
    return transfer.requires_grad_(False).eval(), settings


# -- the CLIP ----------------------------------------------------------------------------------------------------------
def clip_of(official: Official, given: str | None, out: Path, where: str) -> tuple[FrozenCLIP, dict]:
    """The CLIP of the weights and the settings that make it: the file's own, written to out/clip, or the one that is given."""
    if given:
        name, _, file = given.partition("@")
        if not name.startswith(FOLDER) and Path(name).expanduser().is_dir():
            name = FOLDER + str(Path(name).expanduser().resolve())
        settings = {"name": name, "weights": file or None}
        clip = FrozenCLIP(**settings)
        if official.clip:
            _same_clip(clip, official.clip, where)
        return clip, settings
    if not official.clip:
        raise UserError("there is no CLIP in it", where, "say which one it belongs to: clip=convnext_large_d_320@<file or tag>")
    config = _config_of(official.clip, where)
    folder = out / "clip"
    from safetensors.torch import save

    write_bytes(folder / WEIGHTS, save({key: value.contiguous() for key, value in official.clip.items()}))
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    settings = {"name": FOLDER + str(folder.resolve()), "weights": None}
    return FrozenCLIP(**settings), settings


def _config_of(tensors: dict[str, Tensor], where: str) -> dict:
    """open_clip's config of the model these tensors belong to."""
    first = ""
    for name in CLIPS:
        with torch.device("meta"):
            clip = FrozenCLIP(name, RANDOM)
        try:
            wanted = {CLIP + k: v.shape for k, v in clip.model.state_dict().items()}
            _strict({CLIP + k: v for k, v in tensors.items()}, wanted, where)
            return clip.config
        except UserError as error:
            first = first or error.what
    raise UserError(f"its CLIP is none of {', '.join(CLIPS)} ({first})", where, "say which it is: clip=<name@file or folder>")


def _same_clip(clip: FrozenCLIP, tensors: dict[str, Tensor], where: str) -> None:
    """Refuses a CLIP whose values are not those of the file (MAFT+'s is fine-tuned). The file may hold some of them only."""
    ours = clip.model.state_dict()
    for key, value in tensors.items():
        same = key in ours and ours[key].shape == value.shape
        if not (same and torch.allclose(ours[key], value.float(), atol=2e-3)):                 # one may be stored in fp16
            what = f"the CLIP in the file is not the one given (they differ in {key})"
            raise UserError(what, where, "leave out clip= to use its own")


# -- the whole ---------------------------------------------------------------------------------------------------------
def settings_of(official: Official, where: str) -> dict:
    """What belongs to the weights and is not in their shapes: thresholds, ensemble and MAFT+'s peculiarities.

    From the released configs: FC-CLIP's 0.5, 0.7 / 0.9; MAFT+ base 0.45, 0.7 / 1.0; MAFT+ large 0.40, 0.8 / 1.0.
    """
    large = any(key.startswith("visual.head.mlp") for key in official.clip) or _joint(official) == 768
    if not official.transfer:
        found = {"threshold": 0.5, "alpha": 0.7, "beta": 0.9}
    elif large:
        found = {"threshold": 0.4, "alpha": 0.8, "beta": 1.0}
    else:
        found = {"threshold": 0.45, "alpha": 0.7, "beta": 1.0}
    norm_last = not (large and official.adapter) and "pano" not in Path(where).stem
    return found | {"norm_last": norm_last}


def _joint(official: Official) -> int:
    return official.adapter["fuse.weight"].shape[1] if "fuse.weight" in official.adapter else 0


def report(official: Official) -> list[str]:
    """What was not taken, by name: a line for each stale copy, one for the rest."""
    copies: dict[str, int] = {}
    rest = []
    for key in official.left:
        head, copy, _ = key.partition(ADAPTER)
        if copy:
            copies[head + copy] = copies.get(head + copy, 0) + 1
        else:
            rest.append(key)
    said = [f"not taken: {count} tensors {head}*, a stale copy of the adapter" for head, count in copies.items()]
    if rest:
        said.append(f"not taken: {len(rest)} others: {', '.join(rest[:6])}{', ...' if len(rest) > 6 else ''}")
    return said


def convert(path: str, out: Path, clip: str | None = None, classes: str | None = None) -> list[str]:
    """Writes what the file holds; returns what is to be said about it."""
    trained = read_classes(classes) if classes else []
    official = split(read(path), path)
    chosen, said = settings_of(official, path), report(official)
    sizes = check_adapter(official, path) if official.adapter else {}
    made, clip_settings = clip_of(official, clip, out, path)
    if official.adapter and made.width != (joint := official.void.shape[1]):
        raise UserError(f"these weights need a CLIP {joint} wide, this one is {made.width} wide", path, "give the right clip=")
    said.append(f"CLIP {made.width} wide, sha256 {made.sha256[:16]} -> {clip_settings['name']}")
    parts: dict[str, str] = {}
    if official.predictor:
        parts["generator"] = _write(*generator_of(official, made.strides, path), out / "generator.safetensors", said)
    if official.transfer:
        parts["transfer"] = _write(*transfer_of(official, chosen["norm_last"], path), out / "transfer.safetensors", said)
    if not official.adapter:
        return [*said, "no adapter in it: train one on top of this generator"]
    clip_config = {"_target_": "zoo.mask_adapter.clip.FrozenCLIP", **clip_settings}
    net = {"_target_": "zoo.mask_adapter.net.MaskAdapterNet", "clip": clip_config, **sizes, "scrambled": bool(official.transfer)}
    judging = {"_target_": "zoo.mask_adapter.asking.Judging", "masks": "generator" if "generator" in parts else "superpixels",
               "side": 896, **{key: chosen[key] for key in ("threshold", "alpha", "beta")}}  # fmt: skip
    config = {"_target_": "zoo.mask_adapter.module.MaskAdapter", "net": net, "judging": judging, **parts}
    _export(config, official, trained, path, out)
    if not trained:
        said.append("without classes= all classes count as unseen: give the list the weights were trained on")
    return [*said, f"adapter and row of no class: {len(official.adapter) + 1} tensors -> {out}"]


def _write(part: MaskGenerator | ContentTransfer, settings: dict, file: Path, said: list[str]) -> str:
    """Writes a frozen part; returns its place."""
    write_bytes(file, packed(part, settings))
    said.append(f"{type(part).__name__}: {len(part.state_dict())} tensors, sha256 {sha256_of_tensors(part)[:16]} -> {file}")
    return str(file.resolve())


def _export(config: dict, official: Official, trained: list[list[str]], path: str, out: Path) -> None:
    from zoo import hub

    classes = [",".join(names) for names in trained] or ["nothing"]
    model = hub.build(config, classes=classes, ignore=ignore_of(len(classes)))
    model.net.mask_adapter.load_state_dict(official.adapter)
    model.net.void_embedding.load_state_dict({"weight": official.void})
    licence = "unknown (see the authors' repository)"
    hub.export(model, out, {"source": Path(path).name, "source_sha256": sha256_of(path), "licence": licence})


def main(arguments: list[str]) -> None:
    named = dict(a.split("=", 1) for a in arguments if a.startswith(("clip=", "classes=")))
    plain = [a for a in arguments if not a.startswith(("clip=", "classes="))]
    if len(plain) != 2:
        usage = "python -m zoo.mask_adapter.convert official.pth out_dir [clip=<name@file or folder>] [classes=<list>]"
        raise UserError("two arguments are needed", mend=usage)
    for line in convert(plain[0], Path(plain[1]), named.get("clip"), named.get("classes")):
        print(line)


if __name__ == "__main__":
    from datamodules.errors import door

    door(lambda: main(sys.argv[1:]))
