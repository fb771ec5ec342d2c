"""What one pass forward and backward holds and moves: counted on a few layers, not assumed."""

import weakref
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sympformer import machine, torch_private
from sympformer.model import ModelConfig, build


class Pass(NamedTuple):
    """Bytes of a forward and backward pass over some rows."""

    held: float
    """The most that it holds at a time, beside weights and their gradients."""
    moved: float
    """What all operations read and write, as if nothing stayed in a cache."""


MOST_IDS = 4096
"""Of a larger vocabulary only so much is counted, and the rest extrapolated."""


def one_pass(config: ModelConfig, rows: int, length: int, dtype: str = "float32") -> Pass:
    """A pass over `(rows, length)` tokens, with as many layers, rows and ids as asked for.

    Counted are passes with 2 and 3 layers over 2 and 3 rows, in the forms that this processor would
    choose; both numbers grow nearly linearly in layers and in rows. What a larger vocabulary moves
    is found so, too; it holds no more, for logits are made a few at a time. Tensors have shapes
    only: nothing is computed, and a model may be larger than this machine.

    Args:
        config: the model, of any number of layers.
        rows: sequences.
        length: tokens of each.
        dtype: of the products, "float32", "bfloat16" or "float16".
    """
    ids = min(config.vocab_size, MOST_IDS)
    counts: dict[tuple[int, int, int], Pass] = {}

    def count(layers: int, ids: int) -> None:
        options = {"unique_layers": 0, "loop_scalars": "shared"}
        small = replace(config, n_layer=layers, vocab_size=ids, **options)
        with torch_private.shapes_only():
            model = build(small)
            for some in (2, 3):
                counts[layers, some, ids] = _counted(model, torch.zeros(some, length).long(), dtype)

    def slopes(which: int, of: tuple[int, int], base: tuple[int, int]) -> tuple[float, float]:
        """By how much a number is larger `of` a size than of a `base`: with 2 rows, and a row."""
        two, three = (
            counts[of[0], r, of[1]][which] - counts[base[0], r, base[1]][which] for r in (2, 3)
        )
        return two, three - two

    def at(which: int) -> float:
        one, two = counts[2, 2, ids][which], counts[2, 3, ids][which]
        layer, both = slopes(which, (3, ids), (2, ids))
        deeper = config.n_layer - 2
        return max(0.0, one + layer * deeper + (two - one + both * deeper) * (rows - 2))

    for layers in (2, 3):
        count(layers, ids)
    held, moved = at(0), at(1)
    if config.vocab_size > ids:
        count(2, ids // 2)
        some, each = slopes(1, (2, ids), (2, ids // 2))
        moved += (some + each * (rows - 2)) * (config.vocab_size - ids) / (ids - ids // 2)
    return Pass(held, moved)


def _counted(model: nn.Module, tokens: Tensor, dtype: str) -> Pass:
    """Count a pass of a model over ids that are zeros."""
    counter = _Counter()
    hooks = [p.register_post_accumulate_grad_hook(counter.leave_out) for p in model.parameters()]
    with counter:
        with machine.precision(machine.CPU, dtype):
            loss = model.train()(tokens, tokens).loss
        loss.backward()
    model.zero_grad(set_to_none=True)
    for hook in hooks:
        hook.remove()
    return Pass(counter.most, counter.moved)


class _Counter(torch_private.dispatch_mode()):
    """Adds up what operations move, and follows what they make until it is freed.

    Attributes:
        most: the most bytes of results that were there at a time.
        moved: bytes of what operations were given and gave; views move nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = self.moved = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.name() == "aten::_local_scalar_dense":
            return 0  # nothing but ids is asked for its value, and they are zeros
        out = func(*args, **(kwargs or {}))
        if getattr(func, "is_view", False) or func.namespace == "prim":  # asked for its device
            return out
        given, made = (
            [t for t in torch_private.leaves(tree) if isinstance(t, Tensor)]
            for tree in ((args, kwargs), out)
        )
        self.moved += sum(t.numel() * t.element_size() for t in given + made)
        old = {_identity(t) for t in given}
        for tensor in made:
            if _identity(tensor) not in old | self._sizes.keys():
                self._follow(tensor)
        return out

    def leave_out(self, parameter: Tensor) -> None:
        """Count a parameter's gradient no more."""
        assert parameter.grad is not None
        self._now -= self._sizes.pop(_identity(parameter.grad), 0)

    def _follow(self, tensor: Tensor) -> None:
        storage, which = tensor.untyped_storage(), _identity(tensor)
        self._sizes[which] = storage.nbytes()
        self._now += storage.nbytes()
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._free, which)

    def _free(self, which: int) -> None:
        self._now -= self._sizes.pop(which, 0)


def _identity(tensor: Tensor) -> int:
    """Of the memory behind a tensor."""
    return tensor.untyped_storage()._cdata
