"""The two losses of Mask-Adapter (sec. 3.3 of the paper), as functions of tensors."""

import torch.nn.functional as F
from torch import Tensor

NO_LABEL = -1                       # of a mask that fills the batch up


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the masks that have a label. logits ... C+1, the last column void; labels ..., NO_LABEL for none.

    Void is no mask's label: it only competes. Without any label the loss is 0 and still has gradients (of 0).
    """
    logits, labels = logits.flatten(0, -2).float(), labels.flatten()
    if not (labels != NO_LABEL).any():
        return 0.0 * logits.sum()
    return F.cross_entropy(logits, labels, ignore_index=NO_LABEL)


def consistency(predicted: Tensor, truth: Tensor, count: int) -> Tensor:
    """1 - cosine between the embeddings of predicted masks and of the true ones they matched, P D each, summed over `count`.

    count: P gives the mean over the pairs; the number of slots gives the released figure, in whose mean the empty pairs that
    fill the slots up stand with a cosine of 1. What the true masks give is the target and takes no gradient.
    """
    distance = 1 - F.cosine_similarity(predicted.float(), truth.detach().float(), dim=-1)
    return distance.sum() / max(count, 1)
