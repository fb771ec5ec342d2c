"""What an attention oracle must hold."""

import math
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sympformer.attention import forms
from sympformer.attention.past import NoPast, Past
from sympformer.dynamics.trial import Calls
from sympformer.errors import InputError, one_line, shown
from sympformer.model.cache import Cache, Recorder
from sympformer.model.oracle import MOVING, AttentionOracle, Cost, Reads, require_readings
from sympformer.testing.reported import reported

TOKENS, D = 9, 8
NEAR = 0.75
"""How far a number of maps may be from what is measured."""
SPLITS = ((1, 8), (5, 4), (1,) * 9, (2, 3, 1, 3))
"""How a text is fed in pieces, each behind the cache of those before."""


def check_oracle(oracle: type[AttentionOracle], *, n_head: int = 2, **options: Any) -> None:
    """Causality, caches, padding, precision, initialisation, gradients and cost, in every reading.

    Args:
        oracle: the class, as `register_attention` takes it.
        n_head: attention heads, in a width of 8.
        options: of its constructor.

    Raises:
        AssertionError: one of them does not hold.
    """
    fits = isinstance(oracle, type) and issubclass(oracle, AttentionOracle)
    assert fits, f"check_oracle takes a class below AttentionOracle, not {shown(oracle)}"
    options["n_head"] = n_head
    name = oracle.__name__
    with torch.random.fork_rng(devices=[]), reported(name):
        require_readings(oracle)
        for reads in get_args(Reads):
            if reads in oracle.answers:
                _check_reading(oracle, reads, options, f"{name} read for {reads}")
                continue
            try:
                oracle(D, reads=reads, **options)
            except InputError:
                continue
            raise AssertionError(
                f"{name} does not answer {reads} and is built for it: hand `reads` on to super()"
            )


def _check_reading(
    oracle: type[AttentionOracle], reads: Reads, options: dict[str, Any], what: str
) -> None:
    def make() -> AttentionOracle:
        torch.manual_seed(0)
        return oracle(D, reads=reads, **options)

    made = make()
    _check_initialisation(make, made, what)
    _check_cost(made, reads, what)
    _check_precision(made, reads, what)
    made = made.double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) / 2)
    _check_causality(made, reads, what)
    _check_cache(made, reads, what)
    _check_padding(made, reads, what)
    _check_gradients(made, reads, what)


def _tokens(dtype: torch.dtype = torch.float64) -> Tensor:
    """Positions and momenta, `(2, B, T, d)`."""
    draw = torch.Generator().manual_seed(2)
    return torch.randn(2, 2, TOKENS, D, generator=draw, dtype=torch.float64).to(dtype)


def _results(oracle: AttentionOracle, xp: Tensor, reads: Reads, past: Past) -> dict[str, Tensor]:
    """What a layer reads of one evaluation at positions and momenta `(2, B, T, d)`."""
    x, p = xp
    field = oracle(x, past)
    if reads == "drift":
        return {"velocity": field.velocity(p)}
    if reads in ("momentum", "both"):
        read = {"force": field.force(p), "velocity": field.velocity(p)}
        return read if reads == "momentum" else {**read, "attention": field.attention()}
    if reads == "connection":
        return {"connection": field.connection(p), "attention": field.attention()}
    return {"attention": field.attention()}


def _check_initialisation(
    make: Callable[[], AttentionOracle], made: AttentionOracle, what: str
) -> None:
    """Built without memory, emptied and reset, it is the same oracle from the same seed."""
    expected = {name: value.clone() for name, value in made.state_dict().items()}
    with torch.device("meta"):
        bare = make()
    bare.to_empty(device="cpu")
    with torch.no_grad():
        for value in bare.state_dict().values():
            if value.is_floating_point():
                value.fill_(math.nan)
    torch.manual_seed(0)
    for module in bare.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    for name, value in bare.state_dict().items():
        assert not value.isnan().any(), (
            f"{what}: {name} is not initialised by its module's reset_parameters"
        )
        assert torch.equal(value, expected[name]), (
            f"{what}: reset_parameters makes another {name} than building does, from one seed"
        )


def _check_cost(made: AttentionOracle, reads: Reads, what: str) -> None:
    momenta = reads in MOVING
    calls = Calls(1, int(momenta), int(momenta and reads != "drift"), int(momenta))
    cost, refusal = None, ""
    try:
        cost = made.cost(calls)
    except InputError as error:
        refusal = str(error)
    except Exception as error:  # whatever the oracle raises
        raise AssertionError(f"{what}: cost() fails: {one_line(error)}") from error
    assert "\n" not in refusal, f"{what}: cost() refuses in more than one line"
    if cost is None:
        return
    assert all(math.isfinite(number) and number >= 0 for number in cost), (
        f"{what}: cost() is {cost}, not numbers of at least 0"
    )
    assert cost.maps or cost.pairs or cost.states, f"{what}: cost() counts nothing"
    _check_measured(made, reads, cost, what)


def _check_measured(made: AttentionOracle, reads: Reads, cost: Cost, what: str) -> None:
    """Against the products that torch counts, in the naive forms.

    Of a single token these are hardly more than the maps. How fast they grow with pairs of tokens
    bounds those: the naive form makes more than it has to, and what torch does not count (a fused
    attention on the CPU) makes none. States are computed in too many ways to be bounded.
    """

    def counted(tokens: int) -> tuple[float, float]:
        """Operations for one row: in products with matrices of weights, and in all."""
        xp = torch.zeros(2, 1, tokens, D)
        with torch.no_grad(), forms.using("naive"), FlopCounterMode(display=False) as counter:
            _results(made, xp, reads, NoPast())
        by_kind = counter.get_flop_counts().get("Global", {})
        maps = sum(n for op, n in by_kind.items() if str(op) in ("aten.mm", "aten.addmm"))
        return maps, counter.get_total_flops()

    low, high = (flops / (2 * D**2) for flops in counted(1))
    assert low - NEAR <= cost.maps <= high + NEAR, (
        f"{what}: cost() says {cost.maps:g} maps, measured are {low:g} to {high:g}"
    )
    totals = [counted(tokens)[1] for tokens in (8, 16, 24)]
    pairs = (totals[2] - 2 * totals[1] + totals[0]) / (2 * 8**2) / (2 * D)
    if pairs and not cost.states:
        assert 0.75 * cost.pairs <= pairs <= 4 * cost.pairs, (
            f"{what}: cost() says {cost.pairs:g} pairs, measured are {pairs:g} in the naive form"
        )


@torch.no_grad()
def _check_causality(oracle: AttentionOracle, reads: Reads, what: str) -> None:
    xp = _tokens()
    whole = _results(oracle, xp, reads, NoPast())
    for part, result in whole.items():
        assert result.shape == xp[0].shape, (
            f"{what}: its {part} is {tuple(result.shape)}, not (B, T, d) = {tuple(xp[0].shape)}"
        )
    again = _results(oracle, xp, reads, NoPast())
    for part, result in whole.items():
        assert torch.equal(result, again[part]), f"{what}: its {part} is another the second time"
    for j in range(1, TOKENS):
        changed = xp.clone()
        changed[:, :, j] += 1
        for part, result in _results(oracle, changed, reads, NoPast()).items():
            moved = (result - whole[part])[:, :j].abs().max().item()
            assert moved == 0, f"{what}: changing token {j} moves an earlier {part} by {moved:.2g}"
        for part, result in _results(oracle, xp[:, :, :j], reads, NoPast()).items():
            off = (result - whole[part][:, :j]).abs().max().item()
            assert off < 1e-9, (
                f"{what}: the {part} of the first {j} tokens alone is off by {off:.2g}"
            )


@torch.no_grad()
def _check_cache(oracle: AttentionOracle, reads: Reads, what: str) -> None:
    xp = _tokens()
    whole = _results(oracle, xp, reads, NoPast())
    for pieces in SPLITS:
        cache, start = None, 0
        for n in pieces:
            recorder, end = Recorder(cache), start + n
            for part, result in _results(
                oracle, xp[:, :, start:end], reads, recorder.part("here")
            ).items():
                off = (result - whole[part][:, start:end]).abs().max().item()
                assert off < 1e-9, (
                    f"{what}: behind a cache of {start} tokens its {part} is off by {off:.2g}"
                )
            cache, start = recorder.cache(n), end


@torch.no_grad()
def _check_padding(oracle: AttentionOracle, reads: Reads, what: str) -> None:
    """The second of two rows has padding on the left, which changes nothing behind it."""
    xp, n = _tokens(), 3
    alone = _results(oracle, xp[:, 1:, n:], reads, NoPast())
    cache = Cache(padding=torch.tensor([0, n]))
    for pieces in ((TOKENS,), (n + 2, TOKENS - n - 2)):
        after, got = cache, []
        for piece in xp.split(pieces, dim=2):
            recorder = Recorder(after)
            got.append(_results(oracle, piece, reads, recorder.part("here")))
            after = recorder.cache(piece.shape[2])
        for part, expected in alone.items():
            result = torch.cat([results[part] for results in got], dim=1)
            off = (result[1:, n:] - expected).abs().max().item()
            assert off < 1e-9, (
                f"{what}: padding before a text moves its {part} by {off:.2g}: see "
                "sympformer.attention.past"
            )


@torch.no_grad()
def _check_precision(oracle: AttentionOracle, reads: Reads, what: str) -> None:
    exact = _results(oracle.double(), _tokens(), reads, NoPast())
    for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, 0.3)):
        low = _results(oracle.to(dtype), _tokens(dtype), reads, NoPast())
        for part, result in low.items():
            assert result.isfinite().all(), f"{what}: its {part} is not finite in {dtype}"
            off = ((result.double() - exact[part]).norm() / (exact[part].norm() + 1e-9)).item()
            assert off < allowed, f"{what}: its {part} in {dtype} is off by {off:.2g} of its size"


def _check_gradients(oracle: AttentionOracle, reads: Reads, what: str) -> None:
    """Every parameter has one, and all are those of finite differences."""
    xp = _tokens()[:, :1, :4].clone().requires_grad_()
    weights: dict[str, nn.Parameter] = dict(oracle.named_parameters())

    def total() -> Tensor:
        results = _results(oracle, xp, reads, NoPast()).values()
        return torch.stack([(r * (1 + r)).sum() for r in results]).sum()

    inputs = {"the tokens": xp, **weights}
    gradients = torch.autograd.grad(total(), list(inputs.values()), allow_unused=True)
    idle = [
        name
        for name, gradient in zip(inputs, gradients, strict=True)
        if gradient is None or not gradient.any()
    ]
    assert not idle, f"{what}: nothing depends on {', '.join(idle)}"
    for (name, value), gradient in zip(inputs.items(), gradients, strict=True):
        draw = torch.Generator().manual_seed(3)
        direction = torch.randn(value.shape, generator=draw, dtype=torch.float64)
        slopes, kept, step = [], value.detach().clone(), 1e-6
        with torch.no_grad():
            for sign in (1, -1):
                value.copy_(kept + sign * step * direction)
                slopes.append(total().item())
            value.copy_(kept)
        slope = (slopes[0] - slopes[1]) / (2 * step)
        got = (gradient * direction).sum().item()
        assert math.isclose(got, slope, rel_tol=1e-4, abs_tol=1e-6), (
            f"{what}: the gradient to {name} is {got:.6g} in a direction of slope {slope:.6g}"
        )
