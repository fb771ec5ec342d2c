"""Attention as functions, for models of one's own: the fields of the theory, head by head.

Every argument and result is `(B, H, T, d)`, heads a leading axis, for T tokens of which token i
sees the tokens j ≤ i, or all with `causality="joint"`. All are differentiable; which form computes
them is chosen by `sympformer.attention.forms`. Shapes that do not fit, and options that there are
not, raise an `InputError` of one line.
"""

import math

from torch import Tensor

from sympformer.attention.arguments import check_options, check_shapes
from sympformer.attention.linear import LinearField, SteinMetric
from sympformer.attention.naive import Causality
from sympformer.attention.softmax import Normalizer, SoftmaxField
from sympformer.errors import InputError


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, causality: Causality = "prefix"
) -> Tensor:
    """q, k `(B, H, T, d)`, v `(B, H, T, e)` to `(B, H, T, e)`: plain attention, `Σ_j a_ij v_j`.

    Args:
        q: queries; fewer than keys, they are those of the newest tokens.
        k: keys.
        v: values.
        scale: factor of the scores; `1/√d` if not given.
        causality: which tokens are summed over.
    """
    check_options(scale=scale, causality=causality)
    check_shapes({"k": (k, "d"), "q": (q, "d"), "v": (v, "e")}, fewer=("q",))
    return SoftmaxField(q, k, v, scale=_scale(q, scale), causality=causality).attention


def softmax_momentum(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pi: Tensor,
    *,
    scale: float | None = None,
    causality: Causality = "prefix",
    normalizer: Normalizer = "prefix",
) -> tuple[Tensor, Tensor]:
    """q, k `(B, H, T, d)`, v, pi `(B, H, T, e)` to velocity and force, `(B, H, T, e)`: (S').

    The velocity is `π_i / z_i`, the force `z_i Σ_j a_ij (1 + (s_i + s_j)/2) v_j` with
    `s_i = |π_i / z_i|²`; damping is left to the discretisation (docs/maths.md, S').

    Args:
        q: queries.
        k: keys.
        v: values.
        pi: momenta, projected to the head.
        scale: factor of the scores; `1/√d` if not given.
        causality: which tokens are summed over.
        normalizer: `z_i` averages over the visible tokens ("prefix"), or over T ("length").
    """
    check_options(scale=scale, causality=causality, normalizer=normalizer)
    check_shapes({"q": (q, "d"), "k": (k, "d"), "v": (v, "e"), "pi": (pi, "e")})
    options = {"scale": _scale(q, scale), "causality": causality, "normalizer": normalizer}
    field = SoftmaxField(q, k, v, **options)
    return field.velocity(pi), field.force(pi)


def softmax_velocity(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    qu: Tensor,
    ku: Tensor,
    s: Tensor,
    *,
    scale: float | None = None,
    causality: Causality = "prefix",
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, qu, ku `(B, H, T, d)`, v `(B, H, T, e)`, s `(B, 1, T, 1)` to attention and connection.

    The velocity form (docs/maths.md, U): `u̇ = Att - C(u)`. The results are `Att`, `(B, H, T, e)`;
    `c`, `(B, H, T, 1)`; and a pull `(B, H, T, e)`: `C(u) = c u + (the pull, projected as Att is)`.

    Args:
        q: queries.
        k: keys.
        v: values.
        qu: the velocity seen as a query, `W_Q u`.
        ku: the velocity seen as a key, `W_K u`.
        s: `uᵀB⁻¹u`, one for all heads; `|u|²` for `B = I`.
        scale: factor of the scores; `1/√d` if not given.
        causality: which tokens are summed over.
    """
    check_options(scale=scale, causality=causality)
    check_shapes(
        {"q": (q, "d"), "k": (k, "d"), "v": (v, "e"), "qu": (qu, "d"), "ku": (ku, "d")}
        | {"s": (s, "1")}
    )
    field = SoftmaxField(q, k, v, scale=_scale(q, scale), causality=causality)
    c, pull = field.connection(qu, ku, s)
    return field.attention, c, pull


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, causality: Causality = "prefix"
) -> Tensor:
    """q, k `(B, H, T, d)`, v `(B, H, T, e)` to `(B, H, T, e)`: `(scale/n_i) Σ_j (q_i·k_j) v_j`.

    Time and memory are linear in T. Arguments as in `softmax_attention`, with as many queries as
    keys.
    """
    check_options(scale=scale, causality=causality)
    check_shapes({"q": (q, "d"), "k": (k, "d"), "v": (v, "e")})
    return LinearField(q, k, scale=_scale(q, scale), causality=causality).attention(v)


def linear_momentum(
    q: Tensor, k: Tensor, pi: Tensor, *, scale: float | None = None, causality: Causality = "prefix"
) -> tuple[Tensor, Tensor]:
    """q, k `(B, H, T, d)`, pi `(B, H, T, e)` to a velocity `(…, e)` and a repulsion `(…, d)`: (L).

    The velocity is `(scale/n_i) Σ_j (q_i·k_j) π_j`, the repulsion `(scale/n_i) Σ_j (π_i·π_j) k_j`;
    the force on a query is minus the repulsion, plus that of the potential (docs/maths.md, L).

    Args:
        q: queries.
        k: keys.
        pi: momenta, projected to the head.
        scale: factor of the kernel; `1/√d` if not given.
        causality: which tokens are summed over.
    """
    check_options(scale=scale, causality=causality)
    check_shapes({"q": (q, "d"), "k": (k, "d"), "pi": (pi, "e")})
    field = LinearField(q, k, scale=_scale(q, scale), causality=causality)
    return field.velocity(pi), field.repulsion(pi)


def linear_metric(
    k: Tensor,
    ku: Tensor,
    u: Tensor,
    *,
    ridge: float,
    scale: float | None = None,
    causality: Causality = "prefix",
) -> SteinMetric:
    """k, ku `(B, H, T, d)`, u `(B, H, T, e)` to the metric of linear attention at that velocity.

    It holds `pi`, `(B, H, T, e)`, the momentum with `u_i = (1/n_i) Σ_j k_ij π_j + ridge π_i`; its
    `repulsion()`, `(B, H, T, d)`; and `connection(g)`, `(B, H, T, e)`, `C(u)` for the repulsion
    projected to `g` (docs/linear.md).

    Args:
        k: keys; the kernel is `scale · k_i·k_j`.
        ku: the velocity seen as a key.
        u: velocities.
        ridge: share of the identity, greater than 0.
        scale: factor of the kernel; `1/√d` if not given.
        causality: which tokens are summed over.
    """
    check_options(scale=scale, causality=causality, ridge=ridge)
    if not ridge > 0:
        raise InputError(f"ridge must be greater than 0, not {ridge}")
    check_shapes({"k": (k, "d"), "ku": (ku, "d"), "u": (u, "e")})
    return SteinMetric(k, ku, u, scale=_scale(k, scale), ridge=ridge, causality=causality)


def _scale(q: Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale
