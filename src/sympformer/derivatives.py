"""Derivatives that an operator of one's own does not write out: second ones, and forward mode.

The operators of this package have fast derivatives of one kind: reverse, once, without a transform.
Everything else is the business of a plain form of theirs, in differentiable operations of torch:

- an operator's entry takes the plain form where it is `transformed`: within `torch.func.grad`,
  `vmap`, `jvp`, `hessian` and the like, and in forward mode. Left alone, torch loses the tangents
  of such an operator without a word;
- its backward pass takes the derivative of the plain form, by `pull_back`, where it is `recorded`:
  otherwise a second derivative would take for constant what depends on the arguments.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sympformer import torch_private
from sympformer.errors import InputError


def transformed(*tensors: Tensor) -> bool:
    """Whether an operator on these tensors must be its plain form.

    Compiled code is made anew for a transform that is around a part of it.

    Raises:
        InputError: in compiled code that is differentiated in forward mode: it has no tangents.
    """
    if not torch_private.transformed(*tensors):
        return False
    if torch.compiler.is_compiling() and torch_private.in_forward_mode():
        raise InputError("compiled code has no forward mode: differentiate the model uncompiled")
    return True


def recorded(*gradients: Tensor | None) -> bool:
    """Whether a backward pass with these gradients will itself be differentiated, or is mapped.

    Compiled code has no second derivatives: torch refuses them.
    """
    if torch.compiler.is_compiling():
        return False
    given = [g for g in gradients if g is not None]
    return torch.is_grad_enabled() or transformed(*given) or any(map(torch_private.mapped, given))


def pull_back(
    form: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of the inputs of `form`, given those of its outputs, by autograd.

    They can be differentiated again where gradients are being recorded.

    Args:
        form: made of differentiable operations.
        inputs: its arguments; those that require no gradient get None, as do those without one.
        gradients: of the outputs, in their order; None is zero. Outputs without one may be left
            out at the end.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Nodes of their own, should one tensor come twice.
        inputs = [t.view_as(t) if t.requires_grad else t for t in inputs]
        outputs = form(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    pairs = [
        (o, g.to(o.dtype))
        for o, g in zip(outputs, gradients, strict=False)
        if g is not None and o.requires_grad
    ]
    wanted = [t for t in inputs if t.requires_grad]
    if not pairs or not wanted:
        return [None for _ in inputs]
    outputs, given = zip(*pairs, strict=True)
    found = iter(
        torch.autograd.grad(outputs, wanted, given, create_graph=create_graph, allow_unused=True)
    )
    return [next(found) if t.requires_grad else None for t in inputs]


def differentiable(
    fast: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor
) -> Tensor:
    """`fast(*inputs)`, an operation of torch whose own backward pass torch cannot differentiate.

    Derivatives that need that, or forward mode, or a transform, are those of `plain`.
    """
    if transformed(*inputs):
        return plain(*inputs)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    if not learns or torch.compiler.is_compiling():
        return fast(*inputs)
    detour = _Detour(plain)
    out = fast(*_Entry.apply(detour, *inputs))
    out.register_hook(detour.leave)
    return out


class _Detour:
    """Leads a gradient from behind an operation to before it, if need be."""

    def __init__(self, plain: Callable[..., Tensor]):
        self.plain, self.gradient = plain, None

    def leave(self, gradient: Tensor) -> Tensor | None:
        """Where the backward pass comes to the operation."""
        if not recorded(gradient):
            return None
        self.gradient = gradient
        return torch.zeros(gradient.shape, dtype=gradient.dtype, device=gradient.device)

    def enter(self, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Where it has passed the operation."""
        gradient, self.gradient = self.gradient, None  # or the graph would own itself
        return pull_back(self.plain, inputs, [gradient])


class _Entry(torch.autograd.Function):
    @staticmethod
    def forward(ctx, detour: _Detour, *inputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.detour = detour
        ctx.save_for_backward(*inputs)
        return tuple(t.view_as(t) for t in inputs)

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.detour.gradient is not None:
            gradients = ctx.detour.enter(ctx.saved_tensors)
        return None, *gradients


def remade(
    outer: Callable[[Tensor], Tensor], inner: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """`outer(inner(x))`, for whose backward pass `inner(x)` is not kept but made again.

    `torch.utils.checkpoint` would run `outer` again too, with the parameters that its module has by
    then: the wrong ones where they were given by `torch.func.functional_call`.
    """
    if not (x.requires_grad and torch.is_grad_enabled()) or transformed(x):
        return outer(inner(x))
    if torch.compiler.is_compiling():  # all that a graph depends on is an argument of it
        return checkpoint(lambda x: outer(inner(x)), x, use_reentrant=False)
    middle = inner(x)
    storage, version = middle.untyped_storage(), middle._version

    def pack(t: Tensor) -> Tensor | tuple:
        # What `outer` has changed in place would not be made again so.
        if t.untyped_storage() is not storage or t._version != version:
            return t
        return t.shape, t.stride(), t.storage_offset()

    def unpack(packed: Tensor | tuple) -> Tensor:
        return packed if isinstance(packed, Tensor) else inner(x).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return outer(middle)
