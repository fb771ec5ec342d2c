"""Whether the loss that a model is trained on is that of the logits that are audited."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sympformer.model import CustomModel

TOLERANCE = 1e-4
"""Of a loss, relative to 1 + its size."""


def fault_of_loss(loss: float, logits: Tensor, targets: Tensor, allowed: float = TOLERANCE) -> str:
    """What is wrong with a loss, if it is not the cross-entropy of the logits; else nothing.

    Args:
        loss: given targets, in nats per token.
        logits: `(B, T, V)`, made without them.
        targets: ids `(B, T)`.
        allowed: how far it may be off, relative to 1 + its size.
    """
    expected = cross_entropy(logits.flatten(0, 1).double(), targets.flatten()).item()
    if abs(loss - expected) <= allowed * (1 + abs(expected)):
        return ""
    return (
        f"the loss given targets is {loss:.6g}, the cross-entropy of the logits {expected:.6g}: "
        "it depends on the targets, or is another loss"
    )


@torch.no_grad()
def custom_fault(model: CustomModel, ids: Tensor, logits: Tensor, dtype: torch.dtype) -> str:
    """The fault in the loss of a whole model of a user's own, which computes in `dtype`.

    The logits are those it gives for the ids.
    """
    targets = ids.flip(1)
    torch.manual_seed(0)  # the same noise as where the logits were made, should it draw any
    loss = model(ids, targets).loss
    assert loss is not None, "a model of a user's own has a loss, or raises"
    return fault_of_loss(loss.item(), logits, targets, max(TOLERANCE, 10 * torch.finfo(dtype).eps))
