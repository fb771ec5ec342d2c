"""What is timed: for each measure, a function to call again and again."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from sympformer.attention import forms
from sympformer.bench import flops
from sympformer.bench.case import DECODED, Case
from sympformer.bench.timing import REPEATS
from sympformer.bench.yardstick import PlainGPT
from sympformer.compiler import LIMIT, compile_blocks, require_compiler
from sympformer.model import CustomModel, LanguageModel
from sympformer.train.config import TrainConfig
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
        InputError: a size that the model refuses, a form that it does not have, or nothing to
            compile with.
    """
    if case.compile:
        require_compiler(torch.device(case.device).type)
    decoded = DECODED * REPEATS * turns
    size = {"step": case.length, "memory": case.length, "decode": case.length + 1 + decoded}
    model = case.build(size.get(case.measure, case.length + 1))
    make = {
        "step": _step,
        "memory": _step,
        "prefill": _prefill,
        "decode": partial(_decode, decoded=decoded),
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


Model = LanguageModel | CustomModel | PlainGPT
Made = tuple[Callable[[], object], int, float]
"""The function; tokens and operations of one sequence in one call."""


def _step(case: Case, model: Model) -> Made:
    """Forward, backward, AdamW as the training loop builds it."""
    if case.compile and isinstance(model, LanguageModel):
        compile_blocks(model.blocks)  # as the training loop does
    elif case.compile:
        model.compile(fullgraph=True, dynamic=False, recompile_limit=LIMIT)
    optimizer = adamw(model, TrainConfig())
    ids = case.tokens(case.length + 1)
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def run():
        with case.precision():
            loss = model(tokens, targets).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if isinstance(model, CustomModel):  # whose operations nobody has counted
        return run, case.length, 0.0
    return run, case.length, flops.step(case.config(case.length), case.length).total


def _prefill(case: Case, model: Model) -> Made:
    """The prompt, and the first token after it."""
    tokens = case.tokens(case.length)

    def run():
        with case.precision():
            next(model.stream(tokens, 1))

    return run, case.length, flops.forward(case.config(case.length), case.length, logits=1).total


def _decode(case: Case, model: Model, decoded: int) -> Made:
    """Some tokens after the prompt and the first; the next call goes on behind them."""
    new = model.stream(case.tokens(case.length), 1 + decoded, compile=case.compile)
    with case.precision():
        next(new)

    def run():
        with case.precision():
            for _ in range(DECODED):
                next(new)

    one = flops.forward(case.config(case.length), 1, past=case.length).total
    return run, DECODED, DECODED * one


def _generate(case: Case, model: Model) -> Made:
    """T tokens after the first one."""
    tokens = case.tokens(1)

    def run():
        with case.precision():
            for _ in model.stream(tokens, case.length, compile=case.compile):
                pass

    return run, case.length, flops.forward(case.config(case.length), case.length).total


def _recompute(case: Case, model: Model) -> Made:
    """One token after each of the lengths in the middle of every STRIDE."""
    tokens = case.tokens(case.length)
    stride = min(STRIDE, case.length)
    lengths = range((stride + 1) // 2, case.length + 1, stride)

    def run():
        with case.precision():
            for n in lengths:
                next(model.stream(tokens[:, :n], 1))

    config = case.config(case.length)
    return run, len(lengths), sum(flops.forward(config, n, logits=1).total for n in lengths)
