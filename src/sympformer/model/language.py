"""The language model: tables, a stack of blocks, a head."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sympformer.attention.past import NoPast, Past
from sympformer.errors import InputError
from sympformer.model.block import Block, loop, reset_parts
from sympformer.model.cache import Cache, Recorder
from sympformer.model.clock import Tempo, timetable
from sympformer.model.config import ModelConfig
from sympformer.model.ensembles import prefixes
from sympformer.model.generation import Decoder, as_mask, left_padding
from sympformer.model.inputs import Inputs, require_ids
from sympformer.model.layers import LayerNorm, table
from sympformer.model.loss import IGNORED, chunked_cross_entropy
from sympformer.products import linear, product_dtype
from sympformer.torch_private import register_container


@dataclass
class Output:
    """What a pass gives: predictions, made when they are read, and what goes with them.

    `hidden` is the normalised position of every token, `(B, T, d)`, and `head` the table that turns
    it into logits, `(V, d)`: read logits before the table is trained further. `loss` is the mean in
    nats per counted target, or None.
    """

    hidden: Tensor
    head: Tensor
    loss: Tensor | None
    _cache: Cache | Callable[[], Cache | None] | None = field(default=None, repr=False)
    _logits: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def logits(self) -> Tensor:
        """Of the token after each, `(B, T, V)`, differentiable if the pass was."""
        if self._logits is None:
            self._logits = self._predict(self.hidden)
        return self._logits

    @property
    def last_logits(self) -> Tensor:
        """Of the token after the last, `(B, V)`: all that decoding needs."""
        return self._predict(self.hidden[:, -1])

    def logits_at(self, chosen: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Of the positions that are chosen, bool `(B, T)` or indices `(N), (N)`: `(N, V)`."""
        return self._predict(self.hidden[chosen])

    @property
    def cache(self) -> Cache | None:
        """For a continuation, or None; a pass of training keeps none, and is repeated for it."""
        if callable(self._cache):
            self._cache = self._cache()
        return self._cache

    def _predict(self, hidden: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.hidden.requires_grad or self.head.requires_grad):
            return linear(hidden, self.head.to(hidden.dtype))


def _parts(out: Output) -> tuple[list[Tensor | None], object]:
    return [out.hidden, out.head, out.loss], out._cache


def _put_together(parts: Iterable[Any], cache: Any) -> Output:
    hidden, head, loss = parts
    return Output(hidden, head, loss, cache)


register_container(Output, _parts, _put_together)


class LanguageModel(Decoder):
    """A decoder of any composition; see `ModelConfig`.

    Its parts initialise themselves. Built on the device "meta", it takes no memory;
    `model.to_empty(device=...)` and `model.reset_parameters()` then make the same model of it.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        d, unique = config.n_embd, config.unique_layers or config.n_layer
        self.inputs = Inputs(
            config.vocab_size,
            config.block_size if config.positions == "learned" else 0,
            d,
            tied=config.tie_embeddings,
            momentum=config.initial_momentum,
            shift=config.token_shift,
            injection=config.injection,
            bias=config.bias,
        )
        parts, end = config.of_block(), None if config.unique_layers else unique - 1
        begin = 0 if config.starts_at_rest else None
        blocks = [
            Block(d, config.n_head, last=i == end, at_rest=i == begin, **parts)
            for i in range(unique)
        ]
        own = config.loop_scalars == "own"
        self.blocks = nn.ModuleList(loop(blocks, config.n_layer) if own else blocks)
        self.norm = LayerNorm(d, config.bias)
        self.recomputes = False
        """Whether training keeps each layer's input alone, and makes the layer again backwards."""
        self._owner = object()

    def reset_parameters(self) -> None:
        """Draw every weight anew, in the order in which the parts were built."""
        reset_parts(self)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        cache: Cache | None = None,
        *,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> Output:
        """Predict the next token at every position.

        Args:
            tokens: ids `(B, T)`, int64; or vectors in their place, `(B, T, tables d)`, such as
                `model.inputs.embed` makes of ids.
            targets: ids `(B, T)` to be predicted; -100 does not count, nor does padding.
            cache: what an earlier call returned; `tokens` then continue that call's.
            attention_mask: what is a token and what padding on the left, `(B, T)`, bool or 0 and 1;
                with a cache, of the new tokens or of all.
            use_cache: whether to keep a cache. If not given, one is kept where there are no
                targets, but in training (`model.train()`, gradients on) only once it is read.

        Returns:
            What the logits are made from, the loss where there are targets, the cache for a
            continuation.

        Raises:
            InputError: an id beyond the vocabulary, more tokens than `block_size`, targets of
                another shape, padding that is not on the left, or a cache of another model or
                dtype.
        """
        cache = _padded(cache, attention_mask, tokens)
        start = 0 if cache is None else cache.length
        self._check(tokens, targets, start)
        trains = self.training and torch.is_grad_enabled() and not start
        keeps = targets is None and not trains if use_cache is None else use_cache
        if start or keeps:
            limit = self.config.block_size
            rows, dtype = len(tokens), table(self.inputs.usual.tokens).dtype
            past = Recorder(
                cache, limit=limit, keeps=keeps, owner=self._owner, rows=rows, dtype=dtype
            )
        else:
            past = NoPast(None if cache is None else cache.padding)
        hidden = self.states(tokens, past)
        head = table(self.inputs.usual.tokens)
        hidden = hidden.to(product_dtype(hidden))
        if not torch.is_grad_enabled():
            head = head.detach()  # logits that are read later shall not ask for gradients either
        made = past.cache(tokens.shape[1]) if isinstance(past, Recorder) and keeps else None
        if targets is not None:
            if past.padding is not None:
                here = torch.arange(start, start + tokens.shape[1], device=tokens.device)
                targets = targets.masked_fill(here < past.padding[:, None], IGNORED)
            loss = chunked_cross_entropy(hidden.flatten(0, 1), head, targets.flatten())
            return Output(hidden, head, loss, made)
        if trains and use_cache is None:
            return Output(
                hidden, head, None, lambda: self(tokens, cache=cache, use_cache=True).cache
            )
        return Output(hidden, head, None, made)

    def states(self, tokens: Tensor, past: Past | Recorder) -> Tensor:
        """The normalised position of every token behind the last layer, `(B, T, d)`.

        This is the pass itself, without checks, without logits.

        Args:
            tokens: ids `(B, T)`.
            past: what stands before them, and takes what they leave for later ones.
        """
        if self.config.causality == "ensembles":
            return self._of_ensembles(tokens, past)
        return self._through_layers(tokens, past)

    def _through_layers(self, tokens: Tensor, past: Past | Recorder) -> Tensor:
        stream = self.inputs(tokens, past.part("inputs"))
        again = self.recomputes and torch.is_grad_enabled() and isinstance(past, NoPast)
        for layer, tempo in enumerate(self._tempos(stream.t)):
            block = self.blocks[layer % len(self.blocks)]
            known = {"past": past.part(f"blocks.{layer}"), "tempo": tempo}
            if again:
                stream = checkpoint(block, stream, use_reentrant=False, **known)
            else:
                stream = block(stream, **known)
        return self.norm(stream.x)

    def _of_ensembles(self, tokens: Tensor, past: Past | Recorder) -> Tensor:
        """As `states`, each token as the last of an ensemble of its own; the past are vectors."""
        new = tokens if tokens.is_floating_point() else self.inputs.embed(tokens)
        vectors = past.part("ensembles").extend("vectors", new)
        rows, padding = prefixes(vectors, new.shape[1], past.padding)
        last = self._through_layers(rows, NoPast(padding))[:, -1]
        return last.unflatten(0, tokens.shape[:2])

    def _tempos(self, t: Tensor) -> list[Tempo | None]:
        """What depends on no token in each application of a block, from the time `t`."""
        blocks = [self.blocks[i % len(self.blocks)] for i in range(self.config.n_layer)]
        paces = [getattr(block.attention, "pace", None) for block in blocks]
        known = [pace for pace in paces if pace is not None]
        tempos = iter(timetable(known, t) if known else [])
        return [None if pace is None else next(tempos) for pace in paces]

    def _check(self, tokens: Tensor, targets: Tensor | None, start: int) -> None:
        self.inputs.require(tokens)
        if targets is not None:
            require_ids(targets)
            if targets.shape != tokens.shape[:2]:
                raise InputError(
                    f"targets must be {tuple(tokens.shape[:2])} as the tokens, not "
                    f"{tuple(targets.shape)}"
                )
        if start + tokens.shape[1] > self.config.block_size:
            raise InputError(
                f"{start + tokens.shape[1]} tokens do not fit the model's block size of "
                f"{self.config.block_size}: shorten the input or build a model with a larger one"
            )

    def with_loops(self, loops: int) -> "LanguageModel":
        """A view of this model that applies its blocks `loops` times over; weights are shared.

        Raises:
            InputError: `loops` is not a whole number of at least 1, or there are no scalars for it.
        """
        if type(loops) is not int or loops < 1:
            raise InputError(f"loops must be a whole number of at least 1, not {loops!r}")
        config = self.config
        unique = config.unique_layers or config.n_layer
        if config.loop_scalars == "own" and loops * unique > len(self.blocks):
            raise InputError(
                f"only {len(self.blocks) // unique} loops have step sizes: for more of them, train "
                "with loop_scalars = 'shared'"
            )
        if loops > 1 and config.ends_at_rest:
            raise InputError(
                "the last layer leaves no momentum for others to go on with: for loops, train with "
                "unique_layers"
            )
        view = copy.copy(self)
        view._owner = object()  # more layers leave more in a cache
        if loops > 1:
            view.config = replace(config, n_layer=loops * unique, unique_layers=unique)
        else:
            view.config = replace(config, n_layer=unique, unique_layers=0, loop_scalars="shared")
        return view

    def with_block_size(self, block_size: int) -> "LanguageModel":
        """A view of this model, which shares its weights, for contexts of `block_size` tokens.

        Raises:
            InputError: it is longer than in training, and there are learned positions.
        """
        if block_size > self.config.block_size and self.config.positions != "none":
            raise InputError(
                f"this model has learned positions for {self.config.block_size} tokens, not for "
                f"{block_size}: choose a shorter length, or train with positions = 'none'"
            )
        view = copy.copy(self)
        view.config = replace(self.config, block_size=block_size)
        return view

    def _with_room(self, length: int) -> "LanguageModel":
        return self.with_block_size(length)

    def num_parameters(self) -> int:
        """Number of trained values; the table that input and head share counts once."""
        return sum(p.numel() for p in self.parameters())


def _padded(cache: Cache | None, mask: Tensor | None, tokens: Tensor) -> Cache | None:
    """The cache with the padding that a mask speaks of; it must not contradict an earlier one."""
    if not isinstance(cache, Cache | None):
        raise InputError(
            f"cache must be what an earlier call gave as .cache, or None, not "
            f"{type(cache).__name__}"
        )
    if mask is None:
        return cache
    if cache is None or not cache.length:
        return replace(cache or Cache(), padding=left_padding(mask, tokens))
    mask, new = as_mask(mask, tokens), tokens.shape[1]
    if mask.shape == tokens.shape[:2] and mask.all():
        return cache
    whole = torch.arange(cache.length + new, device=tokens.device)
    known = whole.new_zeros(len(tokens)) if cache.padding is None else cache.padding
    if mask.shape != (len(tokens), len(whole)) or not torch.equal(mask, whole >= known[:, None]):
        raise InputError(
            "attention_mask contradicts the cache: give that of all tokens, earlier ones included, "
            "or leave it out"
        )
    return cache
