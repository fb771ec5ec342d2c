"""The checks of the audit, on one set of weights."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sympformer.causality.embeddings import watched_embeddings
from sympformer.causality.precision import (
    DECIDABLE,
    FLOAT32_SHAPE_TOLERANCE,
    GRADIENT_TOLERANCE,
    SHAPE_TOLERANCE,
    causal_tolerance,
    jolted,
)
from sympformer.causality.report import CHECKS, Finding
from sympformer.causality.subject import CACHES, Subject
from sympformer.errors import one_line

ROWS = 8
"""Sequences in a batch. In each of them another token is changed, or another output looked at."""
PASSES = 8
"""Batches that a check tries with each set of weights, drawn anew every time."""
FEW = 2
"""Rows of which prefixes and cached steps are compared: their shape is another anyway."""
ROUNDINGS = 10
"""How much more than a rounding of the weights a change of shape may move an output."""


class Cover:
    """Positions from `low` to `high` that a check tries, each once before any comes again.

    Up to `ROWS * PASSES` of them are tried with the model's own weights, and as many with all
    redrawn ones together; each set of weights goes on where the one before stopped.
    """

    def __init__(self, low: int, high: int, draw: torch.Generator):
        self.low, self.all, self.draw = low, high - low + 1, draw
        self.left: list[int] = []
        self.tried: set[int] = set()

    def batches(self, sets: int, together: bool) -> Iterator[Tensor]:
        """Positions `(ROWS,)`, one for each row; if `together`, one for all rows at a time.

        Args:
            sets: of weights, this one included, that share the positions.
            together: whether rows look at each other.
        """
        chosen: list[int] = []
        while len(chosen) < math.ceil(min(self.all, ROWS * PASSES) / sets):
            self.left = self.left or torch.randperm(self.all, generator=self.draw).tolist()
            chosen.append(self.low + self.left.pop())
        size = 1 if together else ROWS
        for first in range(0, len(chosen), size):
            batch = chosen[first : first + size]
            yield torch.tensor(batch + [batch[0]] * (ROWS - len(batch)))
            self.tried.update(batch)


class Trial:
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
        covers: Mapping[str, Cover],
    ):
        self.subject, self.weights, self.length, self.draw = subject, weights, length, draw
        self.vocab_size, self.dtype, self.covers = vocab_size, dtype, covers
        self.tokens = self._integers(0, vocab_size, ROWS, length)
        self.places = torch.arange(length, device=subject.device)
        self.rows = torch.arange(ROWS, device=subject.device)
        with torch.no_grad():
            self.logits, _ = subject(self.tokens)
        # The median over the vocabulary: ids masked by a huge constant must not dwarf the rest.
        self.unit = self.logits.std((0, 1)).median().item() or 1.0
        self.findings: dict[str, list[Finding]] = {name: [] for name in CHECKS}
        self.nonfinite = ""
        self.not_made: dict[str, str] = {}
        self.prefill: tuple[int, Any] | None = None

    def measure(self, sets: int) -> None:
        """Make the checks that can be made; `sets` of weights share the positions."""
        together = math.isfinite(self.unit) and self._rows_mix()
        batches = {name: cover.batches(sets, together) for name, cover in self.covers.items()}
        self._gather("gradient", self._gradient(batches["gradient"]))
        if not math.isfinite(self.unit):
            self.nonfinite = self.weights
        elif not all(math.isfinite(finding.value) for finding in self.findings["gradient"]):
            self.nonfinite = f"{self.weights} (gradient)"
        if self.nonfinite:
            self.findings["gradient"].clear()
            return
        self._gather("influence", self._influence(batches["influence"]))
        allowed = self._shape_tolerance()
        if allowed is None:
            name = str(self.dtype).removeprefix("torch.")
            reason = f"{name} rounds too much, with weights {self.weights}"
            self.not_made |= {"prefix": reason, "cache": reason}
            return
        self._gather("prefix", self._prefix(allowed))
        self._gather("cache", self._cache(allowed))
        if self.prefill is not None:
            self._gather("chunk", self._chunk(allowed, *self.prefill))

    def _gather(self, check: str, findings: Iterator[Finding]) -> None:
        """Whatever a model raises that wants to be called otherwise ends a check, not the audit."""
        try:
            for finding in findings:
                self.findings[check].append(finding)
        except Exception as error:
            self.not_made[check] = f"the model fails ({one_line(error)})"

    @torch.no_grad()
    def repeats(self) -> bool:
        """Whether the outputs are the same once more, after the weights were redrawn."""
        return torch.equal(self.subject(self.tokens)[0], self.logits)

    @torch.no_grad()
    def is_steady(self) -> bool:
        """Whether the same ids give the same outputs, to what an influence may be."""
        if not math.isfinite(self.unit):
            return True
        again = self._difference(self.subject(self.tokens)[0])
        return not bool((again > causal_tolerance(self.dtype)).any())

    @torch.no_grad()
    def _rows_mix(self) -> bool:
        """Whether rows look at each other, so that no two of them may be tried at once."""
        changed = self.tokens.clone()
        changed[0] += self._integers(1, self.vocab_size, self.length)
        logits, _ = self.subject(changed % self.vocab_size)
        return bool((self._difference(logits)[1:] > causal_tolerance(self.dtype)).any())

    @torch.no_grad()
    def _influence(self, batches: Iterator[Tensor]) -> Iterator[Finding]:
        """Change a token of each row and look at the outputs before it."""
        allowed = causal_tolerance(self.dtype)
        for batch in batches:
            token, changed = batch.to(self.rows.device), self.tokens.clone()
            changed[self.rows, token] += self._integers(1, self.vocab_size, ROWS)
            logits, _ = self.subject(changed % self.vocab_size)
            moved = self._difference(logits).masked_fill(self.places >= token[:, None], 0.0)
            row, output = divmod(int(moved.argmax()), self.length)
            value, j = moved[row, output].item(), int(batch[row])
            yield Finding(value, self.weights, j, output, allowed)

    def _gradient(self, batches: Iterator[Tensor]) -> Iterator[Finding]:
        """Differentiate a random projection of an output of each row by the embeddings."""
        with watched_embeddings(self.subject.module, self.tokens) as embeddings:
            logits, _ = self.subject(self.tokens)
        if not embeddings:
            self.not_made["gradient"] = "no embedding of the ids was seen"
            return
        if not logits.requires_grad:
            self.not_made["gradient"] = "the model records none"
            return
        for batch in batches:
            output = batch.to(self.rows.device)
            direction = torch.randn(logits.shape[-1], generator=self.draw, dtype=torch.float64)
            projection = (logits[self.rows, output] @ direction.to(logits)).sum()
            try:
                gradients = torch.autograd.grad(
                    projection, embeddings, retain_graph=True, materialize_grads=True
                )
            except RuntimeError as error:  # a state that was overwritten in place, say
                self.not_made["gradient"] = (
                    f"the model cannot be differentiated ({one_line(error)})"
                )
                return
            size = torch.stack([g.abs().amax(-1) for g in gradients]).amax(0)
            later = self.places > output[:, None]
            visible = size.masked_fill(later, 0.0).amax(1, keepdim=True)
            size = size.masked_fill(~later, 0.0) / visible.where(visible != 0, 1.0)
            row, token = divmod(int(size.argmax()), self.length)
            value, i = size[row, token].item(), int(batch[row])
            yield Finding(value, self.weights, token, i, GRADIENT_TOLERANCE)

    @torch.no_grad()
    def _prefix(self, allowed: float) -> Iterator[Finding]:
        """Compare the outputs of n tokens alone with those of the whole sequence."""
        for n in self._positions(1, self.length - 1):
            logits, _ = self.subject(self.tokens[:FEW, :n])
            yield self._moved(logits, allowed, token=n)

    @torch.no_grad()
    def _cache(self, allowed: float) -> Iterator[Finding]:
        """Decode one by one; prefill and decode; go back to the prefill and decode again.

        A cache that the model gives back as the same object is one that it changes in place: it is
        copied before a continuation. Any other has to stay valid.
        """
        name = self.subject.cache_name
        if name is None:
            self.not_made["cache"] = f"none is taken as {', '.join(CACHES[:-1])} or {CACHES[-1]}"
            return
        finding, cache = self._step(0, 1, None, allowed)
        if cache is None:
            self.not_made["cache"] = f"the output holds no {name}"
            return
        yield finding
        in_place = False
        for i in range(1, self.length):
            before = cache
            finding, cache = self._step(i, i + 1, before, allowed)
            in_place = cache is before
            yield finding
        n = self.length // 2 | 1
        _, prefill = self._step(0, n, None, allowed)
        for end in (n + 2, n + 1):
            cache = copy.deepcopy(prefill) if in_place else prefill
            for i in range(n, min(end, self.length)):
                finding, cache = self._step(i, i + 1, cache, allowed)
                yield finding
        self.prefill = n, prefill

    @torch.no_grad()
    def _chunk(self, allowed: float, n: int, prefill: Any) -> Iterator[Finding]:
        """Go back to the prefill of n tokens and add all others at once."""
        yield self._step(n, self.length, prefill, allowed)[0]

    def _step(self, first: int, end: int, cache: Any, allowed: float) -> tuple[Finding, Any]:
        """Feed the tokens from `first` up to `end`; the cache is of those before."""
        logits, cache = self.subject(self.tokens[:FEW, first:end], cache, keep=True)
        return self._moved(logits, allowed, token=first, first=first), cache

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
        difference = self._difference(logits, first).amax(0)
        output = int(difference.argmax())
        return Finding(difference[output].item(), self.weights, token, first + output, allowed)

    def _difference(self, logits: Tensor, first: int = 0) -> Tensor:
        """How far each output `(rows, n)` is from that of the whole sequence."""
        reference = self.logits[: len(logits), first : first + logits.shape[1]]
        difference = (logits - reference).double().abs().amax(2) / self.unit
        return difference.nan_to_num(nan=torch.finfo(difference.dtype).max)

    def _positions(self, low: int, high: int) -> list[int]:
        """Both ends and random positions between them, in order."""
        between = torch.randint(low, high + 1, (PASSES - 2,), generator=self.draw)
        return sorted({low, high, *between.tolist()})

    def _integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.draw).to(self.subject.device)
