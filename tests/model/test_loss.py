"""The chunked loss against cross-entropy on whole logits."""

import math

import pytest
import torch
import torch.nn.functional as F

from sympformer.model import loss
from sympformer.model.loss import chunked_cross_entropy

V, D = 37, 8


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setitem(loss.CHUNK, "cpu", 10 * V * 4)


def whole(hidden, weight, targets):
    """As torch gives it: logits in their own dtype, softmax in float32 at least."""
    logits = F.linear(hidden, weight)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide), targets)


def drawn(n, dtype, scale=1.0):
    hidden, weight = torch.randn(n, D, dtype=dtype), torch.randn(V, D, dtype=dtype)
    return (hidden * scale).requires_grad_(), weight.requires_grad_(), torch.randint(0, V, (n,))


def measured(form, hidden, weight, targets):
    value = form(hidden, weight, targets)
    return value, *torch.autograd.grad(value * 3, (hidden, weight))


def same(found, expected):
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[1:], expected[1:], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 63, 64, 65, 257])
def test_value_and_gradients(n):
    hidden, weight, targets = drawn(n, torch.float64)
    targets[1::3] = -100
    same(
        measured(chunked_cross_entropy, hidden, weight, targets),
        measured(whole, hidden, weight, targets),
    )


def test_logits_to_a_thousand():
    hidden, weight, targets = drawn(65, torch.float64, scale=300.0)
    assert (hidden @ weight.mT).abs().max() > 1000
    same(
        measured(chunked_cross_entropy, hidden, weight, targets),
        measured(whole, hidden, weight, targets),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "autocast"])
def test_rounding_is_that_of_whole_logits(dtype):
    casts = dtype == "autocast"
    hidden, weight, targets = drawn(257, torch.float32 if casts else dtype)
    exact = measured(whole, hidden.double(), weight.double(), targets)
    with torch.autocast("cpu", torch.bfloat16, enabled=casts):
        plain = measured(whole, hidden, weight, targets)
        found = measured(chunked_cross_entropy, hidden, weight, targets)
    for f, p, e, factor in zip(found, plain, exact, (2, 3, 3), strict=True):
        assert f.dtype == p.dtype
        assert (f - e).abs().max() <= factor * (p - e).abs().max() + 1e-6 * e.abs().max()


def test_gradcheck():
    hidden, weight, targets = drawn(12, torch.float64)
    targets[3] = -100
    torch.autograd.gradcheck(lambda h, w: chunked_cross_entropy(h, w, targets), (hidden, weight))


def test_memory_that_was_never_written_does_not_show():
    torch.use_deterministic_algorithms(True)  # fills fresh memory with nan
    try:
        assert torch.empty(1).isnan()
        hidden, weight, targets = drawn(25, torch.float64)
        found = measured(chunked_cross_entropy, hidden, weight, targets)
    finally:
        torch.use_deterministic_algorithms(False)
    same(found, measured(whole, hidden, weight, targets))


def test_no_target_counts():
    hidden, weight, targets = drawn(12, torch.float32)
    found = measured(chunked_cross_entropy, hidden, weight, torch.full_like(targets, -100))
    assert found[0].isnan()
    assert found[1].count_nonzero() == found[2].count_nonzero() == 0


def test_another_ignored_id():
    hidden, weight, targets = drawn(12, torch.float64)
    other = targets.clone()
    targets[4], other[4] = -100, -1
    found = chunked_cross_entropy(hidden, weight, other, ignored=-1)
    torch.testing.assert_close(found, chunked_cross_entropy(hidden, weight, targets))


@pytest.mark.parametrize("learns", [(False, False), (True, False), (False, True)])
def test_only_wanted_gradients_are_formed(learns):
    hidden, weight, targets = drawn(25, torch.float64)
    for tensor, wanted in zip((hidden, weight), learns, strict=True):
        tensor.requires_grad_(wanted)
    value, *formed = loss._summed(hidden, weight, targets, -100, *learns)
    assert [g.numel() > 0 for g in formed] == list(learns)
    assert value.requires_grad == any(learns)
    if any(learns):
        chunked_cross_entropy(hidden, weight, targets).backward()
        assert [t.grad is not None for t in (hidden, weight)] == list(learns)


def test_nothing_is_formed_without_grad_mode(monkeypatch):
    hidden, weight, targets = drawn(25, torch.float64)
    wanted, summed = [], loss._summed
    monkeypatch.setattr(loss, "_summed", lambda *a: (wanted.extend(a[-2:]), summed(*a))[1])
    with torch.no_grad():
        found = chunked_cross_entropy(hidden, weight, targets)
    assert wanted == [False, False]
    torch.testing.assert_close(found, whole(hidden, weight, targets))


def test_a_second_backward_pass_gives_the_same():
    hidden, weight, targets = drawn(25, torch.float64)
    value = chunked_cross_entropy(hidden, weight, targets)
    first = torch.autograd.grad(value, (hidden, weight), retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(value, (hidden, weight)), strict=True):
        assert torch.equal(a, b)


def test_the_operator_is_registered_well():
    hidden, weight, targets = drawn(25, torch.float32)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    for learns in ((True, True), (False, True), (False, False)):
        arguments = (hidden, weight, targets, -100, *learns)
        torch.library.opcheck(loss._summed, arguments, test_utils=tests)


def test_peak_memory_holds_no_logits(monkeypatch):
    """One chunk is the largest tensor that is made."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in torch.utils._pytree.tree_leaves(out):
                if isinstance(t, torch.Tensor):
                    largest = max(largest, t.untyped_storage().nbytes() // t.itemsize)
            return out

    hidden, weight, targets = drawn(500, torch.float32)
    with Watch():
        loss._summed._init_fn(hidden.detach(), weight.detach(), targets, -100, True, True)
    assert largest <= max(10 * V, 500 * D)


def test_uniform_predictions_cost_the_log_of_the_vocabulary():
    hidden, weight = torch.zeros(3, D), torch.randn(V, D)
    found = chunked_cross_entropy(hidden, weight, torch.tensor([0, 5, 36]))
    assert found.item() == pytest.approx(math.log(V))


def test_a_target_outside_the_vocabulary_is_refused():
    hidden, weight, targets = drawn(3, torch.float32)
    targets[1] = V
    with pytest.raises(RuntimeError, match="out of bounds"):
        chunked_cross_entropy(hidden, weight, targets)
