"""Do a set's masks count as they are read? A wrong label_shift trains well and judges badly, and raises no error by itself.

Files either count from 1, with 0 for unlabelled pixels (read with label_shift=-1), or from 0, with the ignored value (255; 65535
in 16 bit) for them. A handful of masks spread over a split is looked at. What cannot be otherwise is an error; what is only
unlikely is a line on the screen, for a split may be an unusual one.
"""

import numpy as np

from datamodules.base import say
from datamodules.errors import UserError
from datamodules.samples import ignore_of
from datamodules.sources import SceneFiles, settle_labels

LOOKED_AT = 16                         # masks of a split
FEW = 2                                # masks; one says nothing about what is usual


def look_at_masks(source: SceneFiles, void: bool, rare: bool) -> None:
    """Refuses or doubts the way `source` reads its masks.

    void: the set's files hold the ignored value even where they count from 1 (VOC's outlines). rare: class 0 is in few of the
    set's pictures, so a 0 in most of them stands for unlabelled pixels.
    """
    indices = np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).round().astype(int).tolist()
    ignored = 255 if ignore_of(source.classes) == 255 else 65535
    kinds, seen = set(), []
    for index in indices:
        raw, where = source.raw(index), source.files(index)[1]
        values = set(raw.unique().tolist())
        refuse(values, source.classes, ignored, where)
        settle_labels(raw, source.classes, where, source.label_shift)
        kinds.add(raw.dtype.itemsize)
        seen.append(values)
    where = source.files(indices[0])[1]
    if source.classes > 255 and kinds == {1}:
        raise UserError(f"8 bit masks for {source.classes} classes: the values above 255 are lost", where,
                        "convert the official files again, to 16 bit")
    everything = set().union(*seen)
    if source.label_shift < 0 and not void and ignored in everything and source.classes not in everything:
        at = next(index for index, values in zip(indices, seen) if ignored in values)
        raise UserError(f"it holds {ignored}, which files that count from 1 do not: it counts from 0", source.files(at)[1],
                        f"set data.label_shift=0, or save {ignored} as 0 if these masks do count from 1")
    line = doubt(seen, source.label_shift, ignored, void, rare)
    if line:
        say(f"suspicious: {where} and others: {line}")


def refuse(values: set[int], classes: int, ignored: int, where: str) -> None:
    """A mask that 1 was subtracted from twice: its unlabelled 0 went round to the largest number, and on."""
    if ignored - 1 in values and ignored - 1 > classes:
        raise UserError(f"it holds {ignored - 1}: 1 seems to have been subtracted from it twice, and class 0 is lost", where,
                        "convert the official files again")


def doubt(seen: list[set[int]], shift: int, ignored: int, void: bool, rare: bool) -> str:
    """What is unlikely about the values of these masks, or nothing."""
    zeros, voids = (sum(value in values for values in seen) for value in (0, ignored))
    if len(seen) < FEW:
        return ""
    if shift == 0 and zeros > len(seen) / 2 and (rare or not voids and not void):
        return (f"0 is in {zeros} and {ignored} in {voids} of {len(seen)} masks, as where 0 means unlabelled and the classes "
                "count from 1; that would need data.label_shift=-1")
    if shift < 0 and void and zeros < len(seen) / 2:
        return (f"0 is in {zeros} of {len(seen)} masks only, as where the classes count from 0; that would need "
                "data.label_shift=0")
    return ""
