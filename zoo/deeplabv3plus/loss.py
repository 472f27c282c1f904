"""DeepLabV3+'s loss: pixels' cross entropy."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Mean over the pixels of the batch that are not ignored, 0 where there are none. logits: B K H W, labels: B H W int64."""
    total = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="sum")
    return total / (labels != ignore).sum().clamp(min=1)
