"""The audit as a whole: what is measured, on what, with which weights."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sympformer.causality.checks import ROWS, Cover, Trial
from sympformer.causality.compiled import compiled
from sympformer.causality.copies import SCALES, float64_copy, reweighted, undisturbed
from sympformer.causality.loss import custom_fault
from sympformer.causality.precision import coarsest_dtype
from sympformer.causality.report import CHECKS, AuditReport
from sympformer.causality.subject import Subject, device_of, limit_of
from sympformer.errors import InputError, one_line, shown
from sympformer.model import CustomModel
from sympformer.typed import check


def audit(
    model: Callable[..., Any],
    length: int | None = None,
    *,
    vocab_size: int | None = None,
    call: Callable[..., Any] | None = None,
    logits: Callable[[Any], Tensor] | None = None,
    seed: int = 0,
    compile: bool = False,
) -> AuditReport:
    """Measure whether any output of `model` depends on a later token.

    Works on every callable from ids (B, T) int64, contiguous, to logits (B, T, V): a tensor, the
    only such tensor of a tuple or list, `["logits"]` or `.logits` of the output. A module is
    audited in a float64 copy, with its own weights and with redrawn ones; of a function the checks
    are made that can be. The cache is checked where it is taken as `cache=`, `past_key_values=` or
    `state=` and the output holds it under the same name. Of a model that was registered, the loss
    given targets must be that of its logits. What could not be checked is in the
    report. The model, its mode, its gradients and the caller's random state are left as they are.

    Args:
        model: a module, in any mode and precision, or another callable, as it is.
        length: tokens in a test sequence, at least 2; by default 64, or as many as the config of
            the model allows if that is less.
        vocab_size: number of tokens V; by default `model.config.vocab_size`.
        call: `call(model, ids)` in place of `model(ids)`. It must call the model that it is given,
            which is the copy, and give it as targets, if any, the tokens that follow
            (`ids.roll(-1, 1)`). A cache is checked if it takes one, under one of the names above.
        logits: a function of the output, where it does not say which are the logits.
        seed: of the test sequences and of the redrawn weights.
        compile: measure the model as it runs compiled: a language model's blocks in a pass over
            `length` tokens and its step of decoding, any other module as a whole.

    Raises:
        InputError: the length or the vocabulary cannot be used, the model cannot be called or
            copied, the output has no logits of every position, or there is nothing to compile
            (with).
    """
    if not callable(model):
        raise InputError(f"the audit needs a module or a function of ids, not {model!r}")
    for name, function in (("call", call), ("logits", logits)):
        if function is not None and not callable(function):
            raise InputError(f"{name} must be a function, not {shown(function)}")
    for name, number in (("length", length), ("vocab_size", vocab_size)):
        check(name, number, int | None)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "a module of torch.jit cannot be watched: audit the module that it was made of, or a "
            "function of ids, lambda ids: model(ids)"
        )
    length, vocab_size = _sizes(model, length, vocab_size)
    subject = Subject(model, call, logits)
    if subject.device.type == "meta":
        raise InputError("the model is on the device meta, without values: initialise it first")
    if compile and subject.module is None:
        raise InputError("compile: a function is audited as it is; give a module, or compile it")
    draw = torch.Generator().manual_seed(seed)
    trials: list[Trial] = []
    repeats, wrong_loss = True, ""
    covers = {"influence": Cover(1, length - 1, draw), "gradient": Cover(0, length - 2, draw)}
    with undisturbed(subject.device):
        if subject.module is not None:
            subject = Subject(float64_copy(subject.module), call, logits)
        dtype = _coarsest_dtype(subject, length, vocab_size)
        where = _where(model, subject, dtype, compile)
        ready = (
            compiled(subject.module, length)
            if compile and subject.module is not None
            else nullcontext(subject.module)
        )
        with ready as module:
            subject = Subject(model if module is None else module, call, logits)
            for weights in reweighted(module, draw):
                if len(trials) == 1 and trials[0].repeats():
                    trials[0].not_made["redrawn weights"] = (
                        "redrawing them moves no output: call= must use the model it is given"
                        if call
                        else "redrawing them moves no output"
                    )
                    break
                trial = Trial(subject, weights, length, vocab_size, dtype, draw, covers)
                trials.append(trial)
                repeats = repeats and trial.is_steady()
                trial.measure(1 if len(trials) == 1 else len(SCALES))
                if len(trials) == 1 and isinstance(module, CustomModel):
                    wrong_loss = custom_fault(module, trial.tokens, trial.logits, dtype)
    if module is None or not any(p.is_floating_point() for p in module.parameters()):
        kind = "function" if module is None else "module"
        trials[0].not_made["redrawn weights"] = f"the {kind} shows none"
    untried = [
        f"{check} at {len(cover.tried)} of {cover.all}"
        for check, cover in covers.items()
        if 0 < len(cover.tried) < cover.all
    ]
    if untried:
        trials[0].not_made["every position"] = ", ".join(untried)
    return replace(_report(trials, length, where), repeats=repeats, wrong_loss=wrong_loss)


def _sizes(model: Any, length: int | None, vocab_size: int | None) -> tuple[int, int]:
    """Tokens in a sequence and ids, by default from the config of the model."""
    limit = limit_of(model)
    length = min(64, limit or 64) if length is None else length
    vocab_size = vocab_size or getattr(getattr(model, "config", None), "vocab_size", None)
    if vocab_size is None or vocab_size < 2:
        raise InputError("the audit needs vocab_size= (--vocab-size), the number of ids, 2 or more")
    if length < 2:
        raise InputError(f"length {length}: the audit needs at least 2 tokens")
    if limit is not None and length > limit:
        raise InputError(f"length {length} is above the model's block size; use up to {limit}")
    return length, vocab_size


def _coarsest_dtype(subject: Subject, length: int, vocab_size: int) -> torch.dtype:
    ids = torch.randint(vocab_size, (ROWS, length), generator=torch.Generator().manual_seed(0)).to(
        subject.device
    )
    try:
        return coarsest_dtype(lambda: subject(ids)[0])
    except InputError:
        raise
    except Exception as error:  # whatever a model raises that wants something else
        raise InputError(
            f"the model fails on ids {tuple(ids.shape)} below {vocab_size} ({one_line(error)}): "
            "give call=, e.g. lambda m, ids: m(ids, ids.roll(-1, 1))[0], or length= (--length), if "
            "it takes fewer tokens"
        ) from error


def _where(model: Any, subject: Subject, dtype: torch.dtype, compile: bool) -> str:
    """In which precision, on what and how the model is audited, for the report."""
    name = str(dtype).removeprefix("torch.")
    if subject.module is None:
        return f"in {name}"
    where = "in float64" if dtype == torch.float64 else f"in float64, {name} inside"
    if device_of(model).type != subject.device.type:
        where += f", on the {subject.device.type} ({device_of(model).type} has no float64)"
    if compile:
        where += ", compiled"
    elif hasattr(model, "_orig_mod"):
        where += ", not compiled"
    return where


def _report(trials: list[Trial], length: int, where: str) -> AuditReport:
    """The worst of each check."""
    worst, not_made = {}, {}
    for name in CHECKS:
        found = [finding for trial in trials for finding in trial.findings[name]]
        worst[name] = max(found, key=lambda f: f.value / (f.allowed or 1), default=None)
    for trial in trials:
        not_made.update(trial.not_made)
    nonfinite = tuple(trial.nonfinite for trial in trials if trial.nonfinite)
    return AuditReport(length, **worst, nonfinite=nonfinite, not_made=not_made, where=where)
