"""Which form of attention runs: this file alone decides, and `using` overrides it.

| form | what it is |
|---|---|
| naive | the formula; also the right form for a single query |
| fused | torch's fused attention: averages only, values no wider than the heads at full speed |
| tiled | rows of the weights in tiles, plain torch, any device; wide values, log-sum-exp |
| sweep | tiles, with both averages of an accelerated layer from the same weights; on processors |
| triton | the same in one kernel, on CUDA with Triton installed |

and of linear attention

| form | what it is |
|---|---|
| masked | the formula: an n×n product, a dense solve |
| recurrent | token by token, through the state (joint systems: dense) |
| chunked | sums and solves in chunks: time and memory linear in n |
| scan | token by token in C++ compiled at first use; on processors, for heads of 8, 16, … numbers |

Within a transform of `torch.func` and in forward mode, softmax runs by the formula, whatever form
is asked for (`sympformer.derivatives`). Under `torch.export` a form that is not asked for is one
of torch's own operators alone, for any number of tokens: fused or naive, and masked.
"""

import importlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from sympformer.attention import delta, fused, mesa, momentum_delta, naive, scan, tiled
from sympformer.attention.naive import Causality
from sympformer.attention.prefix_solve import solve_chunked, solve_dense, solve_scanned
from sympformer.attention.prefix_sums import chunked, masked, recurrent, scanned
from sympformer.errors import InputError, lookup
from sympformer.torch_private import transformed

LONG, LONG_IF_NARROW, NARROW = 512, 128, 16
"""Keys from which tiles outrun torch's fused attention on a processor, and from which they do where
heads are narrower than a vector of its registers (measured: docs/devlog.md)."""


class _Kernels:
    """The module of the Triton form, imported when it is first used."""

    def __getattr__(self, name: str):
        return getattr(importlib.import_module("sympformer.attention.kernels"), name)


SOFTMAX = {"naive": naive, "fused": fused, "tiled": tiled, "triton": _Kernels()}


class LinearForm(NamedTuple):
    """The operations of a form of linear attention."""

    weighted_sum: Callable[..., Tensor]
    solve: Callable[..., Tensor]
    delta_rule: Callable[..., tuple[Tensor | None, Tensor]]
    prefix_ridge: Callable[..., Tensor]
    momentum_delta: Callable[..., tuple[Tensor, tuple[Tensor, Tensor]]]


LINEAR = {
    "masked": LinearForm(masked, solve_dense, delta.masked, mesa.masked, momentum_delta.masked),
    "recurrent": LinearForm(
        recurrent, solve_dense, delta.recurrent, mesa.recurrent, momentum_delta.recurrent
    ),
    "chunked": LinearForm(
        chunked, solve_chunked, delta.chunked, mesa.chunked, momentum_delta.chunked
    ),
    "scan": LinearForm(scanned, solve_scanned, delta.scanned, mesa.scanned, momentum_delta.chunked),
}
NAMES = ("auto", *SOFTMAX, "sweep", *LINEAR)
"""All forms; one that is not of a model's kind of attention changes nothing in it."""


class _State(threading.local):
    """What `using` and `recorded` set: of each thread its own.

    Not a ContextVar, which torch's compiler can neither read nor guard. Attributes that are set for
    each instance it guards: a graph that was made for one form is not used for another.
    """

    def __init__(self):
        self.forced = "auto"
        self.used: set[str] | None = None
        self.compiled = False


_state = _State()


@contextmanager
def using(name: str) -> Iterator[None]:
    """Run every evaluation of this thread inside in the form `name`; "auto" lets each choose.

    A single query among earlier tokens, as in cached decoding, is always computed by the formula.

    Raises:
        InputError: there is no such form, or it cannot run here.
    """
    lookup(dict.fromkeys(NAMES), name, "attention form")
    if name == "triton" and not _has_triton():
        raise InputError("attention form 'triton' needs a CUDA device and `pip install triton`")
    if name == "scan" and not scan.available():
        raise InputError("attention form 'scan' needs a C++ compiler: install g++ or clang")
    before, _state.forced = _state.forced, name
    try:
        yield
    finally:
        _state.forced = before


@contextmanager
def recorded(compiled: bool = False) -> Iterator[set[str]]:
    """Collect which forms run inside, in this thread, each with the shapes that decided.

    `compiled` chooses as in blocks that are compiled, which this eager record stands for.
    """
    before = _state.used, _state.compiled
    used, _state.compiled = set(), compiled
    _state.used = used
    try:
        yield used
    finally:
        _state.used, _state.compiled = before


def average(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> Tensor:
    """`naive.average`, in the form that suits the arguments."""
    form = SOFTMAX[_choose(q, k, v, log_sum=False)]
    return form.average(q, k, v, causality=causality, scale=scale)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causality: Causality = "prefix", scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`naive.attend`, in the form that suits the arguments."""
    form = SOFTMAX[_choose(q, k, v, log_sum=True)]
    return form.attend(q, k, v, causality=causality, scale=scale)


def weighted_sum(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causality: Causality = "prefix",
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> Tensor:
    """`prefix_sums.masked`, in the form that is asked for."""
    _require_each(decay, k)
    if decay is not None and causality == "joint":
        raise InputError("a decay forgets along the text: it needs causality 'prefix'")
    form = _linear(q, v, "sums").weighted_sum
    return form(q, k, v, causality=causality, decay=decay, state=state)


def state_read(
    w: Tensor, k: Tensor, *, decay: Tensor | None = None, state: Tensor | None = None
) -> Tensor:
    """`S_i w_i = Σ_{j≤i} (w_i·w_j) k_j`, `(..., n, d)`: the state read from its other side.

    `w` is what the delta rule has written, `state` the same that it had, and `decay` one a head.
    """
    transposed = None if state is None else state.mT
    return weighted_sum(w, w, k, decay=decay, state=transposed)


def delta_rule(
    q: Tensor | None,
    k: Tensor,
    beta: Tensor,
    y: Tensor,
    *,
    decay: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """`delta.masked`, in the form that is asked for."""
    _require_each(decay, k)
    return _linear(k, y, "delta rules").delta_rule(q, k, beta, y, decay=decay, state=state)


def solve(
    k: Tensor,
    rho: Tensor,
    b: Tensor,
    *,
    causality: Causality = "prefix",
    state: Tensor | None = None,
) -> Tensor:
    """`prefix_solve.solve_dense`, in the form that is asked for."""
    return _linear(k, b, "systems").solve(k, rho, b, causality=causality, state=state)


def prefix_ridge(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ridge: Tensor,
    beta: Tensor | None = None,
    decay: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """`mesa.masked`, in the form that is asked for."""
    _require_each(decay, k)
    form = _linear(k, v, "ridge regressions").prefix_ridge
    return form(q, k, v, ridge=ridge, beta=beta, decay=decay, state=state)


def momentum_delta_rule(
    q: Tensor,
    k: Tensor,
    y: Tensor,
    *,
    beta: Tensor,
    eta: Tensor,
    mu: Tensor,
    decay: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`momentum_delta.masked`, in the form that is asked for."""
    _require_each(decay, k)
    form = _linear(k, y, "delta rules with momentum", scans=False).momentum_delta
    return form(q, k, y, beta=beta, eta=eta, mu=mu, decay=decay, state=state)


def _require_each(decay: Tensor | None, k: Tensor) -> None:
    """Refuse one decay for all tokens: forms sum over tokens, and would not sum it as often."""
    if decay is not None and decay.shape[-2] != k.shape[-2]:
        raise InputError(
            f"decay is of {decay.shape[-2]} tokens and k of {k.shape[-2]}: give one to each "
            "(decay.expand(-1, -1, n, -1))"
        )


def sweeps(q: Tensor, v: Tensor) -> bool:
    """Whether the accelerated layers run in one sweep (`sympformer.attention.sweep`)."""
    possible = q.device.type == "cpu" and q.ndim == 4 and q.shape[-2] > 1
    # A compiled block must be one graph; the sweep calls back into Python.
    compiled = _state.compiled or torch.compiler.is_compiling()
    if possible and _state.forced not in SOFTMAX and not compiled and not transformed(q, v):
        _note("sweep", q, v, "and values made of their averages")
        return True
    return False


def _choose(q: Tensor, k: Tensor, v: Tensor, *, log_sum: bool) -> str:
    forced = _state.forced
    name = forced if forced in SOFTMAX else _fastest(q, k, v, log_sum)
    if name == "fused" and log_sum:
        raise InputError(
            "attention form 'fused' gives no log-sum-exp, which the momentum form needs: choose "
            "naive or tiled"
        )
    if transformed(q, k, v):
        name = "naive"
    _note(name, q, v, "and log-sum-exp" if log_sum else "")
    return name


def _linear(q: Tensor, v: Tensor, what: str, *, scans: bool = True) -> LinearForm:
    name = _state.forced if _state.forced in LINEAR else "scan"
    if torch.compiler.is_exporting() and _state.forced not in LINEAR:
        name = "masked" if q.shape[-2] > 1 else "chunked"  # of a single token, without a system
    elif name == "scan" and not (scans and scan.suits(q, v)):
        name = "chunked"
    _note(name, q, v, f"in {what}")
    return LINEAR[name]


def _note(name: str, q: Tensor, v: Tensor, what: str) -> None:
    if _state.used is not None:
        dtype = str(q.dtype).removeprefix("torch.")
        where = f"({q.device.type} {dtype}, heads of width {q.shape[-1]})"
        parts = [name, f"for values of width {v.shape[-1]}", what, where]
        _state.used.add(" ".join(filter(None, parts)))


def _fastest(q: Tensor, k: Tensor, v: Tensor, log_sum: bool) -> str:
    if q.shape[-2] == 1:
        return "naive"  # one row of scores
    plain = not log_sum and v.shape[-1] <= q.shape[-1]
    if torch.compiler.is_exporting():
        return "fused" if plain else "naive"
    if q.device.type == "cpu":
        long = LONG_IF_NARROW if q.shape[-1] < NARROW else LONG
        return "fused" if plain and k.shape[-2] < long else "tiled"
    if plain:
        return "fused"
    fits = q.is_cuda and q.shape[-1] <= 256 and v.shape[-1] <= 512
    return "triton" if fits and _has_triton() else "tiled"


def _has_triton() -> bool:
    return torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
