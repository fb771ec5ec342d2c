"""What a model must hold."""

import copy
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from sympformer.causality import audit
from sympformer.causality.loss import fault_of_loss
from sympformer.causality.subject import Subject, limit_of
from sympformer.errors import InputError, one_line, shown
from sympformer.testing.reported import reported

TOKENS = 12


def check_model(
    model_or_factory: nn.Module | Callable[[], nn.Module], vocab_size: int | None = None
) -> None:
    """Causality, cached decoding, repeats, precision, saved weights; and the loss, if it has one.

    Works for our models and for any module that gives logits `(B, T, V)` for ids `(B, T)`, or for
    ids and targets, in any form that `sf.audit` takes. The loss is checked if `forward` takes
    `targets`: `model(tokens, targets)` is then the loss, or has it as `.loss`, `["loss"]` or the
    only number of a tuple. The module, its mode and its gradients are left as they are.

    Args:
        model_or_factory: a module; or a function that makes one, the same each time but for its
            random weights: then what `state_dict` leaves out is found as well.
        vocab_size: V; by default `model.config.vocab_size`.

    Raises:
        AssertionError: it is no sound decoder, or its loss is another.
    """
    assert callable(model_or_factory), (
        f"check_model takes a module or a function that makes one, not {shown(model_or_factory)}"
    )
    with torch.random.fork_rng(devices=[]), reported("the model"):
        _check(model_or_factory, vocab_size)


def _check(model_or_factory: nn.Module | Callable[[], nn.Module], vocab_size: int | None) -> None:
    if isinstance(model_or_factory, nn.Module):
        model = copy.deepcopy(model_or_factory)
        other = copy.deepcopy(model)
        with torch.no_grad():
            for p in other.parameters():
                p.add_(torch.randn_like(p))
    else:
        model, other = model_or_factory(), model_or_factory()
        assert isinstance(model, nn.Module), f"the function must make a module, not {shown(model)}"
    model, other = model.eval(), other.eval()
    size = vocab_size or getattr(getattr(model, "config", None), "vocab_size", None)
    assert size, "the model has no config.vocab_size: give vocab_size="
    length = min(TOKENS, limit_of(model) or TOKENS)
    ids = torch.randint(size, (2, length))
    call = _call(model, ids)
    logits = _logits(model, call, ids)
    assert torch.equal(_logits(model, call, ids), logits), (
        "the model in evaluation mode gives other logits the second time"
    )
    _check_audit(model, call, length, size)
    _check_precision(model, call, ids)
    _check_state(model, other, call, ids, logits)
    if "targets" in signature(model.forward).parameters:
        _check_loss(model, ids, torch.randint(size, ids.shape), call)


Call = Callable[..., Any] | None


def _with_targets(model: nn.Module, ids: Tensor) -> Any:
    return model(ids, ids.roll(-1, 1))  # as in training: a look at them is one ahead


def _call(model: nn.Module, ids: Tensor) -> Call:
    """How the logits of every position are had: from ids, or from ids and targets."""
    problem = ""
    for call in (None, _with_targets):
        try:
            _logits(model, call, ids)
            return call
        except InputError as error:
            problem = problem or str(error)
        except Exception as error:  # whatever a model raises that wants something else
            problem = problem or one_line(error)
    raise AssertionError(
        "nothing can be said of a model without logits of every position, for ids or for ids and "
        f"targets: {problem}"
    )


@torch.no_grad()
def _logits(model: nn.Module, call: Call, ids: Tensor) -> Tensor:
    out = call(model, ids) if call else model(ids)
    return Subject(model, call).logits_of(out, ids)


def _check_audit(model: nn.Module, call: Call, length: int, vocab_size: int) -> None:
    report = audit(model, length, vocab_size=vocab_size, call=call)
    assert report.passed, report.verdict
    for check, reason in report.not_made.items():
        assert not reason.startswith("the model fails"), f"audit of {check}: {reason}"


def _check_precision(model: nn.Module, call: Call, ids: Tensor) -> None:
    exact = _logits(copy.deepcopy(model).double(), call, ids).double()
    low = _logits(copy.deepcopy(model).float(), call, ids).double()
    off = ((low - exact).norm() / exact.norm()).item()
    assert off < 1e-3, f"the logits in float32 are off by {off:.2g} of their size in float64"


def _check_state(
    model: nn.Module, other: nn.Module, call: Call, ids: Tensor, logits: Tensor
) -> None:
    """The weights of one model make another the same."""
    try:
        other.load_state_dict(model.state_dict())
    except Exception as error:  # whatever a model of one's own raises
        raise AssertionError(
            f"its own state_dict does not fit the model: {one_line(error)}"
        ) from error
    off = (_logits(other, call, ids) - logits).abs().max().item()
    assert off == 0, f"a model with the same state_dict has other logits, off by {off:.2g}"


def _check_loss(model: nn.Module, ids: Tensor, targets: Tensor, call: Call) -> None:
    out = model(ids, targets)
    loss = _loss(out)
    assert loss is not None, "model(tokens, targets) gives no loss: a number, or .loss"
    assert loss.requires_grad, "the loss given targets has no gradient"
    fault = fault_of_loss(loss.item(), _logits(model, call, ids), targets)
    assert not fault, fault


def _loss(out: Any) -> Tensor | None:
    """The loss in an output: itself, `.loss`, `["loss"]`, or the only number of a tuple."""
    if isinstance(out, Mapping):
        out = out.get("loss")
    elif isinstance(out, tuple | list):
        numbers = [part for part in out if isinstance(part, Tensor) and part.ndim == 0]
        out = numbers[0] if len(numbers) == 1 else None
    elif not isinstance(out, Tensor):
        out = getattr(out, "loss", None)
    return out if isinstance(out, Tensor) and out.ndim == 0 else None
