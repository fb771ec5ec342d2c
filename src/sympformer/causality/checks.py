"""The measurements of the audit."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from sympformer.causality.compiled import compiled
from sympformer.causality.copies import (
    first_line,
    float64_copy,
    reweighted,
    undisturbed,
    watched_embeddings,
)
from sympformer.causality.precision import (
    DECIDABLE,
    FLOAT32_SHAPE_TOLERANCE,
    GRADIENT_TOLERANCE,
    SHAPE_TOLERANCE,
    causal_tolerance,
    coarsest_dtype,
    jolted,
)
from sympformer.causality.report import AuditReport, Finding
from sympformer.causality.subject import CACHES, Subject, device_of, limit_of
from sympformer.errors import InputError

CHECKS = ("influence", "gradient", "prefix", "cache")
SCALES = (0.5, 1.0, 2.0)
"""Of the redrawn weights; the model's own weights are audited too."""
SEQUENCES = 2
POSITIONS = 8
"""Tokens or outputs that a check tries with each set of weights, drawn anew every time."""
ROUNDINGS = 20
"""How much more than a rounding of the weights a change of shape may move an output."""


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
    are made that can be. The cache is checked where it is taken as `cache=`, `past_key_values=`,
    `cache_params=` or `state=` and the output holds it under the same name; where `use_cache` and
    `cache_position` are taken too, they are given. What could not be checked is in the report.
    The model, its mode, its gradients and the caller's random state are left as they are.

    Args:
        model: a module, in any mode and precision, or another callable, as it is.
        length: tokens in a test sequence, at least 2; by default 64, or as many as the config of
            the model allows if that is less.
        vocab_size: number of tokens V; by default `model.config.vocab_size`.
        call: `call(model, ids)` in place of `model(ids)`. It must call the model that it is given,
            which is the copy. A cache is checked if it takes one, under one of the names above.
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
    limit = limit_of(model)
    length = min(64, limit or 64) if length is None else length
    vocab_size = vocab_size or getattr(getattr(model, "config", None), "vocab_size", None)
    if vocab_size is None or vocab_size < 2:
        raise InputError("the audit needs vocab_size=, the number of tokens (2 or more)")
    if length < 2:
        raise InputError(f"length {length}: the audit needs at least 2 tokens")
    if limit is not None and length > limit:
        raise InputError(f"length {length} is above the model's block size; use up to {limit}")

    subject = Subject(model, call, logits)
    if compile and subject.module is None:
        raise InputError("compile: a function is audited as it is; give a module, or compile it")
    draw = torch.Generator().manual_seed(seed)
    trials: list[_Trial] = []
    with undisturbed(subject.device):
        if subject.module is not None:
            subject = Subject(float64_copy(subject.module), call, logits)
        dtype = _coarsest_dtype(subject, length, vocab_size)
        where = _where(model, subject, dtype, compile)
        with compiled(subject.module, length) if compile else nullcontext(subject.module) as module:
            subject = Subject(model if module is None else module, call, logits)
            for weights in reweighted(module, SCALES, draw):
                if len(trials) == 1 and trials[0].repeats():
                    trials[0].not_made["redrawn weights"] = (
                        "redrawing them moves no output: call= must use the model it is given"
                        if call
                        else "redrawing them moves no output"
                    )
                    break
                trials.append(_Trial(subject, weights, length, vocab_size, dtype, draw))
                trials[-1].measure()
    if module is None or not any(p.is_floating_point() for p in module.parameters()):
        kind = "function" if module is None else "module"
        trials[0].not_made["redrawn weights"] = f"the {kind} shows none"
    return _report(trials, length, where)


def _coarsest_dtype(subject: Subject, length: int, vocab_size: int) -> torch.dtype:
    ids = torch.randint(
        vocab_size, (SEQUENCES, length), generator=torch.Generator().manual_seed(0)
    ).to(subject.device)
    try:
        return coarsest_dtype(lambda: subject(ids)[0])
    except InputError:
        raise
    except Exception as error:  # whatever a model raises that wants something else
        raise InputError(
            f"the model fails on ids {tuple(ids.shape)} below {vocab_size} ({first_line(error)}): "
            "give call=, e.g. lambda model, ids: model(ids, ids)[0]"
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


def _report(trials: list["_Trial"], length: int, where: str) -> AuditReport:
    """The worst of each check."""
    worst, not_made = {}, {}
    for name in CHECKS:
        found = [finding for trial in trials for finding in trial.findings[name]]
        worst[name] = max(found, key=lambda f: f.value / (f.allowed or 1), default=None)
    for trial in trials:
        not_made.update(trial.not_made)
    nonfinite = tuple(trial.nonfinite for trial in trials if trial.nonfinite)
    return AuditReport(length, **worst, nonfinite=nonfinite, not_made=not_made, where=where)


class _Trial:
    """The checks on one set of weights and one batch of random sequences.

    Attributes:
        findings: what each check found, by its name.
        nonfinite: the weights, should their outputs not be finite; nothing is measured then.
        not_made: why a check, or a part of it, was not made.
    """

    def __init__(
        self,
        subject: Subject,
        weights: str,
        length: int,
        vocab_size: int,
        dtype: torch.dtype,
        draw: torch.Generator,
    ):
        self.subject, self.weights, self.length, self.draw = subject, weights, length, draw
        self.vocab_size, self.dtype = vocab_size, dtype
        self.tokens = self._integers(0, vocab_size, SEQUENCES, length)
        with torch.no_grad():
            self.logits, _ = subject(self.tokens)
        # The median over the vocabulary: ids masked by a huge constant must not dwarf the rest.
        self.unit = self.logits.std((0, 1)).median().item() or 1.0
        self.findings: dict[str, list[Finding]] = {name: [] for name in CHECKS}
        self.nonfinite = ""
        self.not_made: dict[str, str] = {}

    def measure(self) -> None:
        """Make the checks that can be made."""
        gradient = list(self._gradient())
        if not math.isfinite(self.unit):
            self.nonfinite = self.weights
        elif not all(math.isfinite(finding.value) for finding in gradient):
            self.nonfinite = f"{self.weights} (gradient)"
        else:
            self.findings["gradient"] = gradient
            self.findings["influence"] = list(self._influence())
            allowed = self._shape_tolerance()
            if allowed is None:
                name = str(self.dtype).removeprefix("torch.")
                reason = f"{name} rounds too much, with weights {self.weights}"
                self.not_made |= {"prefix": reason, "cache": reason}
            else:
                self.findings["prefix"] = list(self._prefix(allowed))
                self.findings["cache"] = list(self._cache(allowed))

    @torch.no_grad()
    def repeats(self) -> bool:
        """Whether the outputs are the same once more, after the weights were redrawn."""
        return torch.equal(self.subject(self.tokens)[0], self.logits)

    @torch.no_grad()
    def _influence(self) -> Iterator[Finding]:
        """Change token j and look at the outputs before j."""
        allowed = causal_tolerance(self.dtype)
        for j in self._positions(1, self.length - 1):
            changed = self.tokens.clone()
            changed[:, j] += self._integers(1, self.vocab_size, SEQUENCES)
            logits, _ = self.subject(changed % self.vocab_size)
            yield self._moved(logits[:, :j], allowed, token=j)

    def _gradient(self) -> Iterator[Finding]:
        """Differentiate a random projection of output i with respect to the embeddings."""
        with watched_embeddings(self.subject.module, self.tokens) as embeddings:
            logits, _ = self.subject(self.tokens)
        if not embeddings:
            self.not_made["gradient"] = "no embedding of the ids was seen"
            return
        if not logits.requires_grad:
            self.not_made["gradient"] = "the model records none"
            return
        for i in self._positions(0, self.length - 2):
            direction = torch.randn(logits.shape[-1], generator=self.draw, dtype=torch.float64)
            projection = (logits[:, i] @ direction.to(logits)).sum()
            gradients = torch.autograd.grad(
                projection, embeddings, retain_graph=True, materialize_grads=True
            )
            size = torch.stack([g.abs().amax((0, 2)) for g in gradients]).amax(0)
            size /= size[: i + 1].max().item() or 1.0
            j = i + 1 + int(size[i + 1 :].argmax())
            yield Finding(size[j].item(), self.weights, j, i, GRADIENT_TOLERANCE)

    @torch.no_grad()
    def _prefix(self, allowed: float) -> Iterator[Finding]:
        """Compare the outputs of n tokens alone with those of the whole sequence."""
        for n in self._positions(1, self.length - 1):
            logits, _ = self.subject(self.tokens[:, :n])
            yield self._moved(logits, allowed, token=n)

    @torch.no_grad()
    def _cache(self, allowed: float) -> Iterator[Finding]:
        """Decode one by one; prefill and decode; go back to the prefill and add a chunk.

        A cache that the model gives back as the same object is one that it changes in place: it is
        copied before a continuation. Any other has to stay valid.
        """
        if self.subject.cache_name is None:
            self.not_made["cache"] = f"none is taken as {', '.join(CACHES[:-1])} or {CACHES[-1]}"
            return
        try:
            yield from self._continued(allowed)
        except Exception as error:  # whatever a model raises that wants something else
            self.not_made["cache"] = f"decoding fails ({first_line(error)})"

    def _continued(self, allowed: float) -> Iterator[Finding]:
        def step(first: int, end: int, cache: Any) -> tuple[Finding, Any]:
            ids = self.tokens[:, first:end]
            logits, cache = self.subject(ids, cache, start=first, keep=True)
            return self._moved(logits, allowed, token=first, first=first), cache

        cache, in_place = None, False
        for i in range(self.length):
            before = cache
            finding, cache = step(i, i + 1, before)
            if cache is None:
                self.not_made["cache"] = f"the output holds no {self.subject.cache_name}"
                return
            in_place = cache is before
            yield finding
        n = self.length // 2 | 1
        _, cache = step(0, n, None)
        kept = copy.deepcopy(cache) if in_place else cache
        for i in range(n, min(n + 2, self.length)):
            finding, cache = step(i, i + 1, cache)
            yield finding
        yield step(n, self.length, kept)[0]

    def _shape_tolerance(self) -> float | None:
        """What may move in an output with the number of tokens; None if rounding hides it."""
        if self.dtype == torch.float64:
            return SHAPE_TOLERANCE
        rounding = 0.0
        if self.subject.module is not None:
            with torch.no_grad(), jolted(self.subject.module, self.dtype, self.draw):
                logits, _ = self.subject(self.tokens)
            rounding = self._moved(logits, 0.0, token=0).value
        if not rounding:  # the weights are not ours to move
            return FLOAT32_SHAPE_TOLERANCE if self.dtype == torch.float32 else None
        allowed = max(SHAPE_TOLERANCE, ROUNDINGS * rounding)
        return allowed if allowed <= DECIDABLE else None

    def _moved(self, logits: Tensor, allowed: float, token: int, first: int = 0) -> Finding:
        """Compare `logits`, outputs from `first` on, with those of the whole sequence."""
        reference = self.logits[:, first : first + logits.shape[1]]
        difference = (logits - reference).double().abs().amax((0, 2)) / self.unit
        difference = difference.nan_to_num(nan=torch.finfo(difference.dtype).max)
        output = int(difference.argmax())
        return Finding(difference[output].item(), self.weights, token, first + output, allowed)

    def _positions(self, low: int, high: int) -> list[int]:
        """Both ends and random positions between them, in order."""
        between = torch.randint(low, high + 1, (POSITIONS - 2,), generator=self.draw)
        return sorted({low, high, *between.tolist()})

    def _integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.draw).to(self.subject.device)
