"""Follow a flow through many steps."""

from collections.abc import Callable

import torch
from torch import Tensor

from sympformer.dynamics.damping import UNDAMPED, Damping
from sympformer.dynamics.scalar import Scalar
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split
from sympformer.dynamics.table import SCHEMES
from sympformer.errors import InputError, lookup

FieldFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class DivergenceError(InputError):
    """The state stopped being finite; `x`, `p` hold what was computed before."""

    def __init__(self, step: int, t: float, past: State):
        super().__init__(
            f"the state is no longer finite after step {step} (t = {t:.6g}): "
            "take smaller steps, a shorter time or more damping"
        )
        self.step, self.t, self.x, self.p = step, t, past.x, past.p


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


def follow(
    scheme: Scheme,
    oracle: Oracle,
    start: State,
    h: StepSize,
    steps: int,
    t0: Scalar = 1.0,
    every: int = 1,
    project: Callable[[State], State] | None = None,
) -> State:
    """The states at every `every`-th of `steps` steps from `start`, stacked in front.

    The clock of the damping moves with h_p. `project` maps each new state back to where it must
    stay, a sphere for instance.

    Raises:
        InputError: a negative number of steps, or a step size that is not positive.
        DivergenceError: the state became non-finite; what was computed is kept in it.
    """
    if steps < 0 or any(not isinstance(s, Tensor) and not s > 0 for s in split(h)):
        raise InputError(f"a flow needs steps ≥ 0 and h > 0, not steps = {steps}, h = {h}")
    state, memory, t, h_p = start, scheme.init(start), t0, split(h)[1]
    path: list[State] = []
    for k in range(steps + 1):
        if not (state.x.isfinite().all() and state.p.isfinite().all()):
            raise DivergenceError(k, float(t), _stack(path, start))
        if k % every == 0:
            path.append(state)
        if k < steps:
            state, memory = scheme.step(oracle, state, h, t, memory)
            state = project(state) if project else state
            t = t0 + (k + 1) * h_p
    return _stack(path, start)


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
        x and p, each of shape `(steps + 1, *x.shape)`, the start included.

    Raises:
        InputError: unknown scheme, or arguments that do not fit.
        DivergenceError: the state became non-finite; what was computed is kept in it.
    """
    if x.shape != p.shape:
        raise InputError(f"x and p must have one shape, not {tuple(x.shape)} and {tuple(p.shape)}")
    build = lookup(SCHEMES, scheme, "scheme") if isinstance(scheme, str) else scheme
    path = follow(build(damping), lambda at: FieldAt(field, at), State(x, p), h, steps, t0)
    return path.x, path.p


def _stack(path: list[State], like: State) -> State:
    if not path:
        return State(like.x.new_empty(0, *like.x.shape), like.p.new_empty(0, *like.p.shape))
    return State(torch.stack([s.x for s in path]), torch.stack([s.p for s in path]))
