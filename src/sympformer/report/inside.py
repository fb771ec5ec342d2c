"""What is looked at inside the models: one sentence, traced in one run of each entry."""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sympformer.data import Tokenizer
from sympformer.errors import InputError
from sympformer.report.runs import Runs, SeenRun, model_of
from sympformer.shown import visible
from sympformer.tracing import Trace, trace

MOST = 6
"""Entries that are looked into; those with the least loss, and what others are compared with."""
TOKENS = 32
"""Of a sentence that are shown."""
START = "·start·"
"""The separator before the first token, which documents begin behind in training."""


@dataclass(frozen=True)
class Inside:
    """The sentence in one model."""

    entry: str
    run: SeenRun
    labels: tuple[str, ...]
    """What each token says, START the first of all."""
    trace: Trace

    @property
    def words(self) -> list[str]:
        """The labels for charts, whose library would take tags in them for its own."""
        return [html.escape(label.strip() or label, quote=False) for label in self.labels]

    @property
    def layers(self) -> int:
        """Their number."""
        return len(self.trace.kinetic)

    @property
    def surprise(self) -> np.ndarray:
        """Of every token but START, nats."""
        return self.trace.surprise[0, 1:]


def look_inside(
    runs: Runs, sentence: str | None, fixed: Sequence[str]
) -> tuple[list[Inside], list[str]]:
    """Trace a sentence; also say what could not be.

    Args:
        runs: of which the first seed of an entry is taken that has weights.
        sentence: plain text; None if there is none to be had.
        fixed: entries that are looked at first.
    """
    notes: list[str] = []
    if sentence is None:
        on_tasks = all(run.config.data.task is not None for run in runs.runs)
        why = "These runs are on tasks, which have no sentences."
        return [], [why if on_tasks else "There is no text to look at: give one with --sentence."]
    found = []
    chosen, others = _chosen(runs, fixed)
    if others:
        notes.append(
            f"Looked into: {', '.join(chosen)}. Name fewer runs to look into {', '.join(others)}."
        )
    for entry in chosen:
        for run in runs.entries[entry]:
            try:
                found.append(_traced(entry, run, sentence))
                break
            except InputError as error:
                notes.append(f"{run.folder.path.name} is not looked into: {error}")
    return found, notes


def _chosen(runs: Runs, fixed: Sequence[str]) -> tuple[list[str], list[str]]:
    def loss(entry: str) -> float:
        found = [run.standing.valid_loss for run in runs.entries[entry]]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if known else math.inf

    first = [entry for entry in fixed if entry in runs.entries]
    rest = sorted((e for e in runs.entries if e not in first), key=loss)
    ordered = [*first, *rest]
    return ordered[:MOST], ordered[MOST:]


def _traced(entry: str, run: SeenRun, sentence: str) -> Inside:
    tokenizer, model = run.folder.tokenizer(), model_of(run)
    ids = tokenizer.encode(sentence)[: min(TOKENS, model.config.block_size - 1)]
    if not ids:
        raise InputError("the sentence has no token")
    labels = [START, *_labels(tokenizer, ids)]
    targets = torch.tensor([[*ids, tokenizer.eos]])
    targets[0, -1] = -100  # what comes behind the sentence is not known
    seen = trace(model, torch.tensor([[tokenizer.eos, *ids]]), targets)
    return Inside(entry, run, tuple(labels), seen)


def _labels(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[str]:
    """What each token adds to the text."""
    before = ""
    for n in range(1, len(ids) + 1):
        whole = tokenizer.decode(ids[:n])
        added = (
            whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids[n - 1 : n])
        )
        before = whole
        yield visible(added) or "·"


def other(insides: Sequence[Inside]) -> str:
    """The entry to show beside the first: one with momenta, if there is one."""
    moving = [seen for seen in insides[1:] if seen.trace.momenta.any()]
    return (moving or insides[1:] or insides)[0].entry
