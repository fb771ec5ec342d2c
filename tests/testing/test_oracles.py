"""Contract tests of attentions: ours pass, and what is broken is caught by the right message."""

import pytest
import torch
from torch import nn

import sympformer as sf
from sympformer.model import ATTENTIONS
from sympformer.model.oracle import AttentionOracle, Cost, OracleField
from sympformer.model.softmax_attention import SoftmaxAttention
from sympformer.testing import check_oracle


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("softmax", "linear")),
        *((name, {"n_head": 1}) for name in ("tied-softmax", "tied-linear")),
        *((name, {"heads": "averaged"}) for name in ("softmax", "linear")),
        *((name, {"bias": True}) for name in ("softmax", "linear")),
    ],
)
def test_our_attentions(name, options):
    check_oracle(ATTENTIONS[name], **options)


class Attention(SoftmaxAttention):
    """Read for attention alone."""

    answers = frozenset({"attention"})

    def __init__(self, d: int, n_head: int, *, reads: str = "attention", causality="prefix"):
        super().__init__(d, n_head, reads=reads, causality=causality)


class Leaking(Attention):
    """Adds the mean of all tokens."""

    def forward(self, x, past):
        return super().forward(x + 1e-3 * x.mean(-2, keepdim=True), past)


class Counting(Attention):
    """Depends on how many tokens there are, on no later one."""

    def forward(self, x, past):
        return super().forward(x * (1 + 0.1 * (x.shape[-2] + past.length)), past)


class Forgetting(Attention):
    """Never looks at its past."""

    def forward(self, x, past):
        return super().forward(x, sf.Recorder().part("nowhere"))


class Unpadded(Attention):
    """Takes padding for tokens."""

    def forward(self, x, past):
        return super().forward(x, Blind(past))


class Blind:
    """A past that says nothing of padding."""

    def __init__(self, past):
        self.length, self.padding, self.keeps = past.length, None, past.keeps
        self.part, self.recall, self.keep = past.part, past.recall, past.keep
        self.extend = past.extend


class Idle(Attention):
    """Has a map that nothing reads."""

    def __init__(self, d: int, n_head: int, *, reads: str = "attention", causality="prefix"):
        super().__init__(d, n_head, reads=reads, causality=causality)
        self.idle = nn.Linear(d, d)


class Uninitialised(Attention):
    """Draws its weight while it is built, and nowhere else."""

    def __init__(self, d: int, n_head: int, *, reads: str = "attention", causality="prefix"):
        super().__init__(d, n_head, reads=reads, causality=causality)
        self.gain = nn.Parameter(torch.ones(d))

    def forward(self, x, past):
        return super().forward(x * self.gain, past)


class BuiltOtherwise(Uninitialised):
    """Resets to something else than it was built with."""

    def reset_parameters(self):
        nn.init.constant_(self.gain, 2.0)


class Noisy(Attention):
    """Draws in every pass."""

    def forward(self, x, past):
        return super().forward(x + 1e-6 * torch.randn_like(x), past)


class Overflowing(Attention):
    """Cannot be computed in float32."""

    def forward(self, x, past):
        return super().forward(x * 1e60 * 1e-60 if x.dtype == torch.float64 else x * 1e60, past)


class Detaching(Attention):
    """Cuts one of two paths to the tokens."""

    def forward(self, x, past):
        return super().forward(x + x.detach(), past)


class Answering(Attention):
    """Is built for whatever is asked."""

    def __init__(self, d: int, n_head: int, *, reads: str = "attention", causality="prefix"):
        super().__init__(d, n_head, causality=causality)


class Costless(Attention):
    """Counts nothing."""

    def cost(self, calls):
        return Cost(0)


class Wordy(Attention):
    """Refuses at length."""

    def cost(self, calls):
        raise sf.InputError("no\nno")


class CostFails(Attention):
    """Cannot count."""

    def cost(self, calls):
        raise ZeroDivisionError("division by zero")


class Misspelt(Attention):
    """Answers what nobody asks."""

    answers = frozenset({"atention"})


class Nothing(Attention):
    """Answers nothing."""

    answers = frozenset()


class Expensive(Attention):
    """Says that it has more maps than it has."""

    def cost(self, calls):
        return Cost(maps=9, pairs=2)


class Cheap(Attention):
    """Says that it has fewer maps than it has."""

    def cost(self, calls):
        return Cost(maps=2, pairs=2)


class Quadratic(Attention):
    """Says that it has more pairs than it has."""

    def cost(self, calls):
        return Cost(maps=4, pairs=9)


class NoPairs(Attention):
    """Says that it has no pairs."""

    def cost(self, calls):
        return Cost(maps=4)


class NoMomentum(AttentionOracle):
    """Says that it can be read for a momentum, and its field cannot."""

    answers = frozenset({"momentum"})

    def __init__(self, d: int, n_head: int, *, reads: str = "momentum", causality="prefix"):
        super().__init__(d, n_head, reads=reads, causality=causality)

    def forward(self, x, past):
        return OracleField()


def test_an_unknown_reading_is_not_registered():
    with pytest.raises(sf.InputError, match="did you mean 'attention'"):
        sf.register_attention("misspelt", Misspelt)


class Scheming(Attention):
    """Has an option of the name of a field."""

    def __init__(self, d: int, n_head: int, *, reads="attention", causality="prefix", scheme="x"):
        super().__init__(d, n_head, reads=reads, causality=causality)


def test_an_option_that_would_never_be_given_is_refused():
    with pytest.raises(sf.InputError, match="'scheme' of attention 'scheming' has the name of"):
        sf.register_attention("scheming", Scheming)
    with pytest.raises(sf.InputError, match="class below AttentionOracle"):
        sf.register_attention("number", int)


@pytest.mark.parametrize(
    ("oracle", "says"),
    [
        (Leaking, "Leaking read for attention: changing token 1 moves an earlier attention"),
        (Counting, "the attention of the first 1 tokens alone is off by"),
        (Forgetting, "behind a cache of 1 tokens its attention is off by"),
        (Unpadded, "padding before a text moves its attention by"),
        (Idle, "nothing depends on idle.weight, idle.bias"),
        (Uninitialised, "gain is not initialised by its module's reset_parameters"),
        (BuiltOtherwise, "reset_parameters makes another gain than building does"),
        (Noisy, "its attention is another the second time"),
        (Overflowing, "its attention is not finite in torch.float32"),
        (Detaching, "the gradient to the tokens is"),
        (Answering, "does not answer connection and is built for it"),
        (Costless, r"cost\(\) counts nothing"),
        (Misspelt, "unknown reading in Misspelt.answers 'atention'"),
        (Nothing, "answers is empty"),
        (Expensive, "says 9 maps, measured are 4 to 4.25"),
        (Cheap, "says 2 maps, measured are 4"),
        (Quadratic, "says 9 pairs, measured are 2"),
        (NoPairs, "says 0 pairs, measured are 2"),
        (NoMomentum, "NoMomentum fails: NotImplementedError"),
        ("cosine", "takes a class below AttentionOracle, not 'cosine'"),
        (Wordy, r"cost\(\) refuses in more than one line"),
        (CostFails, r"cost\(\) fails: ZeroDivisionError"),
    ],
)
def test_a_broken_attention_is_caught(oracle, says):
    with pytest.raises(AssertionError, match=says) as caught:
        check_oracle(oracle)
    assert "\n" not in str(caught.value)
