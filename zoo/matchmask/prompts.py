"""Label maps to prompts: the words of the classes that are there, in the order of their numbers, and which token is whose.

    prompter = Prompter(text.tokenizer, text.context, classes)
    prompter.prompt(labels)                              # Prompt("airplane person", tokens, dropped=())

Nothing else is in a prompt, no sentence around the words (FreestyleNet's way). A class may have no word: its pixels see only
what is no word, the beginning of the prompt and, with free="all", all that follows the last word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.errors import UserError
from zoo.diffusion.text import spans, token_count
from zoo.matchmask.masks import FREE, HIDDEN

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

PLAIN = {                                # names of data sets in the words of captions
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "pottedplant": "potted plant",
    "tvmonitor": "television",
}  # fmt: skip
ALL, START = FREES = ("all", "start")    # which tokens that are no words are seen
REST = ("background", "other", "others", "rest", "unlabeled", "unlabelled", "void")      # names of what is nothing of its own


@dataclass(frozen=True)
class Prompt:
    """tokens: int64 T, the class each token speaks of, FREE or HIDDEN (masks.py). dropped: classes that are there and have a
    word, but no room."""

    text: str
    tokens: Tensor
    dropped: tuple[str, ...] = ()

    def remark(self) -> str | None:
        """What is to be said of it, if anything."""
        if not self.dropped:
            return None
        return f"the prompt holds no more: without the {len(self.dropped)} smallest classes ({', '.join(self.dropped)})"


class Prompter:
    """classes: names in the order of the labels. words: {class: its word, or null for none}, where the name, made plain, will not
    do. background_word: of classes that are called background, others and the like (null: none). context: tokens of a prompt.
    free: which of the tokens that are no words every cell sees: all (FreestyleNet's: the start, the end and those that fill the
    prompt up, most of which know the whole prompt), or the start alone, so that a cell knows of its own class and no other.
    """

    def __init__(self, tokenizer: CLIPTokenizer, context: int, classes: list[str], words: dict[str, str | None] | None = None,
                 background_word: str | None = None, ignore: int = 255, free: str = ALL):
        if free not in FREES:
            raise UserError(f"free={free}", "free", f"give {' or '.join(FREES)}")
        if unknown := sorted(set(words or {}) - set(classes)):
            raise UserError(f"{unknown[0]!r} is no class of this set", "words", f"its classes are {', '.join(classes[:8])}, ...")
        own = {name: " ".join((word or "").split()) or None for name, word in (words or {}).items()}
        self.words = {name: own[name] if name in own else plain(name, background_word) for name in classes}
        self.classes, self.tokenizer, self.context, self.ignore, self.free = list(classes), tokenizer, context, ignore, free
        self._lengths = [token_count(tokenizer, word) - 2 if (word := self.words[name]) else 0 for name in classes]
        self._room = context - 2                             # beside a start and an end
        for name, length in zip(classes, self._lengths):
            if length > self._room:
                raise UserError(f"a word of {length} tokens, {self._room} fit into a prompt", f"words.{name}", "shorten it")
        self._made: dict[tuple[int, ...], tuple[str, Tensor]] = {}

    def prompt(self, labels: Tensor) -> Prompt:
        """Of a label map H W. If its words are too many, the classes with the fewest pixels are left out."""
        counts = self._counts(labels)
        kept = [label for label in counts if self.words[self.classes[label]]]
        kept.sort(key=lambda label: (-counts[label], label))
        dropped = []
        while sum(self._lengths[label] for label in kept) > self._room:
            dropped.append(kept.pop())
        text, tokens = self._of(tuple(sorted(kept)))
        return Prompt(text, tokens, tuple(self.classes[label] for label in dropped))

    def _counts(self, labels: Tensor) -> dict[int, int]:
        found, counts = labels.unique(return_counts=True)
        pixels = {int(label): int(count) for label, count in zip(found, counts) if label != self.ignore}
        if wrong := [label for label in pixels if not 0 <= label < len(self.classes)]:
            raise UserError(f"label {wrong[0]} is none of {len(self.classes)} classes", "prompt", "is data.label_shift right?")
        return pixels

    def _of(self, labels: tuple[int, ...]) -> tuple[str, Tensor]:
        if labels not in self._made:
            text, places = "", []
            for label in labels:
                text += " " if text else ""
                places.append((len(text), len(text) + len(self.words[self.classes[label]])))
                text += self.words[self.classes[label]]
            tokens = torch.full((self.context,), FREE if self.free == ALL else HIDDEN)
            tokens[0] = FREE
            for label, span in zip(labels, spans(self.tokenizer, text, places)):
                tokens[span.start : span.stop] = label
            self._made[labels] = text, tokens
        return self._made[labels]


def plain(name: str, background_word: str | None) -> str | None:
    """A class's name as a word for a prompt, if it has one: "wall-other-merged" is a wall."""
    if name.lower() in REST:
        return background_word
    short = re.sub(r"(-other|-merged|-stuff)+$", "", name.lower())
    return PLAIN.get(short, " ".join(re.split(r"[\s_-]+", short)).strip()) or None
