"""What all the values of a set's label files say about the way they are read: the verdict of `datamodules.check`.

`shifts.py` looks at a handful of masks before every training; here all of them are known.
"""

from collections import Counter
from dataclasses import dataclass

SOME = 4                               # masks; of fewer nothing can be said about what is usual


@dataclass
class Values:
    """The file values that occur, and how they are read.

    masks: of each value the number of masks it is in, out of `files`. shift, white: see settle_labels. Of published sets:
    void: their files hold the ignored value even where they count from 1; rare: class 0 is in few pictures; None: not known.

    Values tell little: a class may be missing from the pictures, and an extra value may be void. So each verdict says what
    occurs, what it looks like, and what would mend it.
    """

    masks: Counter
    files: int
    classes: list[str]
    shift: int
    white: int | None = None
    void: bool | None = None
    rare: bool | None = None

    def __post_init__(self):
        self.first, self.last = -self.shift, len(self.classes) - 1 - self.shift      # the file values of the classes
        self.ignored = {65535} | ({255} if len(self.classes) <= 255 and self.white is None else set())
        self.ignoring = sorted(set(self.masks) & self.ignored)

    def verdict(self) -> str:
        """One line, or nothing."""
        above = sorted(value for value in set(self.masks) - self.ignored if value > self.last)
        if above:
            return self.too_high(above)
        if len(self.classes) == 1:
            return ""
        return self.seems_to_count_from_one() or self.seems_lowered_already()

    def holds(self, first: int, last: int) -> bool:
        return all(value in self.masks for value in range(first, last + 1))

    def too_high(self, above: list[int]) -> str:
        """Values that are no class, where they have a pattern."""
        first, over, shift = self.first, self.last + 1, f"data.label_shift={self.shift - 1}"
        if above in ([254], [65534]):
            return (f"{above[0]} is in {self.masks[above[0]]} masks and is no class: unsigned masks look so after 1 was taken "
                    "from them twice (0, 255, 254); make them again from the originals")
        if above != [over]:
            return ""
        if first not in self.masks:
            return f"{over} is in {self.masks[over]} masks and {first} in none: the set counts from {first + 1}; set {shift}"
        return (f"{over} is in {self.masks[over]} masks and {first} in {self.masks[first]}, one value too many: either {first} "
                f"means unlabelled and the set counts from {first + 1} (set {shift}), or {over} is one more class or void (add "
                "it to the classes, or write 255 in its place)")

    def seems_to_count_from_one(self) -> str:
        first, name, mend = self.first, self.classes[0], f"if so, set data.label_shift={self.shift - 1}"
        if first not in self.masks and self.holds(first + 1, self.last):
            return (f"{first} ({name}) is in no mask and every other class is in some: it looks as if the set counted from "
                    f"{first + 1} and its last class did not occur; {mend}")
        often = self.shift == 0 and self.files >= SOME and self.masks[0] > self.files / 2
        if often and (self.rare or self.void is False and not self.ignoring):
            return (f"0 ({name}) is in {self.masks[0]} of {self.files} masks and {'an' if self.ignoring else 'no'} ignored value "
                    f"occurs: it looks as if 0 meant unlabelled and the set counted from 1; {mend}")
        return ""

    def seems_lowered_already(self) -> str:
        below, mend = self.first - 1, f"if so, set data.label_shift={self.shift + 1}"
        if self.shift < 0 and self.void and self.files >= SOME and self.masks[below] < self.files / 2:
            return (f"{below} is in {self.masks[below]} of {self.files} masks only, though the set has it in most: it looks as "
                    f"if 1 had been taken from the masks already; {mend}")
        if self.shift >= 0 or self.void or below not in self.masks or self.last in self.masks:
            return ""
        if not self.ignoring and not self.holds(below, self.last - 1):
            return ""
        also = f", and {self.ignoring[0]} occurs, which is rare where 0 means unlabelled" if self.ignoring else ""
        return (f"{self.last} ({self.classes[-1]}) is in no mask, {below} is in {self.masks[below]}{also}: it looks as if 1 had "
                f"been taken from the masks already; {mend}")
