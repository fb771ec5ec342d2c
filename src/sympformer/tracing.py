"""Looking inside a model: what every layer holds of a text, as arrays."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sympformer.errors import InputError
from sympformer.model import Block, LanguageModel
from sympformer.model.layers import Stream
from sympformer.model.oracle import AttentionOracle, OracleField
from sympformer.model.substeps import MomentumAttention


@dataclass(frozen=True)
class Trace:
    """A pass over tokens `(B, T)` through L layers: numpy arrays, float32 or better."""

    tokens: np.ndarray
    """Ids `(B, T)`."""
    positions: np.ndarray
    """`(L + 1, B, T, d)`: before the first layer, and behind each."""
    momenta: np.ndarray
    """As `positions`: momenta in momentum form, velocities in velocity form, 0 without dynamics."""
    kinetic: np.ndarray
    """`(L, B, T)`, of what comes to each layer: `½ p_i·ẋ_i` in momentum form (docs/maths.md, H of
    (S) and (L)), `½ |u_i|²` in velocity form (half of `s_i` of (U), with `B = I`)."""
    potential: np.ndarray
    """`(L, B, T)`, where each layer asks its attention first: `-½ Σ_h z_i^h` of softmax, `-½ x_iᵀV
    x_i` of linear attention and fast weights (docs/maths.md 2 and 3). Their matrices are not tied
    as in the theory, so it need not fall. NaN in a last layer that has no `V`, and of an attention
    of your own that does not say."""
    surprise: np.ndarray
    """`(B, T)`: `-log p` of each token given those before it, nats; NaN of the first."""
    gradients: np.ndarray | None
    """With targets, `(L + 1, B, T)`: the norm of the loss's gradient by each of `positions`."""
    parameter_gradients: np.ndarray | None
    """With targets: its norm by the parameters of each block; blocks that are looped count once."""
    _weights: "np.ndarray | str"

    @property
    def weights(self) -> np.ndarray:
        """How each head mixes the tokens, `(L, B, H, T, T)`, at a layer's first evaluation.

        The matrix `W` with `out = W v` in every head, before norm, gate and projection:

        - softmax: `W_ij = a_ij`, `softmax_j` of the scores; `v` are the values. Their mean is the
          attention, and the force of momentum form is made of it (docs/maths.md, (S')).
        - linear: `W_ij = scale · q_i·k_j / n_i`; `v` are the values, in momentum form the momenta
          `U_h p_j`, and `out` the velocity.
        - fast weights: `W_ij = q_iᵀ(∂S_i/∂y_j)`, what i reads of a one written by j alone; of the
          delta rule `W = tril(q kᵀ)(I + diag(β) stril(k kᵀ))⁻¹diag(β)`, with the decay between i
          and j inside both products. `v` as for linear attention.

        Raises:
            InputError: the attention mixes tokens otherwise than by a matrix.
        """
        if isinstance(self._weights, str):
            raise InputError(self._weights)
        return self._weights


def trace(
    model: nn.Module, tokens: Tensor | np.ndarray, targets: Tensor | np.ndarray | None = None
) -> Trace:
    """Run a model on a text and keep what it holds in every layer.

    It costs memory for T² weights a head and layer, and runs uncompiled.

    Args:
        model: one that `sympformer.build` made, or a run's.
        tokens: ids `(B, T)`.
        targets: ids `(B, T)`, -100 where none counts; with them there are gradients.

    Returns:
        Its states, weights, energies, surprise and gradients.

    Raises:
        InputError: a model that is not made of our layers, or that makes an ensemble of every
            prefix; ids that the model refuses.
    """
    if not isinstance(model, LanguageModel):
        raise InputError(
            f"{type(model).__name__} is not made of layers of sympformer, and has no states that "
            "are known here: trace one of sympformer.build"
        )
    if model.config.causality == "ensembles":
        raise InputError(
            "causality = 'ensembles' makes an ensemble of every prefix, so a token has no one "
            "state in a layer: trace a model with causality 'prefix' or 'joint'"
        )
    device = next(model.parameters()).device
    ids = torch.as_tensor(tokens, device=device)
    wanted = None if targets is None else torch.as_tensor(targets, device=device)
    seen = _Seen()
    with torch.set_grad_enabled(wanted is not None), torch.compiler.set_stance("force_eager"):
        with seen.watching(model):
            out = model(ids, targets=wanted, use_cache=False)
        surprise = F.cross_entropy(out.logits[:, :-1].mT.detach(), ids[:, 1:], reduction="none")
        of_positions = of_parameters = None
        if wanted is not None:
            of_positions, of_parameters = _gradients(out.loss, seen, model)
    with torch.no_grad():
        kinetic, potential = zip(*(call.energies() for call in seen.calls), strict=True)
        return Trace(
            tokens=ids.cpu().numpy(),
            positions=_stacked([s.x for s in seen.streams]),
            momenta=_stacked([s.p for s in seen.streams]),
            kinetic=_stacked(kinetic),
            potential=_stacked(potential),
            surprise=_array(F.pad(surprise, (1, 0), value=float("nan"))),
            gradients=of_positions,
            parameter_gradients=of_parameters,
            _weights=_weights(seen.calls),
        )


@dataclass
class _Call:
    """A layer's first evaluation of its attention."""

    p: Tensor
    """Momenta that come to the layer."""
    in_momentum_form: bool
    field: Any = None
    name: str = ""

    def energies(self) -> tuple[Tensor, Tensor]:
        """Kinetic and potential energy, `(B, T)`; NaN where the attention does not say."""
        velocity = self.field.velocity(self.p) if self.in_momentum_form else self.p
        kinetic = (self.p * velocity).sum(-1) / 2
        try:
            return kinetic, self.field.energy()
        except NotImplementedError:
            return kinetic, torch.full_like(kinetic, float("nan"))


class _Seen:
    """What a pass shows: the stream before and behind every layer, and the fields between."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.calls: list[_Call] = []

    @contextmanager
    def watching(self, model: LanguageModel) -> Iterator[None]:
        """Watch what passes through the model, inside."""
        handles = [model.inputs.register_forward_hook(self._begin)]
        for block in model.blocks:
            handles += [
                block.register_forward_pre_hook(self._enter),
                block.register_forward_hook(self._leave),
            ]
        oracles = [m for m in model.modules() if isinstance(m, AttentionOracle)]
        handles += [oracle.register_forward_hook(self._asked) for oracle in oracles]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, _: nn.Module, __: Any, stream: Stream) -> Stream:
        if torch.is_grad_enabled() and not stream.x.requires_grad:  # of a model that is not trained
            stream = stream._replace(x=stream.x.detach().requires_grad_())
        self.streams.append(stream)
        return stream

    def _enter(self, block: Block, arguments: tuple[Stream]) -> None:
        form = isinstance(block.attention, MomentumAttention)
        self.calls.append(_Call(arguments[0].p, form))

    def _leave(self, _: nn.Module, __: Any, stream: Stream) -> None:
        self.streams.append(stream)

    def _asked(self, oracle: AttentionOracle, _: Any, field: OracleField) -> None:
        if self.calls[-1].field is None:
            self.calls[-1].field, self.calls[-1].name = field, type(oracle).__name__


def _gradients(loss: Tensor, seen: _Seen, model: LanguageModel) -> tuple[np.ndarray, np.ndarray]:
    """Norms of the loss's gradient by positions, and by the parameters of each block."""
    positions = [stream.x for stream in seen.streams]
    blocks = [[p for p in block.parameters() if p.requires_grad] for block in model.blocks]
    flat = [p for parameters in blocks for p in parameters]
    found = iter(torch.autograd.grad(loss, [*positions, *flat], allow_unused=True))
    of_positions = [torch.linalg.vector_norm(_found(next(found), x), dim=-1) for x in positions]
    norms = []
    for parameters in blocks:
        each = [torch.linalg.vector_norm(_found(next(found), p)) for p in parameters]
        norms.append(torch.stack(each).norm() if each else loss.new_zeros(()))
    return _stacked(of_positions), _stacked(norms)


def _found(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def _weights(calls: list[_Call]) -> "np.ndarray | str":
    """Of every layer; or why there are none."""
    try:
        return _stacked([call.field.weights() for call in calls])
    except NotImplementedError:
        return (
            f"{calls[0].name} gives no weights: its field has no method weights() (see "
            "sympformer.model.oracle.OracleField), for attention that mixes tokens by a matrix"
        )


def _stacked(tensors: Any) -> np.ndarray:
    return np.stack([_array(tensor) for tensor in tensors])


def _array(tensor: Tensor) -> np.ndarray:
    """On the CPU, in float32 or better."""
    tensor = tensor.detach()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).cpu().numpy()
