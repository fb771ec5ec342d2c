"""Follow a flow through many steps."""

from collections.abc import Callable, Iterator
from itertools import count, islice

import torch
from torch import Tensor

from sympformer.dynamics.damping import UNDAMPED, Damping
from sympformer.dynamics.scalar import Scalar
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split
from sympformer.dynamics.table import SCHEMES
from sympformer.errors import InputError, lookup

FieldFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class DivergenceError(InputError):
    """The state stopped being finite; `x`, `p` hold the trajectories up to the last good step."""

    def __init__(self, step: int, t: float, x: Tensor, p: Tensor):
        super().__init__(
            f"the state is no longer finite after step {step} (t = {t:.6g}): "
            "take a smaller step size h, or more damping"
        )
        self.step, self.t, self.x, self.p = step, t, x, p


class FieldAt:
    """A function field(x, p) -> (velocity, force) as the field at x, called once for each p."""

    def __init__(self, field: FieldFunction, x: Tensor):
        self._field, self._x = field, x
        self._p: Tensor | None = None

    def velocity(self, p: Tensor) -> Tensor:
        """F(x, p)."""
        return self._at(p)[0]

    def force(self, p: Tensor) -> Tensor:
        """G(x, p)."""
        return self._at(p)[1]

    def _at(self, p: Tensor) -> tuple[Tensor, Tensor]:
        if self._p is not p:
            self._p, self._value = p, self._field(self._x, p)
        return self._value


def march(
    scheme: Scheme, oracle: Oracle, state: State, h: StepSize, t0: Scalar = 1.0
) -> Iterator[tuple[Scalar, State]]:
    """Yield (t, state) without end, from (t0, state) on; the clock moves with h_p."""
    memory, t, h_p = scheme.init(state), t0, split(h)[1]
    for k in count(1):
        yield t, state
        state, memory = scheme.step(oracle, state, h, t, memory)
        t = t0 + k * h_p


def integrate(
    field: FieldFunction,
    x: Tensor,
    p: Tensor,
    scheme: str | Callable[[Damping], Scheme] = "ab2",
    damping: Damping = UNDAMPED,
    h: StepSize = 0.01,
    steps: int = 100,
    t0: Scalar = 1.0,
) -> tuple[Tensor, Tensor]:
    """Trajectories of x' = F(x, p), p' = G(x, p) - α(t) p over `steps` steps of size h from t0.

    Args:
        field: field(x, p) -> (velocity, force), the force without damping.
        x: positions, any shape and dtype.
        p: momenta, shaped as x.
        scheme: a name of `schemes()`, or a scheme's class: `partial(Tao, xi=10.0)`.
        damping: see `damping`; none by default.
        h: a step size, or a pair (h_x, h_p).
        steps: number of steps.
        t0: time at the start; Nesterov and log-linear damping need t0 > 0.

    Returns:
        x and p, each of shape (steps + 1, *x.shape), the start included.

    Raises:
        InputError: unknown scheme, or arguments that do not fit.
        DivergenceError: the state became non-finite; what was computed is kept in it.
    """
    if x.shape != p.shape:
        raise InputError(f"x and p must have one shape, not {tuple(x.shape)} and {tuple(p.shape)}")
    if steps < 0 or any(not isinstance(s, Tensor) and not s > 0 for s in split(h)):
        raise InputError(f"integrate needs steps ≥ 0 and h > 0, not steps={steps}, h={h}")
    build = lookup(SCHEMES, scheme, "scheme") if isinstance(scheme, str) else scheme
    path: list[State] = []
    flow = march(build(damping), lambda at: FieldAt(field, at), State(x, p), h, t0)
    for k, (t, state) in enumerate(islice(flow, steps + 1)):
        if not (state.x.isfinite().all() and state.p.isfinite().all()):
            raise DivergenceError(k, float(t), *_stack(path, x))
        path.append(state)
    return _stack(path, x)


def _stack(path: list[State], x: Tensor) -> tuple[Tensor, Tensor]:
    if not path:
        return x.new_empty(0, *x.shape), x.new_empty(0, *x.shape)
    return torch.stack([s.x for s in path]), torch.stack([s.p for s in path])
