"""Where the adapter looks: activation maps over the photo."""

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor

from zoo.mask_adapter.asking import Asker
from zoo.visualize import caption, heat, panel, sheet, stack, to_picture

SIDE = 192                          # pixels of a picture in a panel


def weight_maps(asker: Asker, image: Tensor, masks: Tensor) -> np.ndarray:
    """N K h w, 0..1: each map's weights over the picture, whose longer side is SIDE. masks: bool N H W."""
    look = asker.look(image)
    maps = asker.net.maps(look.features.dense, [asker.place(masks, look)])[0].float().sigmoid()
    padded = F.interpolate(maps, look.padded, mode="bilinear")[..., : look.inner[0], : look.inner[1]]
    return F.interpolate(padded, _size(look.size), mode="bilinear", antialias=True).cpu().numpy()


def _size(size: tuple[int, ...]) -> tuple[int, int]:
    """(h, w) of a picture of that size brought to SIDE."""
    height, width = (max(1, round(n * SIDE / max(size[:2]))) for n in size[:2])
    return height, width


def fitted(photo: np.ndarray) -> np.ndarray:
    """The photo with its longer side at SIDE pixels."""
    return cv2.resize(photo, _size(photo.shape)[::-1], interpolation=cv2.INTER_AREA)


def over(photo: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights 0..1 [h, w] as heat over the photo brought to their size; brightest where they are largest."""
    shown = heat(weights / max(float(weights.max()), 1e-6))
    return (0.35 * fitted(photo) + 0.65 * shown).astype(np.uint8)


def outlined(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The photo, dark outside the mask."""
    return np.where(mask[..., None], photo, photo // 4)


def activations(asker: Asker, image: Tensor, masks: Tensor) -> dict[str, np.ndarray]:
    """The largest mask, and its K maps in one sheet, by caption; nothing where there is no mask. masks: bool N H W."""
    if not len(masks):
        return {}
    largest = masks[masks.flatten(1).sum(1).argmax()][None]
    photo, maps = to_picture(image), weight_maps(asker, image, largest)[0]
    return {"a mask": outlined(photo, largest[0].cpu().numpy()), "its activation maps": map_sheet(photo, maps)}


def map_sheet(photo: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The K maps of a mask, K h w, over the photo."""
    columns = max(1, round(len(maps) ** 0.5))
    return sheet([over(photo, one) for one in maps], columns=columns, cell=SIDE // 2)


def scene_picture(asker: Asker, image: Tensor, masks: Tensor, names: list[str]) -> np.ndarray:
    """One scene: the photo, then a row for each mask: the mask under its name, the mean of its maps, its maps."""
    photo = to_picture(image)
    rows = [caption(fitted(photo), "photo")]
    for mask, name, maps in zip(masks.cpu().numpy(), names, weight_maps(asker, image, masks)):
        parts = [fitted(outlined(photo, mask)), over(photo, maps.mean(0)), map_sheet(photo, maps)]
        rows.append(panel(parts, [name, "mean of its maps", f"its {len(maps)} maps"], max_side=None))
    return stack(rows)
