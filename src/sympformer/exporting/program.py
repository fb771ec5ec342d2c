"""A model as a program of torch's own operators, for any number of rows and tokens.

Such a program needs neither this package nor Python's sources: `torch.export.load` reads it, and
other formats are made of it (`sympformer.exporting.write`).
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from sympformer import torch_private
from sympformer.errors import InputError, lookup, one_line
from sympformer.exporting.past import GivenPast, parts_of
from sympformer.model import LanguageModel
from sympformer.model.language import Output
from sympformer.model.layers import table

What = Literal["forward", "step"]

ROWS, TOKENS = 2, 3
"""Of the example that is followed: a size of 1 would be taken for a constant."""


def exported(model: nn.Module, what: What = "forward") -> ExportedProgram:
    """The program of a model, with its weights, in its dtype and on its device.

    `forward` takes ids `(B, T)`, int64, and gives logits `(B, T, V)`; `step` takes the last ids
    `(B, 1)` and a cache, and gives the logits of the next ones `(B, V)` and the new cache.

    A cache is a dictionary of tensors. Entries of softmax attention grow with the text,
    `(B, H, length, d)`; all others are states of constant size, beside which `length`, int64
    without axes, counts the tokens. Before the first token all are zero, or of length 0: the
    step needs no other start, and reads a prompt token by token. There is no padding: rows that
    are decoded together are equally long.

    Sums over the text are made by the formula, with a matrix of all pairs of tokens, as a loop
    over their chunks would fix their number.

    Raises:
        InputError: the model is none of ours, or of a block size below 3; an attention of the
            user's own, which torch cannot follow or which calls operators of its own.
    """
    makers = {"forward": _forward, "step": _step}
    make = lookup(makers, what, "part of a model to export")
    if not isinstance(model, LanguageModel):
        raise InputError(
            f"only models of this package become programs, not a {type(model).__name__}: give "
            "others to torch.export themselves"
        )
    if model.config.block_size < TOKENS:
        raise InputError(
            f"a block size of {model.config.block_size} is too small to export: it takes {TOKENS}"
        )
    with torch.no_grad():
        part, arguments, shapes = make(_frozen(model))
        try:
            program = torch.export.export(part, arguments, dynamic_shapes=shapes, strict=False)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"torch.export cannot follow this model: {one_line(error)}") from error
    _require_plain(program)
    return program


class Forward(nn.Module):
    """Ids `(B, T)` to logits."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """`(B, T, V)`."""
        return self.model(tokens, use_cache=False).logits


class Step(nn.Module):
    """One more token of every row.

    Args:
        model: whose step it is.
        growing: the entries that grow with the text; the length of the text is read off them.
    """

    def __init__(self, model: LanguageModel, growing: Iterable[str]):
        super().__init__()
        self.model, self.growing = model, sorted(growing)

    def forward(self, tokens: Tensor, cache: Mapping[str, Tensor]) -> tuple[Tensor, dict]:
        """Ids `(B, 1)` and the cache before them to logits `(B, V)` and the cache behind them."""
        if self.growing:
            length: Any = cache[self.growing[0]].shape[-2]
        else:
            length = cache["length"].item()
            for holds in (length >= 0, length < self.model.config.block_size):
                torch_private.require_in_program(holds)
        past = GivenPast(cache, length)
        head = table(self.model.inputs.usual.tokens)
        logits = Output(self.model.states(tokens, past), head, None).last_logits
        made = {name: entry.contiguous() for name, entry in past.new.items()}
        if not self.growing:
            made["length"] = cache["length"] + 1
        return logits, made


def _forward(model: LanguageModel) -> tuple[nn.Module, tuple, Any]:
    shapes = ({0: Dim("batch"), 1: Dim("time", max=model.config.block_size)},)
    return Forward(model), (_ids(model, TOKENS),), shapes


def _step(model: LanguageModel) -> tuple[nn.Module, tuple, Any]:
    length = TOKENS - 1
    entries = model(_ids(model, length), use_cache=True).cache.entries
    cache, growing = parts_of(entries, length)
    batch, dim = Dim("batch"), Dim("length", max=model.config.block_size - 1)
    shapes = {name: {0: batch} for name in cache}
    for name in growing:
        shapes[name] = {0: batch, cache[name].ndim - 2: dim}
    if not growing:
        cache["length"], shapes["length"] = torch.tensor(length), {}
    return Step(model, growing), (_ids(model, 1), cache), ({0: batch}, shapes)


def _ids(model: nn.Module, tokens: int) -> Tensor:
    device = next(model.parameters()).device
    return torch.zeros(ROWS, tokens, dtype=torch.int64, device=device)


def _frozen(model: LanguageModel) -> LanguageModel:
    """A copy that shares the weights, asks for no gradients, and is not compiled."""
    known = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, known).eval()


def _require_plain(program: ExportedProgram) -> None:
    """Refuse operators that a process without this package, or without the user's, lacks."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            space = getattr(node.target, "namespace", None)
            if node.op == "call_function" and space not in (None, "aten", "higher_order"):
                raise InputError(
                    f"the model calls {node.target}, which torch alone does not have: write this "
                    "attention in operators of torch, or leave out the form that was asked for"
                )
