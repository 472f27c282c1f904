"""The learnt word in a prompt: an adjective between the article and the class's name, that passes through the text encoder.

    prompt = adjective(text, "a photo of a {}", "traffic light")        # its words' places are known by their letters
    states = encode(text.encoder, [prompt], [vectors])                  # 1 T width

Neither the tokenizer nor the table of tokens is touched: tokens are looked up, the vectors put between them, and the rest of
the encoder runs. So rows of a batch may have words of their own, and nothing but these learns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.errors import UserError
from zoo.diffusion.text import Text, spans, words

if TYPE_CHECKING:
    from transformers import CLIPTextModel

ADJECTIVE, NOUN = PLACEMENTS = ("adjective", "noun")
HOLE = 0                                 # a token's number that stands where a learnt vector will be


@dataclass(frozen=True)
class Prompt:
    """text: as it is said, with <new> for what is learnt. ids: int64 T. new: the places of the learnt vectors, none for a plain
    text. word: the places of what the object is called, whose attention is its mask."""

    text: str
    ids: Tensor
    new: range
    word: range


def plain(text: Text, sentence: str, word: str) -> Prompt:
    """A sentence in which the word stands for itself; its first occurrence counts."""
    return Prompt(sentence, text.ids([sentence])[0], range(0), words(text.tokenizer, sentence, word)[0])


def named(text: Text, template: str, word: str) -> Prompt:
    """The template with the word, whose place is known even if the template says the same."""
    sentence, span = _filled(text, template, word)
    return Prompt(sentence, text.ids([sentence])[0], range(0), span)


def adjective(text: Text, template: str, word: str, vectors: int = 1) -> Prompt:
    """As many new vectors right before the word."""
    sentence, span = _filled(text, template, word)
    ids = _room(text, sentence, text.ids([sentence])[0], span.start, range(0), vectors, word)
    said = template.format(f"<new> {word}")
    return Prompt(said, ids, range(span.start, span.start + vectors), range(span.start + vectors, span.stop + vectors))


def noun(text: Text, template: str, word: str, vectors: int = 1) -> Prompt:
    """The new vectors in place of the word: plain textual inversion."""
    sentence, span = _filled(text, template, word)
    ids = _room(text, sentence, text.ids([sentence])[0], span.start, span, vectors, word)
    new = range(span.start, span.start + vectors)
    return Prompt(template.format("<new>"), ids, new, new)


def _filled(text: Text, template: str, word: str) -> tuple[str, range]:
    """The sentence, and the tokens of the word in it."""
    if template.count("{}") != 1:
        raise UserError(f"{template!r} has {template.count('{}')} places for the class's name", "template", "write {} once")
    word = " ".join(word.split())
    if not word:
        raise UserError("a class without a name", "word", "say what the mask shows")
    sentence, first = template.format(word), template.index("{}")
    try:
        return sentence, spans(text.tokenizer, sentence, [(first, first + len(word))])[0]
    except UserError as error:
        raise UserError(f"nothing of {word!r} is a token", "word", "name the class in letters") from error


def _room(text: Text, sentence: str, ids: Tensor, first: int, instead: range, vectors: int, word: str) -> Tensor:
    """ids with holes from `first` on, in place of the tokens `instead`; what moves out at the end must be filling."""
    used = len(text.tokenizer(sentence).input_ids)
    if (needed := used - len(instead) + vectors) > text.context:
        raise UserError(f"a prompt of {needed} tokens with its {vectors} new ones, {text.context} fit", word[:60],
                        "shorten the class's name, or take fewer vectors")
    holes, end = torch.full((vectors,), HOLE), ids[-1:].expand(len(instead))
    return torch.cat([ids[:first], holes, ids[first + len(instead):], end])[: text.context]


def encode(encoder: CLIPTextModel, prompts: list[Prompt], vectors: list[Tensor | None]) -> Tensor:
    """States B T width of prompts with their vectors [n, width] (None for a plain text); the gradient goes to the vectors."""
    ids = torch.stack([prompt.ids for prompt in prompts])
    new = torch.zeros(ids.shape, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        new[row, prompt.new.start : prompt.new.stop] = True
    given = [vector for vector in vectors if vector is not None]
    return encode_ids(encoder, ids, new, torch.cat(given) if given else None)


def encode_ids(encoder: CLIPTextModel, ids: Tensor, new: Tensor, vectors: Tensor | None) -> Tensor:
    """States B T width. ids: B T; new: bool B T, where `vectors` N width stand instead, row by row in their order."""
    device, ids = encoder.device, ids.masked_fill(new, HOLE)
    embedded = encoder.embeddings.token_embedding(ids.to(device))
    if vectors is not None:
        if vectors.shape[-1] != embedded.shape[-1]:
            raise UserError(f"vectors of width {vectors.shape[-1]}, the text encoder's is {embedded.shape[-1]}", "bank",
                            "give a bank that was learnt on this base")
        at = new.to(device)[..., None].expand_as(embedded)
        embedded = torch.where(at, torch.zeros_like(embedded).masked_scatter(at, vectors.to(embedded)), embedded)
    hidden = encoder.embeddings(inputs_embeds=embedded)
    tokens = hidden.shape[1]
    causal = torch.full((tokens, tokens), torch.finfo(hidden.dtype).min, dtype=hidden.dtype, device=device).triu(1)
    hidden = encoder.encoder(inputs_embeds=hidden, attention_mask=causal[None, None]).last_hidden_state
    return encoder.final_layer_norm(hidden)
