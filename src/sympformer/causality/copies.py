"""A model in other weights and a higher precision, and the embeddings that it looks up."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sympformer.causality.subject import device_of
from sympformer.errors import InputError


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Keep the caller's random state; his autograd modes do not matter inside."""
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with (
        torch.random.fork_rng(list(cuda)),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def float64_copy(module: nn.Module) -> nn.Module:
    """A frozen float64 copy for evaluation, not compiled; on the CPU where float64 is lacking.

    Raises:
        InputError: the module cannot be copied, or has no values yet.
    """
    module = getattr(module, "_orig_mod", module)  # of torch.compile, whose traces are for float32
    device = device_of(module)
    if device.type == "meta":
        raise InputError("the model is on the device meta, without values: initialise it first")
    try:
        copied = copy.deepcopy(module)
    except Exception as error:  # whatever the parts of the module raise
        raise InputError(
            f"the model cannot be copied ({first_line(error)}): audit a function of ids instead, "
            "lambda ids: model(ids)"
        ) from error
    if device.type == "mps":  # has no float64
        copied = copied.cpu()
    return copied.double().eval().requires_grad_(False)


def reweighted(
    module: nn.Module | None, scales: Iterable[float], draw: torch.Generator
) -> Iterator[str]:
    """Name the weights that `module` has now: first its own, then redrawn ones at each of the scales g.

    Matrices become N(0, g²/fan_in); vectors and scalars (gains, gates, step sizes) are moved by
    0.1 g, which opens a gate that starts at zero and keeps a gain near one.
    """
    yield "as they are"
    parameters = module.parameters() if module else ()
    own = [(p, p.clone()) for p in parameters if p.is_floating_point()]
    for g in scales if own else ():
        for p, start in own:
            noise = torch.randn(p.shape, generator=draw, dtype=p.dtype).to(p.device)
            if p.ndim >= 2:
                p.copy_(g * noise / math.sqrt(p[0].numel()))
            else:
                p.copy_(start + 0.1 * g * noise)
        yield f"redrawn at scale {g:g}"


@contextmanager
def watched_embeddings(module: nn.Module | None, ids: Tensor) -> Iterator[list[Tensor]]:
    """Collect, as leaves of the graph, the embeddings of `ids` that are looked up.

    In a module, those of every `nn.Embedding`, in compiled code too; in a function, which does not
    show its modules, those of every call of `torch.nn.functional.embedding`, with code that is
    compiled running eagerly.
    """
    embeddings: list[Tensor] = []

    def watch(looked_up: Any, output: Tensor) -> Tensor:
        if not isinstance(looked_up, Tensor) or looked_up.shape != ids.shape:
            return output
        if not torch.equal(looked_up.to(ids.device), ids):
            return output
        embeddings.append(output.detach().requires_grad_())
        return embeddings[-1].clone()  # a leaf could not be changed in place

    if module is None:
        with torch.compiler.set_stance("force_eager"), _Lookups(watch):
            yield embeddings
        return
    tables = (part for part in module.modules() if isinstance(part, nn.Embedding))
    hooks = [
        table.register_forward_hook(lambda _, args, output: watch((*args, None)[0], output))
        for table in tables
    ]
    try:
        yield embeddings
    finally:
        for hook in hooks:
            hook.remove()


class _Lookups(TorchFunctionMode):
    """Passes the ids and the result of every lookup through `watch`, which gives the result."""

    def __init__(self, watch: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        return self.watch(args[0], out) if func is F.embedding and args else out


def first_line(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
