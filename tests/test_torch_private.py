"""Each name of torch that is not public, hidden: what uses it does without, or says so."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
import torch._dynamo.config
import torch._functorch.config
import torch._inductor
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

import sympformer as sf
from sympformer import compiler, products, torch_private
from sympformer.causality import compiled
from sympformer.causality.compiled import compiled as compiled_for_audit
from sympformer.compiler import compile_blocks, compile_step
from sympformer.derivatives import recorded
from sympformer.errors import InputError
from sympformer.torch_private import transformed

HERE = Path(torch_private.__file__)


@pytest.fixture
def hide(monkeypatch):
    """A function that takes an attribute from a module of torch, until the test is over."""

    def hide(owner, name):
        monkeypatch.delattr(owner, name)
        importlib.reload(torch_private)

    yield hide
    monkeypatch.undo()
    importlib.reload(torch_private)


def test_no_other_module_reaches_for_such_names():
    names = r"torch\.(_[^_]|ops\.)", r"from torch(\.\w+)*\._", r"forward_ad\._", r"\._dynamo"
    private = re.compile("|".join(names))
    found = {
        path.name
        for path in HERE.parent.rglob("*.py")
        if private.search(re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL))
    }
    assert found == {HERE.name}


def test_nothing_is_hidden_yet():
    """Each test below hides a name that this torch has, and the fast way is taken with it."""
    assert torch_private.has_onednn_product
    assert torch_private._told
    assert torch_private._mapped is not None
    assert torch_private.hooks_are_seen() is not None
    torch_private.import_made_once()
    row = torch.randn(8)
    assert torch.equal(torch_private.made_once(row), row)
    assert torch_private.compiler_options(compiler.DECODING).keys() == {
        "cpp.min_chunk_size",
        "size_asserts",
    }


def test_without_the_product_of_onednn(monkeypatch):
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8)
    products._better.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    importlib.reload(torch_private)
    try:
        assert not torch_private.has_onednn_product
        assert not products._better()
        torch.testing.assert_close(torch_private.onednn_product(x, weight), F.linear(x, weight))
        monkeypatch.setattr(products, "suits", lambda a, b: True)
        torch.testing.assert_close(products.linear(x, weight), F.linear(x, weight))
    finally:
        monkeypatch.undo()
        importlib.reload(torch_private)
        products._better.cache_clear()
    assert torch_private.has_onednn_product


def test_without_names_that_tell_of_transforms(hide):
    hide(torch._C._functorch, "get_dynamic_layer_stack_depth")
    hide(torch._C._functorch, "is_legacy_batchedtensor")
    assert not torch_private._told
    assert torch_private._mapped is None


@pytest.mark.parametrize("name", ["symp-r2", "linear-symp-r2"])
def test_transforms_are_seen_in_the_tensors(name, tiny, monkeypatch):
    model = sf.build(tiny(name, n_layer=1, n_head=1, n_embd=4)).double()
    weights = {k: p.detach() for k, p in model.named_parameters()}
    tokens = torch.randint(37, (1, 9))

    def loss(w):
        return torch.func.functional_call(model, w, (tokens, tokens)).loss

    def hessian():
        learned = [p.clone().requires_grad_() for p in weights.values()]
        value = loss(dict(zip(weights, learned, strict=True)))
        options = {"allow_unused": True, "materialize_grads": True}
        first = torch.autograd.grad(value, learned, create_graph=True, **options)
        return torch.autograd.grad(sum(g.square().sum() for g in first), learned, **options)

    def results():
        forwards = torch.func.jvp(loss, (weights,), (weights,))
        return forwards, torch.func.grad(loss)(weights), hessian()

    expected = results()
    monkeypatch.setattr(torch_private, "_told", False)
    monkeypatch.setattr(torch_private, "_mapped", None)
    torch.testing.assert_close(results(), expected)


def test_what_is_seen_in_tensors(monkeypatch):
    monkeypatch.setattr(torch_private, "_told", False)
    monkeypatch.setattr(torch_private, "_mapped", None)
    x, seen = torch.randn(3), []
    assert not transformed(x)
    assert torch.func.vmap(lambda t: t * transformed(t))(torch.ones(2, 3)).all()
    with forward_ad.dual_level():
        assert transformed(x, forward_ad.make_dual(x, x))
        assert not transformed(x)
    with torch.no_grad():
        assert not recorded(x, None)
    y = x.clone().requires_grad_()
    z = y * 2
    z.register_hook(lambda g: seen.append(recorded(g)))
    torch.autograd.grad(z, y, torch.eye(3), is_grads_batched=True)
    assert seen == [True]


def test_without_an_operator_that_makes_rows_once(monkeypatch):
    monkeypatch.setattr(torch.ops, "prims", SimpleNamespace())
    row = torch.randn(8)
    assert torch_private.made_once(row) is row
    monkeypatch.setattr(importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError))
    torch_private.import_made_once()


def test_without_an_option_of_the_compiler(monkeypatch):
    known = [o for o in torch._inductor.list_options() if o != "cpp.min_chunk_size"]
    monkeypatch.setattr(torch._inductor, "list_options", lambda: known)
    compile_step.cache_clear()
    assert torch_private.compiler_options(compiler.DECODING) == {"size_asserts": False}
    compile_step(torch.sin)  # refuses options that it does not know
    compile_step.cache_clear()


def test_without_a_name_for_the_failure_of_the_compiler(hide):
    import torch._dynamo.exc

    assert issubclass(torch_private.compiler_failure(), RuntimeError)
    hide(torch._dynamo.exc, "BackendCompilerFailed")
    assert torch_private.compiler_failure() is RuntimeError
    compiler.require_compiler.cache_clear()
    compiler.require_compiler("cpu")


def test_without_tensors_of_shapes_only(hide):
    import torch._subclasses.fake_tensor

    with torch_private.shapes_only():
        assert torch.ones(2**50).sum().shape == ()
    hide(torch._subclasses.fake_tensor, "FakeTensorMode")
    with torch_private.shapes_only():
        assert torch.ones(2).sum() == 2


def test_blocks_whose_compiled_form_is_elsewhere_stay_as_they_are():
    block = nn.Linear(2, 2)
    torch_private.call_uncompiled_if(lambda: True, block)  # not compiled at all
    assert block(torch.zeros(1, 2)).shape == (1, 2)
    assert block._compiled_call_impl is None
    compile_blocks([block])
    assert block._compiled_call_impl is not None


class Hidden(SimpleNamespace):
    """Settings without the one that is looked for."""


@pytest.mark.parametrize("hidden", ["torch._dynamo.config", "torch._functorch.config"])
def test_without_a_setting_of_the_compiler(hidden, tiny, monkeypatch):
    importing = importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda name: Hidden() if name == hidden else importing(name)
    )
    monkeypatch.setattr(compiled, "require_compiler", lambda device: None)
    with compiled_for_audit(sf.build(tiny("gpt")), 8) as subject:
        assert subject.length == 8
    if hidden == "torch._dynamo.config":
        with (
            pytest.raises(InputError, match="without compiling") as refused,
            compiled_for_audit(nn.Linear(2, 2), 8),
        ):
            pass
        assert "\n" not in str(refused.value)
    else:
        with compiled_for_audit(nn.Linear(2, 2), 8), torch_private.passes_are_kept():
            pass
