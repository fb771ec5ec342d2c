"""How exactly a model computes, and so which differences are rounding."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sympformer.torch_private import compiler_is_loaded

# What is not seen is not in the graph, or multiplied by an exact zero.
GRADIENT_TOLERANCE = 0.0
# A prefix or a cached step has another shape, so sums run in another order, and large weights
# amplify the rounding.
SHAPE_TOLERANCE = 1e-6
# The same where the weights are the caller's, in float32: trained, not redrawn.
FLOAT32_SHAPE_TOLERANCE = 1e-3
# Above this, rounding hides what the checks of prefix and cache look for.
DECIDABLE = 0.05
WEIGHTED = (F.embedding, F.linear)


def causal_tolerance(dtype: torch.dtype) -> float:
    """What may move in an output when a later token changes, in a model that rounds to `dtype`.

    Both passes have one shape, so a causal model repeats the same operations on the same numbers:
    the difference is zero, or (in a convolution by FFT, say) rounding grown by the layers.
    """
    return 1e-10 if dtype == torch.float64 else 1e-6


def coarsest_dtype(run: Callable[[], Tensor]) -> torch.dtype:
    """The floating type of least precision that a pass meets; `run` makes one."""
    with torch.no_grad(), eagerly(), _Coarsest() as coarsest:
        logits = run()
    coarsest.meet(logits)
    return coarsest.dtype


def eagerly() -> AbstractContextManager[Any]:
    """Run functions that are compiled as if they were not, where functions are watched."""
    # The compiler takes a second to import, and without it nothing is compiled.
    return torch.compiler.set_stance("force_eager") if compiler_is_loaded() else nullcontext()


class _Coarsest(TorchFunctionMode):
    """Looks at what is rounded on the way, and at products with weights.

    Constants that a model makes do not count; nor do single numbers, such as a step size that is
    kept in float32 for good.
    """

    dtype = torch.float64

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if _floats(out) and (func in WEIGHTED or any(_coarser(out, arg) for arg in args)):
            self.meet(out)
        return out

    def meet(self, result: Tensor) -> None:
        """Count the type of `result`."""
        if torch.finfo(result.dtype).eps > torch.finfo(self.dtype).eps:
            self.dtype = result.dtype


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1


def _coarser(out: Tensor, arg: Any) -> bool:
    return _floats(arg) and torch.finfo(out.dtype).eps > torch.finfo(arg.dtype).eps


@contextmanager
def jolted(module: nn.Module, dtype: torch.dtype, draw: torch.Generator) -> Iterator[None]:
    """Move every weight of `module` by the rounding of `dtype`, up or down, for a while."""
    own = [(p, p.clone()) for p in module.parameters() if p.is_floating_point()]
    for p, _ in own:
        up = torch.randint(0, 2, p.shape, generator=draw).to(p)
        p.mul_(1 + torch.finfo(dtype).eps * (2 * up - 1))
    try:
        yield
    finally:
        for p, start in own:
            p.copy_(start)
