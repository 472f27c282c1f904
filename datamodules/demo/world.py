"""What the demo world fixes for ever: classes, words, splits of the classes, scene families, seeds and sizes.

Weights are trained on these lists: a change here makes shipped weights wrong.
"""

from typing import NamedTuple

WORLD_SEED = 0

# ---- landscape: the classes and colours of MaSS13K

LANDSCAPE_CLASSES = ["others", "person", "building", "tree", "ground", "sky", "water"]
LANDSCAPE_PALETTE = [(0, 0, 0), (255, 0, 0), (64, 34, 64), (0, 255, 0), (93, 64, 0), (0, 0, 255), (0, 255, 255)]
OTHERS, PERSON, BUILDING, TREE, GROUND, SKY, WATER = range(7)

# ---- objects: a class is a form with a pattern; its colours help but never decide


class ObjectClass(NamedTuple):
    word: str
    form: str  # a function of forms.py
    pattern: str  # a function of patterns.py, and a word
    colours: tuple[str, str]  # words of COLOURS


COLOURS = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.98, 0.52, 0.08),
    "yellow": (0.98, 0.86, 0.15),
    "green": (0.18, 0.62, 0.2),
    "blue": (0.13, 0.32, 0.85),
    "purple": (0.55, 0.2, 0.7),
    "pink": (0.98, 0.55, 0.7),
    "brown": (0.45, 0.26, 0.12),
    "black": (0.07, 0.07, 0.08),
    "grey": (0.5, 0.5, 0.53),
    "white": (0.95, 0.95, 0.93),
    "cyan": (0.2, 0.8, 0.85),
}

PATTERNS = [
    "striped",
    "barred",
    "dotted",
    "checkered",
    "ringed",
    "rayed",
    "scaly",
    "zigzag",
    "netted",
    "spotted",
    "speckled",
    "marbled",
    "bricky",
]

OBJECTS = [
    ObjectClass(*row)
    for row in [
        ("ball", "disc", "checkered", ("red", "white")),
        ("melon", "disc", "barred", ("green", "black")),
        ("cookie", "disc", "dotted", ("orange", "brown")),
        ("plate", "disc", "ringed", ("white", "blue")),
        ("wheel", "disc", "rayed", ("grey", "black")),
        ("egg", "egg", "speckled", ("white", "brown")),
        ("corn", "egg", "netted", ("yellow", "brown")),
        ("bomb", "egg", "marbled", ("black", "grey")),
        ("star", "star", "rayed", ("yellow", "orange")),
        ("starfish", "star", "dotted", ("orange", "white")),
        ("daisy", "flower", "rayed", ("white", "pink")),
        ("rose", "flower", "ringed", ("red", "pink")),
        ("tulip", "flower", "zigzag", ("purple", "yellow")),
        ("leaf", "leaf", "netted", ("green", "yellow")),
        ("feather", "leaf", "striped", ("purple", "white")),
        ("carrot", "cone", "striped", ("orange", "brown")),
        ("strawberry", "cone", "dotted", ("red", "yellow")),
        ("fish", "fish", "scaly", ("blue", "cyan")),
        ("perch", "fish", "barred", ("orange", "white")),
        ("trout", "fish", "speckled", ("grey", "pink")),
        ("mushroom", "mushroom", "dotted", ("red", "white")),
        ("umbrella", "mushroom", "rayed", ("blue", "yellow")),
        ("jellyfish", "mushroom", "marbled", ("pink", "purple")),
        ("kite", "kite", "checkered", ("yellow", "blue")),
        ("diamond", "kite", "rayed", ("cyan", "blue")),
        ("heart", "heart", "striped", ("pink", "red")),
        ("balloon", "heart", "spotted", ("purple", "yellow")),
        ("butterfly", "butterfly", "spotted", ("orange", "black")),
        ("moth", "butterfly", "marbled", ("brown", "white")),
        ("bow", "butterfly", "dotted", ("pink", "white")),
        ("bottle", "vase", "striped", ("green", "white")),
        ("vase", "vase", "zigzag", ("blue", "white")),
        ("lantern", "vase", "netted", ("yellow", "red")),
        ("barrel", "barrel", "barred", ("brown", "orange")),
        ("drum", "barrel", "zigzag", ("red", "white")),
        ("house", "house", "bricky", ("red", "white")),
        ("barn", "house", "barred", ("red", "black")),
        ("tent", "tent", "barred", ("yellow", "green")),
        ("pyramid", "tent", "bricky", ("yellow", "brown")),
        ("castle", "castle", "bricky", ("grey", "black")),
        ("crown", "castle", "dotted", ("yellow", "red")),
        ("cactus", "cactus", "speckled", ("green", "white")),
        ("cross", "cactus", "checkered", ("black", "white")),
        ("zebra", "beast", "barred", ("white", "black")),
        ("cow", "beast", "spotted", ("white", "brown")),
        ("leopard", "beast", "dotted", ("yellow", "black")),
        ("parrot", "bird", "scaly", ("red", "green")),
        ("pigeon", "bird", "marbled", ("grey", "white")),
        ("moon", "crescent", "spotted", ("yellow", "grey")),
        ("banana", "crescent", "speckled", ("yellow", "brown")),
        ("cup", "cup", "zigzag", ("cyan", "red")),
        ("basket", "cup", "netted", ("brown", "yellow")),
        ("ladybug", "bug", "dotted", ("red", "black")),
        ("wasp", "bug", "striped", ("yellow", "black")),
        ("shirt", "shirt", "checkered", ("green", "white")),
        ("jumper", "shirt", "striped", ("blue", "white")),
    ]
]
OBJECT_WORDS = [c.word for c in OBJECTS]  # class id = place in this list + 1
OBJECT_LABELS = ["background", *OBJECT_WORDS]

RARE = ["zebra", "umbrella", "lantern", "trout", "pyramid", "moth", "drum", "jumper"]  # in no shipped weights
NOVEL = ["castle", "cookie", "kite", "perch", "parrot", "basket", "tulip", "moon", "wasp", "bottle", "heart", "egg"]
FOLDS = [  # four class-disjoint folds of all that is not RARE; the first is NOVEL
    NOVEL,
    ["ball", "leaf", "fish", "mushroom", "barrel", "tent", "cow", "pigeon", "shirt", "star", "balloon", "bomb"],
    [
        "melon",
        "corn",
        "daisy",
        "carrot",
        "butterfly",
        "vase",
        "house",
        "crown",
        "cross",
        "leopard",
        "banana",
        "ladybug",
    ],
    [
        "plate",
        "wheel",
        "starfish",
        "rose",
        "feather",
        "strawberry",
        "jellyfish",
        "diamond",
        "bow",
        "barn",
        "cactus",
        "cup",
    ],
]

# ---- scenes, words, seeds, sizes

FAMILIES = {"meadow": ("grass", "sand", "water", "snow"), "table": ("wood", "brick", "cloth", "tile")}
JOINING_WORDS = ["and", "on"]

SEEDS = {  # ranges of the index: disjoint, so no scene is in two of them
    "base": (0, 1_000_000),  # the tiny CLIP and the tiny diffusion base
    "method": (1_000_000, 2_000_000),  # every method's training
    "val": (2_000_000, 2_100_000),
    "test": (2_100_000, 2_200_000),
}

SIZES = {"base": (64, 128), "clip": (128, 256), "landscape": (256, 4096)}  # least and greatest working size


def seed_range(name: str) -> tuple[int, int]:
    """The indices (start, stop) of one use: base, method, val or test."""
    return SEEDS[name]


def class_id(word: str) -> int:
    """The label of an object class (1..K; 0 is background)."""
    return OBJECT_WORDS.index(word) + 1


def fold_classes(fold: int) -> tuple[list[str], list[str]]:
    """Words to train few-shot on and words to test on; NOVEL and RARE are never trained on."""
    test = FOLDS[fold]
    return [w for w in OBJECT_WORDS if w not in test and w not in RARE and w not in NOVEL], list(test)


def vocabulary() -> list[str]:
    """Every word a caption may hold, in a fixed order."""
    grounds = [word for family in FAMILIES.values() for word in family]
    forms = sorted({c.form for c in OBJECTS} - set(OBJECT_WORDS))
    return [*OBJECT_WORDS, *grounds, *PATTERNS, *COLOURS, *forms, *JOINING_WORDS]
