"""Masks from elsewhere: those of a labelled scene, a folder of files, superpixels, rough copies of true masks."""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError
from datamodules.files import read_labels

SEEDS = 12                          # superpixels along the longer side
GLANCE = 384                        # pixels of the longer side superpixels are drawn at
COPIES = 3                          # rough copies of a true mask


# -- of a scene --------------------------------------------------------------------------------------------------------
def segments_of(sample: dict, ignore: int) -> tuple[Tensor, Tensor]:
    """The masks, bool N H W, and classes, N, of one sample: those it holds, or those of a scene's segments or classes."""
    if "masks" in sample:
        return sample["masks"], sample["classes"].long()
    labels = sample["labels"].long()
    numbers = sample["instances"].long() if "instances" in sample else labels
    known = (labels != ignore) & (numbers >= 0)
    ids = numbers[known].unique()
    masks = (numbers == ids[:, None, None]) & known
    return masks, torch.stack([labels[mask][0] for mask in masks]) if len(ids) else labels.new_zeros(0)


def one_by_one(batch: dict) -> list[dict]:
    """The samples of a batch of scenes or segments."""
    keys = [key for key in ("image", "labels", "instances", "masks", "classes") if key in batch]
    return [dict(zip(keys, values)) for values in zip(*(batch[key] for key in keys))]


def drawn(masks: Tensor, classes: Tensor, ignore: int) -> Tensor:
    """A label map, int32 H W, of masks N H W; where several cover a pixel the last one counts, where none does `ignore`."""
    labels = torch.full(masks.shape[-2:], ignore, dtype=torch.int32, device=masks.device)
    for mask, label in zip(masks, classes.tolist()):
        labels[mask] = label
    return labels


# -- of files ----------------------------------------------------------------------------------------------------------
def given_masks(masks, picture, size: tuple[int, int]) -> Tensor:
    """`masks=` of predict, as bool N H W: an array of that shape, or a folder.

    In the folder, `<picture's name>/` holds a file for each mask (what is not 0 is the mask), or `<picture's name>.png` numbers
    the masks, which then do not overlap (0: none). This is how SAM's automatic masks and most proposals are kept.
    """
    if isinstance(masks, (str, Path)):
        if not isinstance(picture, (str, Path)):
            mend = "give the picture's path, or the masks themselves, N H W"
            raise UserError("a folder of masks needs a picture with a name", str(masks), mend)
        return _of_folder(Path(masks), Path(picture).stem, size)
    found = torch.as_tensor(masks).bool()
    if found.ndim != 3 or tuple(found.shape[1:]) != size:
        raise UserError(f"masks of shape {tuple(found.shape)} for a picture of {size[0]} x {size[1]} (H x W)", "masks",
                        "give N H W, of the picture's own size")
    return found


def _of_folder(folder: Path, name: str, size: tuple[int, int]) -> Tensor:
    if not folder.is_dir():
        raise UserError("no such folder", folder, "set masks= to a folder of masks")
    files = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in (".png", ".bmp", ".tif", ".tiff"))
    numbered = folder / f"{name}.png"
    if files:
        return torch.stack([_read(file, size) > 0 for file in files])
    if not numbered.exists():
        raise UserError(f"no masks of {name}", folder, f"put them in {name}/*.png, or numbered in {name}.png")
    numbers = _read(numbered, size).int()
    return numbers == numbers[numbers > 0].unique()[:, None, None]


def _read(file: Path, size: tuple[int, int]) -> Tensor:
    values = read_labels(file, str(file))
    if tuple(values.shape) != size:
        raise UserError(f"a mask of {values.shape[1]}x{values.shape[0]} for a picture of {size[1]}x{size[0]}", file,
                        "masks must have the picture's own size")
    return values


# -- of nothing --------------------------------------------------------------------------------------------------------
def superpixels(image: Tensor, seeds: int = SEEDS) -> Tensor:
    """image uint8 3 H W -> bool N h w that share the picture out, at most GLANCE on a side.

    A grid of seeds grows along the picture's edges (OpenCV's watershed): what masks are when nothing else proposes any. They
    follow outlines, but know no objects.
    """
    picture = image.permute(1, 2, 0).byte().cpu().numpy()
    scale = min(1.0, GLANCE / max(picture.shape))
    height, width = (max(3, round(n * scale)) for n in picture.shape[:2])
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    rows, columns = (max(1, min(round(seeds * n / max(height, width)), n // 3)) for n in (height, width))
    markers = np.zeros((height, width), np.int32)
    ys, xs = (((np.arange(count) + 0.5) * n / count).astype(int) for count, n in ((rows, height), (columns, width)))
    markers[ys[:, None], xs] = np.arange(1, rows * columns + 1).reshape(rows, columns)
    regions = cv2.watershed(picture, markers).astype(np.int16)         # -1 on the lines between regions and on the border
    while (regions < 1).any():
        regions = np.where(regions < 1, cv2.dilate(regions, np.ones((3, 3), np.uint8)), regions)
    found = torch.from_numpy(regions.astype(np.int32)).to(image.device)
    return found == found.unique()[:, None, None]


# -- of the truth ------------------------------------------------------------------------------------------------------
def rough(masks: Tensor, copies: int = COPIES) -> Tensor:
    """N H W -> bool copies*N H W: each mask as a generator might miss it, drawn with torch's own random numbers.

    A copy is eroded or dilated by up to a quarter of the mask's width, cut off along a random line, or joined with another
    mask. They stand in for a generator's masks where none is trained (the small preset); empty copies happen, as there.
    """
    masks = masks > 0.5
    return torch.stack([_missed(mask, masks) for mask in masks for _ in range(copies)]) if len(masks) else masks


def _missed(mask: Tensor, masks: Tensor) -> Tensor:
    kind, amount = int(torch.randint(4, ())), float(torch.rand(()))
    if kind == 3 and len(masks) > 1:
        return mask | masks[int(torch.randint(len(masks), ()))]
    if kind == 2:
        return mask & _half(mask, amount)
    reach = 1 + int(amount * 0.25 * float(mask.sum()) ** 0.5)
    sign = -1.0 if kind == 0 else 1.0
    grown = F.max_pool2d(sign * mask[None].float(), (2 * reach + 1, 1), 1, (reach, 0))
    return F.max_pool2d(grown, (1, 2 * reach + 1), 1, (0, reach))[0] * sign > 0.5


def _half(mask: Tensor, amount: float) -> Tensor:
    """One side of a line through the mask's middle, moved outwards by up to a mask's width."""
    places = mask.nonzero().float()                                    # P 2
    if not len(places):
        return mask
    angle = 6.2832 * torch.rand(())
    way = torch.stack([angle.sin(), angle.cos()]).to(mask.device)
    far = ((places - places.mean(0)) @ way).abs().max()
    rows, columns = (torch.arange(n, device=mask.device).float() for n in mask.shape)
    middle = places.mean(0)
    return (rows[:, None] - middle[0]) * way[0] + (columns - middle[1]) * way[1] <= amount * far
