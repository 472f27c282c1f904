"""Pictures in sentences: the frames of the tiny CLIP's training, which are those it is asked with later."""

import numpy as np

from zoo.tiny.pictures import ATTRIBUTES, KIND, KNOWN, Picture

TEMPLATES = [
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *[frame.format(size, "{}") for size in ("small", "medium", "large")
      for frame in ("a photo of a {} {}.", "This is a photo of a {} {}.", "There is a {} {} in the scene.")],
]
FRAMES = {"form": "thing shaped like a {}", "pattern": "{} thing", "colour": "{} thing", "ground": "thing on {}"}
GROUPS = {"class": KNOWN, **ATTRIBUTES}  # the words a picture is told apart by


def described(word: str) -> str:
    """A class by its pattern and form, as in: barred beast."""
    return f"{KIND[word].pattern} {KIND[word].form}"


def name(word: str, rng: np.random.Generator) -> str:
    """A class by its word, its pattern and word, or its pattern and form."""
    way = rng.random()
    return word if way < 0.6 else f"{KIND[word].pattern} {word}" if way < 0.8 else described(word)


def ask(group: str, rng: np.random.Generator) -> list[str]:
    """One sentence for each word of a group, all in the same template."""
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    if group == "class":
        return [template.format(name(word, rng)) for word in KNOWN]
    return [template.format(FRAMES[group].format(word)) for word in GROUPS[group]]


def prompt(picture: Picture, rng: np.random.Generator) -> str:
    """What a text-to-image model is told of a picture: its caption, or its objects alone from the left to the right."""
    if rng.random() < 0.6:
        return picture.caption
    words = [name(thing.words["class"][0], rng) for thing in sorted(picture.things, key=lambda thing: thing.x)]
    return TEMPLATES[0].format(" and a ".join(words)) if rng.random() < 0.5 else " and ".join(words)


def all_words() -> list[str]:
    """Sentences that together hold every word of the training."""
    names = [*KNOWN, *[described(word) for word in KNOWN], "and on"]
    names += [FRAMES[group].format(word) for group, words in ATTRIBUTES.items() for word in words]
    return [template.format(name) for template in TEMPLATES for name in names]
