"""LVIS v1: COCO's photographs with the outlines of 1,203 kinds of objects, most of them rare (Gupta et al., CVPR 2019).

Size       100,170 train, 19,809 val photographs, out of COCO's train2017 and val2017 (so a split needs both folders)
Classes    1,203; a photograph is labelled for some of them only, so a class that is not marked may still be seen
Source     lvisdataset.org (lvis_v1_train.json.zip, lvis_v1_val.json.zip) and COCO's train2017.zip, val2017.zip
Licence    annotations CC BY 4.0; the photographs are Flickr's, each with its own
Layout     lvis_v1_{train,val}.json, also in annotations/; {train,val}2017/*.jpg, where the end of its coco_url says
"""

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.files import Tree, read_image
from datamodules.polygons import CocoJson


class Lvis:
    """A split (train or val) of LVIS by category: for episodes.

    categories: {id: name}, ascending. images: {category: ids of the pictures that show it, ascending}.
    """

    def __init__(self, tree: Tree, split: str):
        file = f"lvis_v1_{split}.json"
        name = file if tree.has(file) else f"annotations/{file}"
        if not tree.has(name):
            raise UserError(f"no {file}", tree, "download it (lvisdataset.org) and put it there")
        self.tree, self._coco = tree, CocoJson(tree, name, picture="coco_url")
        self.categories = dict(sorted(self._coco.categories.items()))
        self._rows = {number: row for row, number in enumerate(self._coco.ids)}
        shown: dict[int, set[int]] = {category: set() for category in self.categories}
        for number, row in self._rows.items():
            for thing in self._coco.annotations(row):
                shown[thing.category].add(number)
        self.images = {category: sorted(numbers) for category, numbers in shown.items()}

    def name(self, image_id: int) -> str:
        """val2017/000000397133.jpg"""
        return "/".join(self._coco.files[self._rows[image_id]].split("/")[-2:])

    def mask(self, image_id: int, category_id: int) -> Tensor:
        """bool [H, W]: all things of the category; none where the picture shows none."""
        return torch.from_numpy(self._coco.union(self._rows[image_id], category_id))

    def picture(self, image_id: int) -> Tensor:
        """uint8 [3, H, W]."""
        name = self.name(image_id)
        return read_image(self.tree.open(name), self.tree.where(name))
