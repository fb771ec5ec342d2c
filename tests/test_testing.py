"""What contributors run on theirs: ours pass, and what is broken is caught by name."""

import pytest
from torch import nn

import sympformer as sf
from sympformer.dynamics import SCHEMES
from sympformer.model import ATTENTIONS
from sympformer.model.softmax_attention import SoftmaxAttention
from sympformer.testing import check_model, check_oracle, check_scheme


@pytest.mark.parametrize("name", SCHEMES)
def test_our_schemes(name):
    check_scheme(SCHEMES[name])


@pytest.mark.parametrize("name", ["softmax", "linear"])
def test_our_attentions(name):
    check_oracle(ATTENTIONS[name])


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "linear-symp-exp-euler"])
def test_our_models(name, tiny):
    check_model(sf.build(tiny(name)))


def test_a_scheme_of_another_order_is_caught():
    class Wrong(SCHEMES["euler"]):
        order = 2

    with pytest.raises(AssertionError, match="Wrong says order 2"):
        check_scheme(Wrong)


def test_a_scheme_of_more_evaluations_is_caught():
    class Wrong(SCHEMES["strang"]):
        evaluations = 1

    with pytest.raises(AssertionError, match="says 1 evaluations of the kernel a step and makes 2"):
        check_scheme(Wrong)


class Leaking(SoftmaxAttention):
    """Adds the mean of all tokens."""

    answers = frozenset({"attention"})

    def forward(self, x, past):
        return super().forward(x + 1e-3 * x.mean(-2, keepdim=True), past)


class Forgetting(SoftmaxAttention):
    """Never looks at its past."""

    answers = frozenset({"attention"})

    def forward(self, x, past):
        return super().forward(x, sf.Recorder().part("nowhere"))


class Idle(SoftmaxAttention):
    """Has a map that nothing reads."""

    answers = frozenset({"attention"})

    def __init__(self, d: int, n_head: int, *, reads: str = "attention", causality="prefix"):
        super().__init__(d, n_head, reads=reads, causality=causality)
        self.idle = nn.Linear(d, d)


@pytest.mark.parametrize(
    ("oracle", "says"),
    [
        (Leaking, "moves an earlier one"),
        (Forgetting, "behind a cache of 1 tokens"),
        (Idle, "nothing depends on idle"),
    ],
)
def test_a_broken_attention_is_caught(oracle, says):
    with pytest.raises(AssertionError, match=says):
        check_oracle(oracle)


class Sees(nn.Module):
    """The mean of all tokens, seen by each."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, ids):
        e = self.table(ids)
        return self.head(e + e.mean(1, keepdim=True))


def test_a_model_that_sees_the_future_is_caught():
    with pytest.raises(AssertionError, match="LEAK"):
        check_model(Sees(), vocab_size=11)


def test_a_loss_that_is_another_is_caught(tiny, monkeypatch):
    model = sf.build(tiny("gpt"))
    forward = type(model).forward

    def doubled(self, tokens, targets=None, **options):
        out = forward(self, tokens, targets, **options)
        out.loss = None if out.loss is None else 2 * out.loss
        return out

    monkeypatch.setattr(type(model), "forward", doubled)
    with pytest.raises(AssertionError, match="cross-entropy of the logits"):
        check_model(model)
