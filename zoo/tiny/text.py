"""The tiny CLIP's text tower as transformers' own classes, for diffusers: the same tensors under other names, stored once."""

from open_clip import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LAYER = {  # open_clip's name in a block -> transformers'
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def text_encoder(model: CLIP) -> CLIPTextModel:
    """The text tower; last_hidden_state at a sentence's end, times model.text_projection, is model.encode_text."""
    block = model.transformer.resblocks[0]
    width = model.token_embedding.embedding_dim
    config = CLIPTextConfig(
        vocab_size=model.vocab_size, hidden_size=width, intermediate_size=block.mlp.c_fc.out_features,
        projection_dim=model.text_projection.shape[1], num_hidden_layers=len(model.transformer.resblocks),
        num_attention_heads=block.attn.num_heads, max_position_embeddings=model.context_length, hidden_act="gelu",
        bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )
    encoder = CLIPTextModel(config)
    encoder.load_state_dict(renamed(model.state_dict()))
    return encoder.eval()


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's text tensors under transformers' names; queries, keys and values are one matrix there, three here."""
    out = {
        "embeddings.token_embedding.weight": tensors["token_embedding.weight"],
        "embeddings.position_embedding.weight": tensors["positional_embedding"],
        "final_layer_norm.weight": tensors["ln_final.weight"],
        "final_layer_norm.bias": tensors["ln_final.bias"],
    }
    for name, value in tensors.items():
        if not name.startswith("transformer.resblocks."):
            continue
        number, inner = name.removeprefix("transformer.resblocks.").split(".", 1)
        place = f"encoder.layers.{number}."
        if inner.startswith("attn.in_proj_"):
            kind = inner.removeprefix("attn.in_proj_")
            out |= {f"{place}self_attn.{part}_proj.{kind}": v for part, v in zip("qkv", value.chunk(3))}
        else:
            part, kind = inner.rsplit(".", 1)
            out[f"{place}{LAYER[part]}.{kind}"] = value
    return out


def tokenizer() -> CLIPTokenizer:
    """The BPE that open_clip brings along, as transformers' class; short sentences are filled up with their end token."""
    bpe = SimpleTokenizer()
    start, end = bpe.decoder[bpe.sot_token_id], bpe.decoder[bpe.eot_token_id]
    vocab = {{start: "<|startoftext|>", end: "<|endoftext|>"}.get(token, token): i for token, i in bpe.encoder.items()}
    return CLIPTokenizer(vocab=vocab, merges=list(bpe.bpe_ranks), model_max_length=77)
