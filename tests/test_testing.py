"""What contributors run on theirs: ours pass, and what is broken is caught by the right message."""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sympformer as sf
from sympformer.dynamics import SCHEMES
from sympformer.dynamics.first_order import FirstOrder
from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import State, split
from sympformer.model import ATTENTIONS
from sympformer.model.oracle import Cost
from sympformer.model.softmax_attention import SoftmaxAttention
from sympformer.testing import check_model, check_oracle, check_scheme

Euler, Strang, AB2, Tao = (SCHEMES[name] for name in ("euler", "strang", "ab2", "tao"))


def test_the_package_does_not_import_them():
    code = "import sys, sympformer; sympformer.Block; print('sympformer.testing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", SCHEMES)
def test_our_schemes(name):
    check_scheme(SCHEMES[name])


@pytest.mark.parametrize("name", [n for n, s in SCHEMES.items() if issubclass(s, FirstOrder)])
def test_our_schemes_that_drift_after_their_kick(name):
    check_scheme(partial(SCHEMES[name], drift="after"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("softmax", "linear")),
        *((name, {"n_head": 1}) for name in ("tied-softmax", "tied-linear")),
        *((name, {"heads": "averaged"}) for name in ("softmax", "linear")),
    ],
)
def test_our_attentions(name, options):
    check_oracle(ATTENTIONS[name], **options)


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "symp-tao", "linear-symp-exp-euler"])
def test_our_models(name, tiny):
    check_model(sf.build(tiny(name)))
    check_model(lambda: sf.build(tiny(name)))


def test_the_random_state_and_the_model_stay_as_they_are(tiny):
    model = sf.build(tiny("gpt")).train()
    before, state = {n: p.clone() for n, p in model.state_dict().items()}, torch.get_rng_state()
    check_model(model)
    check_oracle(ATTENTIONS["softmax"])
    check_scheme(Euler)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


class WrongOrder(Euler):
    """Says that it is better than it is."""

    order = 2


class WrongCount(Strang):
    """Says that it is cheaper than it is."""

    evaluations = 1


class OnlySeparable(Strang):
    """Leapfrog, which is of order 2 in a separable field only."""

    evaluations = 2

    def step(self, oracle, state, h, t, memory):
        h_x, h_p = split(h)
        start, p = oracle(state.x), self.damping.decay(t, h_p / 2) * state.p
        p = advance(p, h_p / 2, start.force(p))
        x = advance(state.x, h_x, start.velocity(p))
        p = advance(p, h_p / 2, oracle(x).force(p))
        return State(x, self.damping.decay(t + h_p / 2, h_p / 2) * p), memory


class Remembers(Strang):
    """Keeps the number of its steps in itself."""

    def step(self, oracle, state, h, t, memory):
        count = self.__dict__.setdefault("count", [])
        count.append(0)
        state, memory = super().step(oracle, state, h, t, memory)
        return State(state.x + 1e-9 * len(count), state.p), memory


class Adaptive(Euler):
    """Looks at the state before it asks the damping."""

    def kick(self, field, p, h, t):
        return super().kick(field, p, h, t + h if p.abs().sum() > 1e3 or not p.any() else t)


class Twice(Euler):
    """Asks once more where the state is far out."""

    def kick(self, field, p, h, t):
        if p.abs().sum() > 3:
            self.damping.alpha(t)
        return super().kick(field, p, h, t)


class Numbers(Euler):
    """Makes a number of the step size."""

    def kick(self, field, p, h, t):
        return super().kick(field, p, float(h), t)


class Detached(Euler):
    """Forgets the gradient of its step size."""

    def kick(self, field, p, h, t):
        return super().kick(field, p, h.detach() if isinstance(h, torch.Tensor) else h, t)


class DeniesItsKick(Strang):
    """Says that the position does not depend on the force."""

    @property
    def drifts_after_its_kick(self):
        return False


class ClaimsAKick(AB2):
    """Says that the position depends on the force of the same step."""

    @property
    def drifts_after_its_kick(self):
        return True


class Widens(Euler):
    """Computes in float64 whatever it is given."""

    def kick(self, field, p, h, t):
        return super().kick(field, p, h, t).double()


@dataclass(frozen=True)
class NegativeConstant(Tao):
    """A constant that cannot be learned."""

    xi: Scalar = -1.0


@dataclass(frozen=True)
class TextConstant(Tao):
    """As in a file with `from __future__ import annotations`."""

    xi: "Scalar" = 1.0


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        (WrongOrder, "WrongOrder says order 2, its positions have order 1.0. in a separable field"),
        (OnlySeparable, "says order 2, its positions have order 1.0. in a curved field"),
        (WrongCount, "says 1 evaluations of the kernel a step and makes 2"),
        (Remembers, "another path when it is used again: what it keeps belongs in memory"),
        (Adaptive, "asks for .* at another time in another state"),
        (Twice, "asks its damping for other things in another state"),
        (Numbers, "takes no vectors of step sizes"),
        (Detached, "no gradient, or a wrong one, on to its step size of p"),
        (DeniesItsKick, "its new position depends on the force of the same step"),
        (ClaimsAKick, "its new position does not depend on the force of the same step"),
        (Widens, "makes torch.float64 and torch.float64 of a state in torch.float32"),
        (NegativeConstant, "xi starts from -1.0"),
        (TextConstant, "leave out `from __future__ import annotations`"),
    ],
)
def test_a_broken_scheme_is_caught(scheme, says):
    with pytest.raises(AssertionError, match=says) as caught:
        check_scheme(scheme)
    assert "\n" not in str(caught.value)


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
        (Wordy, r"cost\(\) refuses in more than one line"),
        (CostFails, r"cost\(\) fails: ZeroDivisionError"),
    ],
)
def test_a_broken_attention_is_caught(oracle, says):
    with pytest.raises(AssertionError, match=says) as caught:
        check_oracle(oracle)
    assert "\n" not in str(caught.value)


class Parts(nn.Module):
    """Of a foreign model that is causal."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def logits(self, tokens):
        return self.head(self.table(tokens).cumsum(1))


class Causal(Parts):
    """`model(tokens, targets)` is the loss, `model(tokens)` the logits."""

    def forward(self, tokens, targets=None):
        logits = self.logits(tokens)
        return logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.ravel())


class Pair(Causal):
    """In the style of nanoGPT: of the last position only, unless there are targets."""

    def forward(self, tokens, targets=None):
        logits = self.logits(tokens)
        if targets is None:
            return logits[:, [-1]], None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.ravel())


class Plain(Parts):
    """Without a loss."""

    def forward(self, tokens):
        return self.logits(tokens)


@pytest.mark.parametrize("model", [Causal, Pair, Plain])
def test_foreign_models(model):
    check_model(model(), vocab_size=11)
    check_model(model, vocab_size=11)


class Sees(Causal):
    """The mean of all tokens, seen by each."""

    def logits(self, tokens):
        e = self.table(tokens)
        return self.head(e + e.mean(1, keepdim=True))


class Doubles(Causal):
    """Twice the loss."""

    def forward(self, tokens, targets=None):
        out = super().forward(tokens, targets)
        return out if targets is None else 2 * out


class Shifts(Causal):
    """Predicts its own tokens, whatever the targets are."""

    def forward(self, tokens, targets=None):
        return super().forward(tokens, None if targets is None else tokens)


class OnlyLoss(Parts):
    """Shows no logits."""

    def forward(self, tokens, targets):
        return F.cross_entropy(self.logits(tokens).flatten(0, 1), targets.ravel())


class Draws(Causal):
    """Noise in evaluation mode."""

    def logits(self, tokens):
        return super().logits(tokens) + torch.randn(11)


class Rounds(Causal):
    """Cannot be computed in float32."""

    def logits(self, tokens):
        e = self.table(tokens).cumsum(1)
        return self.head(e + 1e9 - 1e9)


class Hidden(Causal):
    """Has weights that are not saved."""

    def __init__(self):
        super().__init__()
        self.secret = torch.randn(8)

    def logits(self, tokens):
        return self.head(self.table(tokens).cumsum(1) * self.secret.to(self.head.weight))


class Forgets(nn.Module):
    """Continues a cache as if there were none."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, tokens, cache=None):
        e = self.table(tokens).cumsum(1)
        return {"logits": self.head(e), "cache": e[:, -1:]}


class Fails(Forgets):
    """Cannot go on from its cache."""

    def forward(self, tokens, cache=None):
        if cache is not None:
            raise RuntimeError("no")
        return super().forward(tokens)


class Silent(Causal):
    """No loss given targets."""

    def forward(self, tokens, targets=None):
        return self.logits(tokens)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Sees, "LEAK"),
        (Doubles, "the cross-entropy of the logits"),
        (Shifts, "the cross-entropy of the logits"),
        (OnlyLoss, "nothing can be said of a model without logits of every position"),
        (Draws, "other logits the second time"),
        (Rounds, "the logits in float32 are off by"),
        (Hidden, "a model with the same state_dict has other logits"),
        (Forgets, "(?i)cache"),
        (Fails, "audit of cache: the model fails"),
        (Silent, "gives no loss"),
    ],
)
def test_a_broken_model_is_caught(model, says):
    with pytest.raises(AssertionError, match=says) as caught:
        check_model(model, vocab_size=11)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_is_asked_for():
    with pytest.raises(AssertionError, match="give vocab_size="):
        check_model(Causal())
