"""The cross-entropy of a large vocabulary, without its logits."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sympformer.derivatives import pull_back, recorded
from sympformer.products import product, product_dtype
from sympformer.torch_private import transformed

IGNORED = -100
"""A target that does not count."""

CHUNK = {"cpu": 24 * 2**20, "cuda": 2**28}
"""Bytes of logits held at a time: enough for efficient products; on a CPU, no more than what malloc
serves from memory that it has (32 MiB), as fresh pages cost more than the products."""


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignored: int = IGNORED
) -> Tensor:
    """`F.cross_entropy(hidden @ weight.mT, targets)`, a few rows of logits at a time.

    The gradients are formed in the forward pass, while the logits of a chunk are at hand: nothing
    of size `(N, V)` is kept, and the backward pass only scales. Second derivatives, forward mode
    and transforms are those of the plain formula, which keeps the logits.

    Args:
        hidden: `(N, d)`; its dtype, or autocast's, is that of the logits. Their softmax is taken in
            float32 at least, and the gradient of `weight` is summed so.
        weight: the head, `(V, d)`.
        targets: ids `(N,)`, int64.
        ignored: the target that does not count.

    Returns:
        Mean loss in nats per counted target; nan if none counts.

    Raises:
        RuntimeError: a target is outside the vocabulary.
    """
    hidden = hidden.to(product_dtype(hidden))
    if transformed(hidden, weight, targets):
        total = _plain_sum(hidden, weight, targets, ignored)
    else:
        needed = (torch.is_grad_enabled() and t.requires_grad for t in (hidden, weight))
        total, _, _ = _summed(hidden, weight, targets, ignored, *needed)
    count = (targets != ignored).sum()
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)


def _plain_sum(hidden: Tensor, weight: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """The sum over counted targets, from whole logits."""
    counted = targets != ignored
    logits = F.linear(hidden, weight.to(hidden.dtype))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = logits.log_softmax(-1).gather(-1, targets.where(counted, 0).unsqueeze(-1))
    return -chosen.squeeze(-1).where(counted, 0).sum()


# An operator of its own stays one node in a compiled graph, where a loop would be unrolled.
@torch.library.custom_op("sympformer::summed_cross_entropy", mutates_args=())
def _summed(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignored: int,
    hidden_learns: bool,
    weight_learns: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum over counted targets, and its gradients, empty where they are not wanted."""
    n, n_vocab = len(hidden), len(weight)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    counted = targets != ignored
    targets = targets.where(counted, 0).unsqueeze(-1)
    head = weight.to(hidden.dtype)
    counting = hidden * counted.unsqueeze(-1)
    # The same number of rows in every chunk, or nearly.
    bound = CHUNK.get(hidden.device.type, CHUNK["cuda"])
    chunks = max(1, math.ceil(n * n_vocab * wide.itemsize / bound))
    rows = max(1, math.ceil(n / chunks))

    loss = hidden.new_empty(n, 1, dtype=wide)
    grad_hidden = torch.empty_like(hidden) if hidden_learns else hidden.new_empty(0)
    grad_head = head.new_zeros(head.mT.shape if weight_learns else 0, dtype=wide)
    for start in range(0, n, rows):
        chunk = slice(start, start + rows)
        target = targets[chunk]
        z = product(hidden[chunk], head)
        p = z.to(wide)
        below = p.gather(1, target) - p.amax(1, keepdim=True)
        torch.softmax(p, 1, out=p)
        # The largest probability is one over the partition sum.
        torch.sub(-p.amax(1, keepdim=True).log(), below, out=loss[chunk])
        p.scatter_add_(1, target, torch.full_like(below, -1))
        if p is not z:
            z.copy_(p)
        if hidden_learns:
            grad_hidden[chunk] = product(z, head.mT)
        if weight_learns:
            grad_head += product(counting[chunk].mT, z.mT)
        del z, p  # the next chunk takes their place in memory
    if hidden_learns:
        grad_hidden *= counted.unsqueeze(-1)
    total = loss.squeeze(-1).where(counted, 0).sum()
    # In the layout of the weight, or every later use of the gradient is slow.
    grad_weight = torch.empty_like(weight).copy_(grad_head.mT) if weight_learns else grad_head
    return total, grad_hidden, grad_weight.to(weight.dtype)


@_summed.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignored: int,
    hidden_learns: bool,
    weight_learns: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        hidden.new_empty((), dtype=torch.promote_types(hidden.dtype, torch.float32)),
        torch.empty_like(hidden) if hidden_learns else hidden.new_empty(0),
        torch.empty_like(weight) if weight_learns else weight.new_empty(0),
    )


def _setup_context(ctx, inputs, output) -> None:
    hidden, weight, targets, ctx.ignored, *ctx.learns = inputs
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(hidden, weight, targets, *gradients)


def _backward(ctx, grad: Tensor | None, *_):
    hidden, weight, targets, *gradients = ctx.saved_tensors
    if recorded(grad):
        form = partial(_plain_sum, targets=targets, ignored=ctx.ignored)
        return *pull_back(form, (hidden, weight), [grad]), None, None, None, None
    gradients = zip(gradients, ctx.learns, strict=True)
    scaled = (_scaled(g, grad) if learns else None for g, learns in gradients)
    return *scaled, None, None, None, None


def _scaled(gradient: Tensor, by: Tensor | None) -> Tensor | None:
    """A factor rounded to bfloat16 would put every entry off by the same share."""
    return None if by is None else (gradient.to(by.dtype) * by).to(gradient.dtype)


_summed.register_autograd(_backward, setup_context=_setup_context)
