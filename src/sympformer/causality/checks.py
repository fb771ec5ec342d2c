"""The measurements of the audit."""

import copy
import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sympformer.causality.compiled import compiled
from sympformer.causality.report import Finding, Report
from sympformer.errors import InputError

SCALES = (0.5, 1.0, 2.0)
"""Of the redrawn weights; the model's own weights are audited too."""
SEQUENCES = 2
POSITIONS = 8
"""Tokens or outputs that a check tries with each set of weights, drawn anew every time."""


def audit(
    model: nn.Module,
    length: int = 64,
    *,
    vocab_size: int | None = None,
    seed: int = 0,
    compile: bool = False,
) -> Report:
    """Measure whether any output of `model` depends on a later token.

    Works on every module with `model(tokens) -> logits`: tokens (B, T) int64; logits (B, T, V), as
    a tensor or as the attribute `.logits` of the output. The cache is checked where the output has
    `.cache` and the module takes `cache=`. The module, its mode, its gradients and the caller's
    random state are left as they are.

    Args:
        model: the module, in any mode and precision.
        length: tokens in a test sequence, at least 2.
        vocab_size: number of tokens V; by default `model.config.vocab_size`.
        seed: of the test sequences and of the redrawn weights.
        compile: measure the model as it runs compiled: a language model's blocks in a pass over
            `length` tokens and its step of decoding, any other module as a whole.

    Raises:
        InputError: the length or the vocabulary cannot be used, the output has no logits, or there
            is nothing to compile with.
    """
    config = getattr(model, "config", None)
    vocab_size = vocab_size or getattr(config, "vocab_size", None)
    longest = getattr(config, "block_size", length)
    if vocab_size is None or vocab_size < 2:
        raise InputError("the audit needs vocab_size=, the number of tokens (2 or more)")
    if length < 2:
        raise InputError(f"length {length}: the audit needs at least 2 tokens")
    if length > longest:
        raise InputError(f"length {length} is above the model's block size; use up to {longest}")

    found: dict[str, list[Finding]] = {"influence": [], "gradient": [], "prefix": [], "cache": []}
    nonfinite = []
    draw = torch.Generator().manual_seed(seed)
    with (
        _float64_copy(model) as copied,
        compiled(copied, length) if compile else nullcontext(copied) as subject,
    ):
        for weights in _reweighted(subject, draw):
            trial = _Trial(subject, weights, length, vocab_size, draw)
            gradient = list(trial.gradient())
            if not math.isfinite(trial.unit):
                nonfinite.append(weights)
            elif not all(math.isfinite(finding.value) for finding in gradient):
                nonfinite.append(f"{weights} (gradient)")
            else:
                found["influence"] += trial.influence()
                found["gradient"] += gradient
                found["prefix"] += trial.prefix()
                found["cache"] += trial.cache()
    worst = {
        name: max(findings, key=lambda finding: finding.value, default=None)
        for name, findings in found.items()
    }
    return Report(length, **worst, nonfinite=tuple(nonfinite))


class _Trial:
    """The four checks on one set of weights and one batch of random sequences."""

    def __init__(
        self, model: nn.Module, weights: str, length: int, vocab_size: int, draw: torch.Generator
    ):
        self.model, self.weights, self.length, self.draw = model, weights, length, draw
        self.vocab_size, self.device = vocab_size, _device(model)
        self.tokens = self._integers(0, vocab_size, SEQUENCES, length)
        with torch.no_grad():
            self.logits = self._run(self.tokens)[0]
        # The median over the vocabulary: ids masked by a huge constant must not dwarf the rest.
        self.unit = self.logits.std((0, 1)).median().item() or 1.0

    @torch.no_grad()
    def influence(self) -> Iterator[Finding]:
        """Change token j and look at the outputs before j."""
        for j in self._positions(1, self.length - 1):
            changed = self.tokens.clone()
            changed[:, j] += self._integers(1, self.vocab_size, SEQUENCES)
            logits, _ = self._run(changed % self.vocab_size)
            yield self._moved(logits[:, :j], token=j)

    def gradient(self) -> Iterator[Finding]:
        """Differentiate a random projection of output i with respect to the embeddings."""
        with _watched_embeddings(self.model, self.tokens) as embeddings:
            logits, _ = self._run(self.tokens)
        if not embeddings or not logits.requires_grad:
            return
        for i in self._positions(0, self.length - 2):
            direction = torch.randn(logits.shape[-1], generator=self.draw, dtype=logits.dtype)
            projection = (logits[:, i] @ direction.to(self.device)).sum()
            gradients = torch.autograd.grad(
                projection, embeddings, retain_graph=True, materialize_grads=True
            )
            size = torch.stack([g.abs().amax((0, 2)) for g in gradients]).amax(0)
            size /= size[: i + 1].max().item() or 1.0
            j = i + 1 + int(size[i + 1 :].argmax())
            yield Finding(size[j].item(), self.weights, token=j, output=i)

    @torch.no_grad()
    def prefix(self) -> Iterator[Finding]:
        """Compare the outputs of n tokens alone with those of the whole sequence."""
        for n in self._positions(1, self.length - 1):
            logits, _ = self._run(self.tokens[:, :n])
            yield self._moved(logits, token=n)

    @torch.no_grad()
    def cache(self) -> Iterator[Finding]:
        """Decode one by one; prefill and decode; go back to the prefill and add a chunk."""
        if "cache" not in inspect.signature(self.model.forward).parameters:
            return
        cache = None
        for i in range(self.length):
            logits, cache = self._run(self.tokens[:, i : i + 1], cache)
            if cache is None:
                return
            yield self._moved(logits, token=i, first=i)
        n = self.length // 2 | 1
        _, prefill = self._run(self.tokens[:, :n])
        cache = prefill
        for i in range(n, min(n + 2, self.length)):
            logits, cache = self._run(self.tokens[:, i : i + 1], cache)
            yield self._moved(logits, token=i, first=i)
        logits, _ = self._run(self.tokens[:, n:], prefill)
        yield self._moved(logits, token=n, first=n)

    def _run(self, tokens: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Logits and cache; the same noise in every call, should the model draw any."""
        torch.manual_seed(0)
        out = self.model(tokens) if cache is None else self.model(tokens, cache=cache)
        logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)
        if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != tokens.shape:
            raise InputError("the audit needs model(tokens) to give logits (B, T, V) or .logits")
        return logits, getattr(out, "cache", None)

    def _moved(self, logits: Tensor, token: int, first: int = 0) -> Finding:
        """Compare `logits`, outputs from `first` on, with those of the whole sequence."""
        reference = self.logits[:, first : first + logits.shape[1]]
        difference = (logits - reference).abs().amax((0, 2)) / self.unit
        difference = difference.nan_to_num(nan=torch.finfo(difference.dtype).max)
        output = int(difference.argmax())
        return Finding(difference[output].item(), self.weights, token, first + output)

    def _positions(self, low: int, high: int) -> list[int]:
        """Both ends and random positions between them, in order."""
        between = torch.randint(low, high + 1, (POSITIONS - 2,), generator=self.draw)
        return sorted({low, high, *between.tolist()})

    def _integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.draw).to(self.device)


def _reweighted(model: nn.Module, draw: torch.Generator) -> Iterator[str]:
    """Name the weights that `model` has now: first its own, then redrawn ones at each scale g.

    Matrices become N(0, g²/fan_in); vectors and scalars (gains, gates, step sizes) are moved by
    0.1 g, which opens a gate that starts at zero and keeps a gain near one.
    """
    yield "as they are"
    own = [(p, p.clone()) for p in model.parameters() if p.is_floating_point()]
    for g in SCALES:
        for p, start in own:
            noise = torch.randn(p.shape, generator=draw, dtype=p.dtype).to(p.device)
            if p.ndim >= 2:
                p.copy_(g * noise / math.sqrt(p[0].numel()))
            else:
                p.copy_(start + 0.1 * g * noise)
        yield f"redrawn at scale {g:g}"


@contextmanager
def _float64_copy(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a frozen float64 copy; the caller's random state and autograd modes do not matter."""
    model = getattr(model, "_orig_mod", model)  # of torch.compile, whose traces are for float32
    device = _device(model)
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield copy.deepcopy(model).double().eval().requires_grad_(False)


@contextmanager
def _watched_embeddings(model: nn.Module, tokens: Tensor) -> Iterator[list[Tensor]]:
    """Collect, as leaves of the graph, the embeddings of `tokens` that the model looks up."""
    embeddings: list[Tensor] = []

    def watch(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not args or args[0].shape != tokens.shape or not torch.equal(args[0], tokens):
            return None
        embeddings.append(output.detach().requires_grad_())
        return embeddings[-1].clone()  # a leaf could not be changed in place

    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    hooks = [table.register_forward_hook(watch) for table in tables]
    try:
        yield embeddings
    finally:
        for hook in hooks:
            hook.remove()


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
