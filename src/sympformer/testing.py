"""What a scheme, an attention or a model must hold, as tests for those who write their own.

Each check raises an `AssertionError` of one line that says what is wrong, and returns nothing.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sympformer.attention.past import NoPast, Past
from sympformer.causality import audit
from sympformer.dynamics import Scheme, damping, integrate
from sympformer.dynamics.trial import Calls, factors
from sympformer.model.cache import Recorder
from sympformer.model.oracle import AttentionOracle

TOKENS, D, HEADS = 9, 8, 2


def check_scheme(scheme: type[Scheme]) -> None:
    """Order, evaluations of the kernel, damping that can be had beforehand, gradients.

    Args:
        scheme: the class, as `register_scheme` takes it.

    Raises:
        AssertionError: one of them is not what the class says.
    """
    name = scheme.__name__
    rate = damping("loglinear", c_log=1.5, c_lin=0.3)
    made, start = scheme(rate), torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)

    def curved(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return (1 + x**2) * p, -x * p**2 - x.sin()

    def end(steps: int) -> Tensor:
        path = integrate(curved, start, start.flip(0), scheme, rate, h=2 / steps, steps=steps)
        return torch.stack([path[0][-1], path[1][-1]])

    counts = [64, 128, 256]
    states = [end(n) for n in (*counts, 4096)]
    for i, variable in enumerate(("positions", "momenta")):
        errors = [(s[i] - states[-1][i]).norm().item() for s in states[:-1]]
        order = math.log2(errors[0] / errors[-1]) / 2
        assert abs(order - scheme.order) < 0.2, (
            f"{name} says order {scheme.order}, its {variable} have order {order:.2f}"
        )
    calls = Calls.of(scheme)
    assert calls.fields == scheme.evaluations, (
        f"{name} says {scheme.evaluations} evaluations of the kernel a step and makes "
        f"{calls.fields}"
    )
    t = torch.tensor([1.0, 1.5])
    for step in factors(scheme, rate, t, torch.tensor([0.5, 0.3])):
        for question, answers in step.items():
            assert all(torch.as_tensor(a).shape == t.shape for a in answers), (
                f"{name} asks its damping for {question} at times that are not those of its step"
            )
    h = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    path = integrate(curved, start, start.flip(0), scheme, rate, h=h, steps=2)
    path[0].sum().backward()
    assert h.grad is not None, f"{name} hands no gradient on to its step size"
    assert made == scheme(rate), f"{name} keeps something between steps: use its memory"


def check_oracle(oracle: type[AttentionOracle], **options: Any) -> None:
    """Causality, caches, precision, initialisation and gradients, in every reading it answers.

    Args:
        oracle: the class, as `register_attention` takes it.
        options: of its constructor.

    Raises:
        AssertionError: one of them does not hold.
    """
    for reads in sorted(oracle.answers):
        torch.manual_seed(0)
        made = oracle(D, HEADS, reads=reads, **options)
        what = f"{oracle.__name__} read for {reads}"
        torch.manual_seed(1)
        with torch.device("meta"):
            bare = oracle(D, HEADS, reads=reads, **options)
        bare.to_empty(device="cpu")
        for module in bare.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        assert all(p.isfinite().all() for p in bare.parameters()), (
            f"{what}: a parameter is not initialised by its module's reset_parameters"
        )
        _check_precision(made, reads, what)
        made = made.double()
        with torch.no_grad():
            for p in made.parameters():
                p.add_(torch.randn_like(p) / 2)
        _check_causality(made, reads, what)
        results = _results(made, _tokens(), reads, NoPast())
        torch.stack([r.square().sum() for r in results]).sum().backward()
        idle = [n for n, p in made.named_parameters() if p.grad is None]
        assert not idle, f"{what}: nothing depends on {', '.join(idle)}"


def check_model(model: nn.Module, vocab_size: int | None = None) -> None:
    """The audit; and, if it takes targets, that its loss is the cross-entropy of its logits.

    Args:
        model: from ids `(B, T)` to logits `(B, T, V)`, in any form that `sf.audit` takes.
        vocab_size: V; by default `model.config.vocab_size`.

    Raises:
        AssertionError: it is no sound decoder, or its loss is another.
    """
    report = audit(model, 12, vocab_size=vocab_size)
    assert report.passed, report.verdict
    size = vocab_size or model.config.vocab_size  # pyright: ignore[reportAttributeAccessIssue]
    ids = torch.randint(int(size), (2, 9))  # pyright: ignore[reportArgumentType]
    try:
        with torch.no_grad():
            out, logits = model(ids, ids), getattr(model(ids), "logits", None)
    except TypeError:
        return
    loss = getattr(out, "loss", out)
    if isinstance(logits, Tensor) and isinstance(loss, Tensor) and loss.ndim == 0:
        expected = nn.functional.cross_entropy(logits.flatten(0, 1).double(), ids.flatten())
        assert torch.isclose(loss.double(), expected, rtol=1e-4), (
            f"the loss given targets is {loss.item():.6g}, the cross-entropy of the logits "
            f"{expected.item():.6g}"
        )


def _tokens(dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(2, 2, TOKENS, D, generator=draw, dtype=torch.float64).to(dtype)


def _results(oracle: AttentionOracle, xp: Tensor, reads: str, past: Past) -> list[Tensor]:
    """What a layer reads of one evaluation at positions and momenta `(2, B, T, d)`."""
    x, p = xp
    field = oracle(x, past)
    if reads == "drift":
        return [field.velocity(p)]
    if reads == "momentum":
        return [field.force(p), field.velocity(p)]
    return (
        [field.connection(p), field.attention()] if reads == "connection" else [field.attention()]
    )


@torch.no_grad()
def _check_causality(oracle: AttentionOracle, reads: str, what: str) -> None:
    xp = _tokens()
    whole = _results(oracle, xp, reads, NoPast())
    assert all(r.shape == xp[0].shape for r in whole), f"{what}: results are not (B, T, d)"
    for j in range(1, TOKENS):
        changed = xp.clone()
        changed[:, :, j] += 1
        for got, want in zip(_results(oracle, changed, reads, NoPast()), whole, strict=True):
            moved = (got - want)[:, :j].abs().max().item()
            assert moved == 0, f"{what}: changing token {j} moves an earlier one by {moved:.2g}"
    for split in (1, 5):
        first = Recorder()
        _results(oracle, xp[:, :, :split], reads, first.part("here"))
        rest = Recorder(first.cache(split)).part("here")
        got = _results(oracle, xp[:, :, split:], reads, rest)
        for a, b in zip(got, whole, strict=True):
            off = (a - b[:, split:]).abs().max().item()
            assert off < 1e-9, (
                f"{what}: behind a cache of {split} tokens the rest is off by {off:.2g}"
            )


@torch.no_grad()
def _check_precision(oracle: AttentionOracle, reads: str, what: str) -> None:
    exact = _results(oracle.double(), _tokens(), reads, NoPast())
    for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, 0.3)):
        low = _results(oracle.to(dtype), _tokens(dtype), reads, NoPast())
        for a, b in zip(low, exact, strict=True):
            off = ((a.double() - b).norm() / (b.norm() + 1e-9)).item()
            assert off < allowed, f"{what} in {dtype}: off by {off:.2g} of its size"
