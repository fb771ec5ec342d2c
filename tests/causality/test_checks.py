import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sympformer.causality import AuditReport, audit
from sympformer.errors import InputError

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "published_construction.py"
VOCABULARY = 11
LOOKED_AT = 37


class Toy(nn.Module):
    """Embedding, causal mean of the past, a linear head; subclasses add one fault each."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=VOCABULARY, block_size=64)
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.fault(self.hidden(self.embedding(tokens))))

    def hidden(self, e: Tensor) -> Tensor:
        return e + torch.tanh(self.mix(self.mean(e)))

    def mean(self, e: Tensor) -> Tensor:
        return e.cumsum(1) / torch.arange(1, e.shape[1] + 1, dtype=e.dtype)[:, None]

    def fault(self, h: Tensor) -> Tensor:
        return h


class Bidirectional(Toy):
    def mean(self, e: Tensor) -> Tensor:
        return e.mean(1, keepdim=True).expand_as(e)


class TinyShift(Toy):
    """One channel in eight receives a millionth of the next token."""

    def fault(self, h: Tensor) -> Tensor:
        following = torch.cat([h[:, 1:, :1], torch.zeros_like(h[:, :1, :1])], dim=1)
        return torch.cat([h[..., :1] + 1e-6 * following, h[..., 1:]], dim=-1)


class ClosedGate(Toy):
    """The leak is multiplied by a parameter that starts at zero."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def fault(self, h: Tensor) -> Tensor:
        return h + self.gate * h.mean(1, keepdim=True)


class Rounded(Toy):
    """A step function of the later tokens: it has an influence and no gradient."""

    def fault(self, h: Tensor) -> Tensor:
        return h + h.sum(1, keepdim=True).round()


class OneLook(Toy):
    """A single output sees a single later token."""

    def fault(self, h: Tensor) -> Tensor:
        seen = torch.zeros_like(h)
        if h.shape[1] > LOOKED_AT + 1:
            seen[:, LOOKED_AT] = self.seen(h[:, LOOKED_AT + 1])
        return h + seen

    def seen(self, h: Tensor) -> Tensor:
        return h


class OneLookWithoutGradient(OneLook):
    def seen(self, h: Tensor) -> Tensor:
        return 10 * h.detach()


class OneLookWithoutInfluence(OneLook):
    def seen(self, h: Tensor) -> Tensor:
        return h - h.detach()


class Normed(Toy):
    """Rows look at each other, at the same position."""

    def fault(self, h: Tensor) -> Tensor:
        return h - h.mean(0)


class Vanishing(Toy):
    """A leak too small for any influence in float64, but with a gradient."""

    def fault(self, h: Tensor) -> Tensor:
        following = torch.cat([h[:, 1:], torch.zeros_like(h[:, :1])], dim=1)
        return h + (following - following.detach())


class Padded(Rounded):
    """The last id is masked by a huge constant, which dwarfs the leak."""

    def forward(self, tokens: Tensor) -> Tensor:
        logits = super().forward(tokens)
        return torch.cat([1e-3 * logits[..., :-1], torch.full_like(logits[..., :1], -1e12)], dim=-1)


class LengthNormalised(Toy):
    """As with z divided by T: later tokens change nothing, their number does."""

    def mean(self, e: Tensor) -> Tensor:
        return e.cumsum(1) / e.shape[1]


class Exploding(Toy):
    """Small with its own weights, huge with larger ones, infinite with large ones."""

    def __init__(self):
        super().__init__()
        nn.init.constant_(self.mix.weight, 0.1)

    def fault(self, h: Tensor) -> Tensor:
        return h * torch.exp(1e3 * (self.mix.weight.abs().max() - 0.5).clamp(min=0))


class Cached(Toy):
    """The cache is the sum of the embeddings and their number."""

    def forward(self, tokens: Tensor, cache: tuple[Tensor, int] | None = None) -> SimpleNamespace:
        e = self.embedding(tokens)
        total, n = (torch.zeros_like(e[:, 0]), 0) if cache is None else cache
        total, n = self.advance(total, e, n)
        counts = torch.arange(n - e.shape[1] + 1, n + 1, dtype=e.dtype)[:, None]
        h = e + torch.tanh(self.mix(total / counts))
        return SimpleNamespace(logits=self.head(h), cache=self.kept(total, n))

    def advance(self, total: Tensor, e: Tensor, n: int) -> tuple[Tensor, int]:
        return total[:, None] + e.cumsum(1), n + e.shape[1]

    def kept(self, total: Tensor, n: int) -> tuple[Tensor, int]:
        return total[:, -1], n


class ForgetfulCache(Cached):
    """Keeps the last token only."""

    def kept(self, total: Tensor, n: int) -> tuple[Tensor, int]:
        return total[:, -1] - (total[:, -2] if total.shape[1] > 1 else 0), n


class MutableCache(Cached):
    """Writes into the cache it was given: right in one decoding, wrong when one goes back."""

    def kept(self, total: Tensor, n: int) -> tuple[Tensor, int]:
        return total[:, -1].contiguous(), n

    def advance(self, total: Tensor, e: Tensor, n: int) -> tuple[Tensor, int]:
        sums = total[:, None] + e.cumsum(1)
        total.copy_(sums[:, -1])
        return sums, n + e.shape[1]


def fresh(kind: type[Toy]) -> Toy:
    torch.manual_seed(1)
    return kind()


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("published_construction", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_causal_model_passes():
    report = audit(fresh(Toy), length=17)
    assert report.passed
    assert report.max_future_influence == 0
    assert report.max_future_gradient == 0
    assert report.max_prefix_difference < 1e-12
    assert report.cache_consistent is None


@pytest.mark.parametrize("length", [2, 3, 16, 17])
def test_a_right_cache_passes(length: int):
    report = audit(fresh(Cached), length=length)
    assert report.cache_consistent is True
    assert report.passed


@pytest.mark.parametrize("kind", [Bidirectional, TinyShift, ClosedGate])
def test_a_leak_is_caught_by_influence_and_by_gradient(kind: type[Toy]):
    report = audit(fresh(kind), length=16)
    assert not report.causal
    assert report.max_future_influence > 1e-9
    assert report.max_future_gradient is not None
    assert report.max_future_gradient > 1e-9
    assert report.verdict.startswith("LEAK: output")
    assert report.influence
    assert report.influence.output < report.influence.token


@pytest.mark.parametrize("kind", [OneLook, OneLookWithoutGradient, OneLookWithoutInfluence])
@pytest.mark.parametrize("seed", range(3))
def test_a_leak_at_a_single_position_is_always_caught(kind: type[OneLook], seed: int):
    report = audit(fresh(kind), seed=seed)
    assert not report.causal
    finding = report.gradient if kind is OneLookWithoutInfluence else report.influence
    assert finding
    assert (finding.output, finding.token) == (LOOKED_AT, LOOKED_AT + 1)
    # Also in a function, which has one set of weights.
    model = fresh(kind).double()
    assert not audit(lambda ids: model(ids), 64, vocab_size=VOCABULARY, seed=seed).causal


def test_what_a_longer_text_leaves_out_is_said():
    model = fresh(Toy)
    model.config.block_size = 200
    assert "every position" not in audit(model, 65).not_made
    report = audit(model, 200)
    assert report.causal
    assert report.not_made["every position"] == "influence at 130 of 199, gradient at 130 of 199"
    assert report.verdict.endswith("every position")


def test_rows_that_look_at_each_other_are_no_leak():
    assert audit(fresh(Normed), 16).causal


def test_a_shift_is_located():
    report = audit(fresh(TinyShift), length=16)
    for finding in (report.influence, report.gradient):
        assert finding
        assert finding.token == finding.output + 1


def test_a_leak_behind_a_closed_gate_shows_with_other_weights_only():
    model = fresh(ClosedGate)
    tokens = torch.randint(VOCABULARY, (1, 9))
    later = tokens.clone()
    later[:, -1] = (later[:, -1] + 1) % VOCABULARY
    assert torch.equal(model(tokens)[:, :-1], model(later)[:, :-1])
    report = audit(model, length=16)
    assert report.influence
    assert report.influence.weights.startswith("redrawn")


@pytest.mark.parametrize("kind", [Rounded, Padded])
def test_a_leak_without_gradient_is_caught(kind: type[Toy]):
    report = audit(fresh(kind), length=16)
    assert report.max_future_gradient == 0
    assert not report.causal


def test_a_leak_without_influence_is_caught():
    report = audit(fresh(Vanishing), length=16)
    assert report.max_future_influence <= 1e-10
    assert not report.causal
    assert "gradient" in report.verdict


def test_length_dependence_is_not_a_leak_but_does_not_pass():
    report = audit(fresh(LengthNormalised), length=16)
    assert report.causal
    assert not report.prefix_consistent
    assert not report.passed
    assert report.verdict.startswith("LENGTH DEPENDENT")


@pytest.mark.parametrize("kind", [ForgetfulCache, MutableCache])
def test_a_wrong_cache_is_caught(kind: type[Toy]):
    report = audit(fresh(kind), length=16)
    assert report.causal
    assert report.prefix_consistent
    assert report.cache_consistent is False
    assert report.verdict.startswith("WRONG CACHE")


def test_infinite_outputs_are_never_passed():
    report = audit(fresh(Exploding), length=16)
    assert report.nonfinite == ("redrawn at scale 1", "redrawn at scale 2")
    assert not report.causal
    assert report.verdict.startswith("UNDECIDED")


def test_a_diverged_model_is_undecided():
    model = fresh(Toy)
    nn.init.constant_(model.head.weight, float("nan"))
    report = audit(model, length=16)
    assert report.nonfinite == ("as they are",)
    assert not report.passed


def test_nan_that_a_later_token_causes_is_a_leak():
    class Poisoned(Toy):
        def fault(self, h: Tensor) -> Tensor:
            return h / (h.sum() > -1e-3 * h.numel()).to(h.dtype)

    report = audit(fresh(Poisoned), length=16)
    assert not report.causal
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_published_construction_leaks_and_its_causal_twin_does_not(example):
    reports: dict[bool, AuditReport] = {}
    for leaking in (True, False):
        torch.manual_seed(0)
        config = example.Config(vocab_size=32, block_size=24, n_layer=2, n_embd=16)
        reports[leaking] = audit(example.LanguageModel(config, leaking), length=24)
    assert reports[True].max_future_influence > 0.1
    assert not reports[True].causal
    assert reports[False].passed


def test_the_force_of_the_example_is_the_formula(example):
    torch.manual_seed(0)
    attention = example.Attention(6, leaking=True).double()
    y, p = torch.randn(2, 1, 5, 6, dtype=torch.float64)
    leaking, causal = attention.derivative_of_total(y, p), attention.prefix_force(y, p)
    K, z, kinetic = attention.kernel(y, p)
    s = kinetic / z
    A = attention.query.weight.T @ attention.key.weight / 6**0.5
    own = (s + 1) * K @ y @ A.T / 2
    torch.testing.assert_close(leaking, own + ((s + 1) * K).mT @ y @ A / 2)
    torch.testing.assert_close(causal, own + (K * (s.mT + 1)) @ y @ A.T / 2)


def test_the_model_and_the_random_state_of_the_caller_are_untouched():
    model = fresh(ClosedGate).train()
    model(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    before = {name: p.clone() for name, p in model.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    state = torch.get_rng_state()
    with torch.no_grad():
        audit(model, length=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32
        assert p.requires_grad
        assert torch.equal(p, before[name])
        assert p.grad is not None
        assert torch.equal(p.grad, gradients[name])


def test_the_audit_repeats_itself():
    assert audit(fresh(TinyShift), length=8) == audit(fresh(TinyShift), length=8)
    assert audit(fresh(TinyShift), length=8) != audit(fresh(TinyShift), length=8, seed=1)


def test_a_module_without_config_or_embedding_can_be_audited():
    class OneHot(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return nn.functional.one_hot(tokens, 5).double().cumsum(1)

    report = audit(OneHot(), length=8, vocab_size=5)
    assert report.passed
    assert report.max_future_gradient is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 1}, "at least 2"),
        ({"length": 65}, "up to 64"),
        ({"vocab_size": 1}, "vocab_size"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, int], message: str):
    with pytest.raises(InputError, match=message):
        audit(fresh(Toy), **arguments)


def test_an_unknown_vocabulary_is_refused():
    with pytest.raises(InputError, match="vocab_size"):
        audit(nn.Embedding(4, 4), length=8)


def test_outputs_without_logits_for_every_token_are_refused():
    class LastOnly(Toy):
        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens)[:, -1:]

    with pytest.raises(InputError, match=r"\(B, T, V\)"):
        audit(fresh(LastOnly), length=8)
