"""The embeddings that a model looks up, for the check of the gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sympformer.causality.precision import eagerly


@contextmanager
def watched_embeddings(module: nn.Module | None, ids: Tensor) -> Iterator[list[Tensor]]:
    """Collect, as leaves of the graph, the embeddings of `ids` that are looked up.

    In a module, those of every `nn.Embedding`, in compiled code too; in a function, which does not
    show its modules, those of every call of `torch.nn.functional.embedding`, with code that is
    compiled running eagerly.
    """
    embeddings: list[Tensor] = []

    def watch(looked_up: Any, output: Any) -> Any:
        if not isinstance(looked_up, Tensor) or looked_up.shape != ids.shape:
            return output
        if not torch.equal(looked_up.to(ids.device), ids):
            return output
        embeddings.append(output.detach().requires_grad_())
        return embeddings[-1].clone()  # a leaf could not be changed in place

    if module is None:
        with eagerly(), _Lookups(watch):
            yield embeddings
        return
    tables = (part for part in module.modules() if isinstance(part, nn.Embedding))
    hooks = [
        # Before the hooks of others, which may look ahead.
        table.register_forward_hook(
            lambda _, args, out: watch(args[0] if args else None, out), prepend=True
        )
        for table in tables
    ]
    try:
        yield embeddings
    finally:
        for hook in hooks:
            hook.remove()


class _Lookups(TorchFunctionMode):
    """Passes the ids and the result of every lookup through `watch`, which gives the result."""

    def __init__(self, watch: Callable[[Any, Any], Any]):
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        return self.watch(args[0], out) if func is F.embedding and args else out
