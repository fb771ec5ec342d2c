"""What is timed: for each measure, a function to call again and again."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sympformer.attention import forms
from sympformer.bench import flops
from sympformer.bench.case import DECODED, Case
from sympformer.bench.timing import REPEATS
from sympformer.model import LanguageModel
from sympformer.train import TrainConfig
from sympformer.train.optimizer import adamw

STRIDE = 32
"""`recompute` runs the middle one of so many lengths for all of them."""


@dataclass(frozen=True)
class Operation:
    """A call of `run` processes `tokens` tokens (all sequences together) in `flops` operations."""

    run: Callable[[], object]
    tokens: int
    flops: float
    parameters: int


def operation(case: Case, turns: int) -> Operation:
    """Build the model and the function that is timed; it will have so many turns of calls.

    Raises:
        InputError: a size that the model refuses, or a form that it does not have.
    """
    size = {
        "step": case.length,
        "memory": case.length,
        "decode": case.length + DECODED * REPEATS * turns,
    }
    block_size = size.get(case.measure, case.length + 1)
    model = case.build(block_size)
    make = {
        "step": _step,
        "memory": _step,
        "prefill": _prefill,
        "decode": _decode,
        "generate": _generate,
        "recompute": _recompute,
    }[case.measure]
    with forms.using(case.form):
        run, tokens, count = make(case, model)

    def in_form():
        with forms.using(case.form):
            run()

    parameters = sum(p.numel() for p in model.parameters())
    return Operation(in_form, case.batch_size * tokens, case.batch_size * count, parameters)


Made = tuple[Callable[[], object], int, float]
"""The function; tokens and operations of one sequence in one call."""


def _step(case: Case, model: nn.Module) -> Made:
    """Forward, backward, AdamW as the training loop builds it."""
    if case.compile and isinstance(model, LanguageModel):
        for block in model.blocks:  # as the training loop does
            block.compile(fullgraph=True, dynamic=False)
    elif case.compile:
        model.compile(dynamic=False)
    optimizer = adamw(model, TrainConfig())
    ids = case.tokens(case.length + 1)
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def run():
        with case.precision():
            loss = model(tokens, targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run, case.length, flops.step(case.config(case.length), case.length).total


def _prefill(case: Case, model: nn.Module) -> Made:
    """The prompt, and the first token after it."""
    model.eval()
    tokens = case.tokens(case.length)

    def run():
        with case.precision():
            model.generate(tokens, 1)  # pyright: ignore[reportCallIssue]

    return run, case.length, flops.forward(case.config(case.length), case.length, logits=1).total


def _decode(case: Case, model: nn.Module) -> Made:
    """Some tokens after the prompt; the next call goes on behind them."""
    model.eval()
    tokens = case.tokens(case.length)
    with torch.no_grad(), case.precision():
        state = {"cache": model(tokens).cache, "new": tokens[:, -1:]}

    @torch.no_grad()
    def run():
        with case.precision():
            for _ in range(DECODED):
                out = model(state["new"], cache=state["cache"])
                state["cache"], state["new"] = out.cache, out.logits[:, -1:].argmax(-1)

    return (
        run,
        DECODED,
        DECODED * flops.forward(case.config(case.length), 1, past=case.length).total,
    )


def _generate(case: Case, model: nn.Module) -> Made:
    """T tokens after the first one."""
    model.eval()
    tokens = case.tokens(1)

    def run():
        with case.precision():
            model.generate(tokens, case.length)  # pyright: ignore[reportCallIssue]

    return run, case.length, flops.forward(case.config(case.length), case.length).total


def _recompute(case: Case, model: nn.Module) -> Made:
    """One token after each of the lengths in the middle of every STRIDE."""
    model.eval()
    tokens = case.tokens(case.length)
    stride = min(STRIDE, case.length)
    lengths = range((stride + 1) // 2, case.length + 1, stride)

    def run():
        with case.precision():
            for n in lengths:
                model.generate(tokens[:, :n], 1)  # pyright: ignore[reportCallIssue]

    config = case.config(case.length)
    return run, len(lengths), sum(flops.forward(config, n, logits=1).total for n in lengths)
