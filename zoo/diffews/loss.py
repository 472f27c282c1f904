"""The loss of DiffewS."""

import torch.nn.functional as F
from torch import Tensor


def velocity_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the velocity B C h w, over everything and in fp32. For one step the target is the mask's latents with
    the sign changed (section 4.3)."""
    return F.mse_loss(output.float(), target.float())
