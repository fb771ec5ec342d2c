"""What R2 does between its two averages, with its derivative: a sweep runs it tile by tile."""

from collections.abc import Sequence

from torch import Tensor

from sympformer.attention.softmax import connection_values, speed
from sympformer.model.layers import merge_heads, split_heads
from sympformer.products import linear, product


class Proposal:
    """`W = β p + γ Σ_h O_h Att^h` of some tokens, and the values that `C(W)` averages.

    The derivative is written out because autograd would make everything a second time, and take a
    dozen small steps for each of these.
    """

    def __init__(self, n_head: int):
        self.n_head = n_head

    def __call__(
        self,
        attention: Tensor,
        _: Tensor,
        p: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        gamma: Tensor,
        out: Tensor,
        key: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The values `(B, H, n, 3d)` and `W`, `(B, n, d)`; see `sympformer.attention.sweep`."""
        w = beta * p + gamma * linear(merge_heads(attention), out)
        return connection_values(k, v, split_heads(linear(w, key), self.n_head), speed(w)), w

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], incoming: Sequence[Tensor | None]
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs, given the outputs and their gradients."""
        attention, _, p, k, v, beta, gamma, out, key = inputs
        w, (values, g_w) = outputs[1], incoming
        assert values is not None
        g_k, g_ku, g_sv = values.split([k.shape[-1], k.shape[-1], v.shape[-1]], dim=-1)
        g_speed = (g_sv * v).sum((-3, -1)).unsqueeze(-1) / -2
        g_ku = merge_heads(g_ku)
        slope = 2 * g_speed * w + linear(g_ku, key.mT)
        if g_w is not None:
            slope = slope + g_w
        rows, merged = slope.flatten(0, -2), merge_heads(attention)
        g_out = product(rows.mT, merged.flatten(0, -2).mT)
        return (
            split_heads(gamma * linear(slope, out.mT), self.n_head),
            None,
            beta * slope,
            g_k,
            speed(w) / -2 * g_sv,
            (slope * p).sum(),
            (g_out * out).sum(),
            gamma * g_out,
            product(g_ku.flatten(0, -2).mT, w.flatten(0, -2).mT),
        )
