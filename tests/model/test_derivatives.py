"""Derivatives of whole models, of every kind, in every form of every preset."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

import sympformer as sf
from sympformer.attention import chunked, forms, tiled
from sympformer.compiler import compile_blocks
from sympformer.model import loss as losses
from sympformer.model.layers import LayerNorm

V, T = 11, 7


def forms_of(name):
    if sf.ModelConfig.preset(name).attention != "softmax":
        return ["chunked", "masked", "recurrent"]
    momentum = sf.ModelConfig.preset(name, vocab_size=V, block_size=T).in_momentum_form
    return ["auto", "naive", "tiled", *([] if momentum else ["fused"])]


# A table more changes no operator.
PRESETS = [name for name in sf.presets() if not name.endswith("-untied")]
CASES = [(name, form) for name in PRESETS for form in forms_of(name)]
WIDE = {"n_embd": 16}
"""Heads of 8 numbers, which the scan in C++ asks for."""
SCANNED = ["linear-symp-r2", "mamba2", "kda", "gated-delta-symp"]
CASES += [(name, "scan") for name in SCANNED]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Several tiles and chunks, however short the text."""
    monkeypatch.setattr(tiled, "ROWS", 3)
    monkeypatch.setattr(chunked, "chunk_size", lambda k, y: 4)
    monkeypatch.setitem(losses.CHUNK, "cpu", 3 * V * 8)


class Problem:
    """A model as a function of its parameters, and a direction to differentiate it in."""

    def __init__(self, name, targets=True, **options):
        options = {"block_size": T, "n_layer": 1, "n_head": 2, "n_embd": 4, **options}
        config = sf.ModelConfig.preset(name, vocab_size=V, **options)
        self.model, self.by_targets = sf.build(config).double(), targets
        self.weights = {
            key: (p + 0.3 * torch.randn_like(p)).detach()
            for key, p in self.model.named_parameters()
        }
        self.direction = {key: torch.randn_like(p) for key, p in self.weights.items()}
        self.tokens, self.wanted = torch.randint(V, (2, 2, T))
        self.wanted[0, 2] = -100

    def loss(self, weights, tokens=None):
        tokens = self.tokens if tokens is None else tokens
        wanted = self.wanted[: len(tokens)]
        arguments = (tokens, wanted) if self.by_targets else (tokens,)
        out = torch.func.functional_call(self.model, weights, arguments)
        if self.by_targets:
            return out.loss
        return F.cross_entropy(out.logits.flatten(0, 1), wanted.flatten())

    def at(self, e):
        """The weights moved by `e` in the direction, learning."""
        return {k: (p + e * self.direction[k]).requires_grad_() for k, p in self.weights.items()}

    def along(self, gradients):
        """The slope in the direction."""
        return sum((g * d).sum() for g, d in zip(gradients, self.direction.values(), strict=True))

    def slope(self, e=0.0, create_graph=False):
        """By reverse mode, once."""
        weights = self.at(e)
        gradients = torch.autograd.grad(
            self.loss(weights),
            list(weights.values()),
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return self.along(gradients), weights

    def second(self, e=4e-6):
        """The second derivative along the direction, by differences of first ones, O(e⁴)."""
        at = [self.slope(i * e)[0] for i in (-2, -1, 1, 2)]
        return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * e)


def close(got, want):
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(want), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_twice_and_forwards(name, form):
    """Against differences: reverse mode twice, forward mode, forward over reverse mode."""
    options = WIDE if form == "scan" else {}
    problem = Problem(name, targets=form in ("auto", "chunked", "scan"), **options)
    with forms.using(form):
        slope, weights = problem.slope(create_graph=True)
        again = torch.autograd.grad(
            slope, list(weights.values()), allow_unused=True, materialize_grads=True
        )
        found, second = problem.along(again), problem.second()
        forwards = torch.func.jvp(problem.loss, (problem.weights,), (problem.direction,))[1]
        gradient = torch.func.grad(problem.loss)
        along = (problem.weights,), (problem.direction,)
        gradients, changes = torch.func.jvp(gradient, *along)[:2]
    close(found, second)
    close(forwards, slope)
    close(problem.along(gradients.values()), slope)
    close(problem.along(changes.values()), second)


@pytest.mark.parametrize("name", PRESETS)
def test_many_at_once(name):
    """`vmap(grad)` over weights, and `hessian` of a gain, against one at a time."""
    problem = Problem(name)
    both = {k: torch.stack([p, p + 0.1 * problem.direction[k]]) for k, p in problem.weights.items()}
    many = torch.vmap(torch.func.grad(problem.loss))(both)
    for i, e in enumerate((0.0, 0.1)):
        slope = problem.slope(e)[0]
        close(problem.along([many[k][i] for k in problem.weights]), slope)

    key = list(problem.weights)[-1]
    gain, others = problem.weights[key], {k: p for k, p in problem.weights.items() if k != key}
    curvature = torch.func.hessian(lambda g: problem.loss({**others, key: g}))(gain)
    problem.direction = {k: torch.zeros_like(p) for k, p in problem.direction.items()}
    problem.direction[key] = torch.randn_like(gain)
    flat = problem.direction[key].flatten()
    close(flat @ curvature.reshape(len(flat), -1) @ flat, problem.second())


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "symp-exp-euler", "linear-symp-r2"])
def test_many_gradients_of_one_pass(name):
    """`is_grads_batched`, on which `torch.autograd.functional.hessian(vectorize=True)` stands."""
    problem = Problem(name)
    weights = problem.at(0.0)
    out = torch.func.functional_call(problem.model, weights, (problem.tokens,)).logits.flatten()[:3]
    options = {"retain_graph": True, "allow_unused": True}
    learned = list(weights.values())
    identity = torch.eye(3, dtype=out.dtype)
    many = torch.autograd.grad(out, learned, identity, is_grads_batched=True, **options)
    for i in range(3):
        one = torch.autograd.grad(out[i], learned, **options)
        for got, want in zip(many, one, strict=True):
            assert (got is None) == (want is None)
            if want is not None:
                torch.testing.assert_close(got[i], want)


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "linear-symp-r2"])
def test_gradients_of_every_text(name):
    problem = Problem(name, targets=False)
    problem.wanted = problem.wanted.abs() % V
    one = torch.func.grad(lambda w, tokens: problem.loss(w, tokens[None]))
    many = torch.vmap(one, (None, 0))(problem.weights, problem.tokens[[0, 0]])
    expected = one(problem.weights, problem.tokens[0])
    for key in problem.weights:
        torch.testing.assert_close(many[key][1], expected[key])


@pytest.mark.parametrize("name", ["gpt", "symp-r2", "symp-exp-euler", "linear-symp-r2"])
def test_a_long_text(name, monkeypatch):
    """In tiles and chunks of their own size."""
    monkeypatch.undo()
    problem, found = Problem(name, block_size=150), []
    problem.tokens, problem.wanted = torch.randint(V, (2, 1, 150))
    for form in ("auto", "masked" if name.startswith("linear-") else "naive"):
        with forms.using(form):
            slope, weights = problem.slope(create_graph=True)
            second = torch.autograd.grad(slope, list(weights.values()), allow_unused=True)
        found.append([slope, *(g for g in second if g is not None)])
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("form", ["auto", "tiled"])
def test_a_curved_direction(form):
    """The Hessian along a direction, of large weights, in the form that momentum makes default."""
    torch.manual_seed(0)
    options = {"vocab_size": 61, "block_size": 32, "n_layer": 1, "n_head": 2, "n_embd": 16}
    model = sf.build(sf.ModelConfig.preset("symp-r2", **options)).double()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(10)
    tokens, wanted = torch.randint(61, (2, 12)), torch.randint(61, (2, 12))
    learned = list(model.parameters())
    direction = [torch.randn_like(p) for p in learned]

    def slope(create_graph=False):
        value = F.cross_entropy(model(tokens).logits.flatten(0, 1), wanted.flatten())
        first = torch.autograd.grad(value, learned, create_graph=create_graph)
        return sum((a * b).sum() for a, b in zip(first, direction, strict=True))

    def moved(step):
        with torch.no_grad():
            for p, d in zip(learned, direction, strict=True):
                p.add_(d, alpha=step)
        return slope().item()

    with forms.using(form):
        second = torch.autograd.grad(slope(create_graph=True), learned)
        found = sum((a * b).sum() for a, b in zip(second, direction, strict=True)).item()
        h = 1e-6
        ahead, behind = moved(h), moved(-2 * h)
    assert found == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("name", ["linear-gpt", "linear-symp-r2", "symp-h1"])
def test_tangents_are_not_lost(name, targets):
    problem = Problem(name, targets, n_layer=2, n_embd=16)
    found = torch.func.jvp(problem.loss, (problem.weights,), (problem.direction,))[1]
    close(found, problem.slope()[0])


def test_gradients_at_weights_that_are_not_the_models():
    """Whatever a backward pass makes again, it makes with the weights of its forward pass."""
    problem = Problem("gpt", n_layer=2)
    e = 1e-5
    values = [problem.loss(problem.at(i * e)).item() for i in (1, -1)]
    close(problem.slope()[0].item(), (values[0] - values[1]) / (2 * e))


def test_forms_do_not_change_what_a_transform_gives():
    problem, found = Problem("symp-r2"), {}
    for form in ("auto", "tiled", "naive"):
        with forms.using(form), forms.recorded() as used:
            found[form] = problem.along(torch.func.grad(problem.loss)(problem.weights).values())
        assert {line.split()[0] for line in used} == {"naive"}
    assert found["auto"] == found["tiled"] == found["naive"]


def test_compiled_blocks_run_as_they_are_under_a_transform():
    torch._dynamo.reset()
    problem = Problem("symp-r2")
    run = partial(torch.func.jvp, problem.loss, (problem.weights,), (problem.direction,))
    gradient = torch.func.grad(problem.loss)
    expected, slope = run(), problem.along(gradient(problem.weights).values())
    compile_blocks(problem.model.blocks)
    assert torch.equal(run()[1], expected[1])
    assert torch.equal(problem.along(gradient(problem.weights).values()), slope)


def test_compiled_code_contains_transforms():
    """A transform that is compiled as a whole takes the plain forms along."""
    torch._dynamo.reset()
    problem = Problem("symp-r2")
    run = lambda w: torch.func.jvp(torch.func.grad(problem.loss), (w,), (problem.direction,))  # noqa: E731
    expected = run(problem.weights)
    got = torch.compile(run, backend="aot_eager")(problem.weights)
    torch.testing.assert_close(got, expected)


def test_compiled_code_refuses_forward_mode():
    torch._dynamo.reset()
    problem = Problem("gpt")
    for block in problem.model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    with torch.autograd.forward_ad.dual_level():
        weights = {
            k: torch.autograd.forward_ad.make_dual(p, problem.direction[k])
            for k, p in problem.weights.items()
        }
        with pytest.raises(Exception, match="compiled code has no forward mode"):
            problem.loss(weights)


def test_second_derivatives_of_the_norm():
    """Those that torch gets right; of its third ones docs/speed.md speaks."""
    norm = LayerNorm(5).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(norm, x)
