"""Contract tests of models: ours pass, and what is broken is caught by the right message."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sympformer as sf
from sympformer.dynamics import SCHEMES
from sympformer.model import ATTENTIONS
from sympformer.testing import check_model, check_oracle, check_scheme


def test_the_package_does_not_import_them():
    code = "import sys, sympformer; sympformer.Block; print('sympformer.testing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "symp-tao", "linear-symp-exp-euler"])
def test_our_models(name, tiny):
    check_model(sf.build(tiny(name)))
    check_model(lambda: sf.build(tiny(name)))


@pytest.mark.parametrize("name", ["gpt-untied", "symp-r2", "symp-ab2", "linear-symp-exp-euler"])
def test_models_of_attention_alone(name, tiny):
    """Neither perceptrons nor positions."""
    model = sf.build(tiny(name, mlp="none", positions="none"))
    assert not [n for n, _ in model.named_parameters() if "mlp" in n or "positions" in n]
    check_model(model)


def test_the_random_state_and_the_model_stay_as_they_are(tiny):
    model = sf.build(tiny("gpt")).train()
    before, state = {n: p.clone() for n, p in model.state_dict().items()}, torch.get_rng_state()
    check_model(model)
    check_oracle(ATTENTIONS["softmax"])
    check_scheme(SCHEMES["euler"])
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


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


class Peeps(Pair):
    """Looks at its targets."""

    def forward(self, tokens, targets=None):
        logits, _ = super().forward(tokens, tokens)
        if targets is None:
            return logits[:, [-1]], None
        logits = logits + self.head(self.table(targets))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.ravel())


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
        (Peeps, "LEAK"),
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


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("gpt", "takes a module or a function"),
        (lambda: 3, "make a module"),
        (lambda: 1 / 0, "Zero"),
    ],
)
def test_what_is_no_model_is_said_in_a_line(model, says):
    with pytest.raises(AssertionError, match=says) as caught:
        check_model(model)
    assert "\n" not in str(caught.value)
