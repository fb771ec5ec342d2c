"""Second derivatives, forward mode and transforms of every operator."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from sympformer import products, torch_private
from sympformer.attention import fused, naive, prefix_solve, prefix_sums, sweep, tiled
from sympformer.derivatives import pull_back
from sympformer.model import loss
from sympformer.model.layers import MLP
from sympformer.model.proposal import Proposal


class Operator(NamedTuple):
    """What is tested, the same in operations of torch alone, and arguments of both."""

    fast: object
    plain: object
    inputs: list


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def qkv(n, d=2, e=2):
    return [random(1, 2, n, d, seed=1), random(1, 2, n, d, seed=2), random(1, 2, n, e, seed=3)]


def revalue(average, log_sum, p, matrix):
    w = p + average.transpose(1, 2).flatten(2) @ matrix
    s = w.square().sum(-1)[:, None, :, None] * (2 + log_sum.tanh())
    return s * average, w


def two_passes(revalue, q, k, v, rows, parameters):
    average, log_sum = naive.attend(q, k, v, scale=0.5)
    second, *others = revalue(average, log_sum, *rows, *parameters)
    return average, log_sum, naive.average(q, k, second, scale=0.5), second, *others


def swept(form, revalue, n_rows):
    """A sweep as a function of tensors alone."""

    def call(q, k, v, *others):
        rows, parameters = others[:n_rows], others[n_rows:]
        if form is sweep.sweep:
            return form(revalue, q, k, v, rows, parameters, scale=0.5)
        return form(revalue, q, k, v, rows, parameters)

    return call


def proposal():
    rewritten = Proposal(2)
    q, k, v = qkv(5)
    scalars = [torch.tensor(x, dtype=torch.float64) for x in (0.7, 1.3)]
    others = [random(1, 5, 4, seed=4), k, v, *scalars, random(4, 4, seed=5), random(4, 4, seed=6)]
    # As in a layer, keys and values come twice.
    forms = (swept(f, rewritten, 3) for f in (sweep.sweep, two_passes))
    fast, plain = (lambda q, k, v, p, *rest, f=f: f(q, k, v, p, k, v, *rest) for f in forms)
    return Operator(fast, plain, [q, k, v, others[0], *others[3:]])


def cross_entropy(hidden, weight, targets):
    return F.cross_entropy(hidden @ weight.mT, targets)


def perceptron():
    mlp = MLP(3, 5).double()
    weights = {name: p.detach() for name, p in mlp.named_parameters()}

    def fast(x, *values):
        given = dict(zip(weights, values, strict=True))
        return torch.func.functional_call(mlp, given, (x,))

    def plain(x, expand, contract):
        return F.gelu(x @ expand.mT) @ contract.mT

    inputs = [random(2, 3), *(random(*w.shape, seed=i) for i, w in enumerate(weights.values()))]
    return Operator(fast, plain, inputs)


TARGETS = torch.tensor([3, -100, 0, 1, 4])


def operators(tiny):
    attend, average = partial(naive.attend, scale=0.5), partial(naive.average, scale=0.5)
    joint = {"causality": "joint", "scale": -0.5}
    system = [random(1, 9, 2), random(1, 9, 1, seed=1).exp(), random(1, 9, 2, seed=2)]
    swept_inputs = [*qkv(4), random(1, 4, 4, seed=4), random(4, 4, seed=5) / 2]
    return {
        "linear": Operator(products.linear, F.linear, [random(2, 3, 4), random(5, 4, seed=1)]),
        "product": Operator(products.product, F.linear, [random(3, 4), random(5, 4, seed=1)]),
        "fused": Operator(partial(fused.average, scale=0.5), average, qkv(5)),
        "fused_wide": Operator(partial(fused.average, scale=0.5), average, qkv(5, e=3)),
        "tiled": Operator(partial(tiled.attend, scale=0.5), attend, qkv(5)),
        "tiled_average": Operator(partial(tiled.average, scale=0.5), average, qkv(5, e=3)),
        "tiled_joint": Operator(partial(tiled.attend, **joint), partial(attend, **joint), qkv(5)),
        "sweep": Operator(
            swept(sweep.sweep, revalue, 1), swept(two_passes, revalue, 1), swept_inputs
        ),
        "proposal": proposal(),
        "sums": Operator(prefix_sums.chunked, prefix_sums.masked, qkv(9)),
        "system": Operator(prefix_solve.solve_chunked, prefix_solve.solve_dense, system),
        "cross_entropy": Operator(
            partial(loss.chunked_cross_entropy, targets=TARGETS),
            partial(cross_entropy, targets=TARGETS),
            [random(5, 3), random(6, 3, seed=1)],
        ),
        "perceptron": perceptron(),
    }


NAMES = [
    *("linear", "product", "fused", "fused_wide", "tiled", "tiled_average", "tiled_joint", "sweep"),
    *("proposal", "sums", "system", "cross_entropy", "perceptron"),
]


@pytest.fixture
def operator(tiny, monkeypatch):
    """A function that gives an operator; all work in many small pieces, products as in float32."""
    monkeypatch.setattr(tiled, "ROWS", 2)
    monkeypatch.setattr(prefix_sums, "chunk_size", lambda k, v: 4)
    monkeypatch.setattr(prefix_solve, "SIZE", 4)
    monkeypatch.setitem(loss.CHUNK, "cpu", 2 * 6 * 8)
    monkeypatch.setattr(products, "suits", lambda a, b: True)
    monkeypatch.setattr(torch_private, "onednn_product", lambda a, b: a.detach() @ b.detach().mT)
    return operators(tiny).__getitem__


def learning(inputs):
    return [t.detach().clone().requires_grad_() for t in inputs]


def scalar(form):
    """All results of a form in one number that is linear in none of its arguments."""

    def call(*inputs):
        out = form(*inputs)
        out = [out] if isinstance(out, torch.Tensor) else out
        return sum((o * torch.linspace(-1, 2, o.numel()).to(o).view(o.shape)).sum() for o in out)

    return call


@pytest.mark.parametrize("name", NAMES)
def test_every_mode_against_differences(name, operator):
    """As torch checks its own operators: forward mode, batches of gradients, second derivatives."""
    op = operator(name)
    # Batches of tangents, by a mechanism older than `torch.func`, torch knows of few operations.
    assert torch.autograd.gradcheck(
        op.fast, learning(op.inputs), check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(
        op.fast, learning(op.inputs), check_fwd_over_rev=True, check_batched_grad=True, atol=1e-4
    )


@pytest.mark.parametrize("name", NAMES)
def test_transforms_against_the_formula(name, operator):
    op, every = operator(name), tuple(range(len(operator(name).inputs)))
    fast, plain = scalar(op.fast), scalar(op.plain)
    expected = torch.autograd.functional.hessian(plain, tuple(op.inputs))
    for outer, inner in [("jacfwd", "jacrev"), ("jacrev", "jacfwd"), ("jacrev", "grad")]:
        second = getattr(torch.func, outer)(getattr(torch.func, inner)(fast, every), every)
        torch.testing.assert_close(second(*op.inputs), expected)
    got = torch.autograd.functional.hessian(fast, tuple(op.inputs), vectorize=True)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_many(name, operator):
    """`vmap(grad)`, with any one of the arguments the same for all."""
    op = operator(name)
    every = tuple(range(len(op.inputs)))
    for same in every:
        dims = tuple(None if i == same else 0 for i in every)
        given = [
            t if i == same else torch.stack([t, t * 0.9, t.flip(-1)])
            for i, t in enumerate(op.inputs)
        ]
        if name == "system":  # whose diagonal is positive
            given[1] = given[1].abs()
        many = torch.vmap(torch.func.grad(scalar(op.fast), every), dims)(*given)
        for i in range(3):
            one = [t if d is None else t[i] for t, d in zip(given, dims, strict=True)]
            expected = torch.func.grad(scalar(op.plain), every)(*one)
            torch.testing.assert_close(tuple(g[i] for g in many), expected)


@pytest.mark.parametrize("name", NAMES)
def test_third_derivatives(name, operator):
    op = operator(name)

    def third(form, order=3):
        inputs = learning(op.inputs)
        value = scalar(form)(*inputs)
        for _ in range(order):
            gradients = torch.autograd.grad(value, inputs, create_graph=True, allow_unused=True)
            value = sum(g.square().sum() for g in gradients if g is not None)
        return value

    torch.testing.assert_close(third(op.fast), third(op.plain))


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_with_a_tangent(name, operator):
    """Forward mode that is entered after the pass, for its derivatives alone."""
    op = operator(name)

    def pulled(form):
        inputs = learning(op.inputs)
        out = scalar(form)(*inputs)
        with forward_ad.dual_level():
            one = forward_ad.make_dual(torch.ones_like(out), torch.full_like(out, 3.0))
            found = torch.autograd.grad(out, inputs, one)
            return [forward_ad.unpack_dual(g) for g in found]

    for got, want in zip(pulled(op.fast), pulled(op.plain), strict=True):
        torch.testing.assert_close(got.primal, want.primal)
        torch.testing.assert_close(got.tangent, want.tangent)
        torch.testing.assert_close(got.tangent, 3 * want.primal)


NODES = {
    "linear": "_Linear",
    "product": "_Linear",
    "fused": "ScaledDotProduct",
    "tiled": "tiled_attention",
    "sweep": "_Sweep",
    "proposal": "_Sweep",
    "sums": "_Chunked",
    "system": "prefix_solve",
    "cross_entropy": "summed_cross_entropy",
}


@pytest.mark.parametrize("name", NODES)
def test_first_derivatives_take_the_fast_form(name, operator):
    op, nodes = operator(name), set()

    def collect(node):
        if node is not None and node not in nodes:
            nodes.add(node)
            for parent, _ in node.next_functions:
                collect(parent)

    collect(scalar(op.fast)(*learning(op.inputs)).grad_fn)
    assert any(NODES[name] in node.name() for node in nodes), {node.name() for node in nodes}


@pytest.mark.parametrize("n", [1, 5])
def test_second_derivatives_through_onednn(n, monkeypatch):
    """The operator itself, in float32, beside torch's product."""
    monkeypatch.setattr(products, "suits", lambda a, b: True)
    inputs = [random(n, 33).float(), random(20, 33, seed=1).float()]

    def curvature(form):
        given = learning(inputs)
        first = torch.autograd.grad(form(*given).tanh().sum(), given, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), given)

    for got, want in zip(curvature(products.linear), curvature(F.linear), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


def test_a_gradient_that_is_missing_is_zero():
    x, y = random(3).requires_grad_(), random(3)
    form = lambda x, y: (x * y, y + 1, x.exp())  # noqa: E731
    g = random(3, seed=1)
    assert pull_back(form, [x, y], [None, g])[0] is None
    got, none = pull_back(form, [x, y], [g, None])
    torch.testing.assert_close(got, g * y)
    assert none is None


def test_what_is_remade_needs_no_memory_of_its_own():
    """As where a model's cost is estimated."""
    with torch.device("meta"):
        mlp, x = MLP(4, 8), torch.randn(2, 3, 4, requires_grad=True)
        mlp(x).sum().backward()
    assert mlp.contract.weight.grad.shape == (4, 8)


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
@pytest.mark.parametrize("fast", [True, False])
def test_what_is_remade_is_not_kept(shape, fast, monkeypatch):
    """It is made once in each pass; kept is what it is made from."""
    monkeypatch.setattr(products, "suits", lambda a, b: fast)
    made, gelu = [], F.gelu
    monkeypatch.setattr(F, "gelu", lambda x: (made.append(x), gelu(x))[1])
    x, mlp = torch.randn(shape, requires_grad=True), MLP(6, 24)
    out = mlp(x)
    assert len(made) == 1
    out.sum().backward()
    assert len(made) == 2
    assert made[0] is made[1]
    with torch.no_grad():
        mlp(x)
    assert len(made) == 3


def test_what_is_changed_in_place_behind_it_is_kept():
    """As by a hook of a user's own: making it anew would give what it was before."""
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    mlp = MLP(6, 24).double()
    mlp.contract.register_forward_pre_hook(lambda _, args: (args[0].mul_(2),))
    mlp(x).sum().backward()
    torch.testing.assert_close(
        mlp.contract.weight.grad, (2 * F.gelu(mlp.expand(x))).sum(0).expand(6, -1)
    )
