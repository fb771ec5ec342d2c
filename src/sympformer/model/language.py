"""The language model: tables, a stack of blocks, a head."""

import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sympformer.errors import InputError
from sympformer.model.cache import Cache, Recorder
from sympformer.model.config import ModelConfig
from sympformer.model.generation import Decoder
from sympformer.model.heads import Heads
from sympformer.model.inputs import Inputs
from sympformer.model.layers import LayerNorm
from sympformer.model.loss import chunked_cross_entropy, product_dtype
from sympformer.model.substeps import Block, loop
from sympformer.products import linear


@dataclass
class Output:
    """What a pass gives: predictions, made when they are read, and what goes with them.

    `hidden` is the normalised position of every token, `(B, T, d)`, and `head` the table that turns
    it into logits, `(V, d)`: read logits before the table is trained further. `loss` is the mean in
    nats per counted target, or None; `cache` is for a continuation, or None.
    """

    hidden: Tensor
    head: Tensor
    loss: Tensor | None
    cache: Cache | None
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

    def _predict(self, hidden: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.hidden.requires_grad or self.head.requires_grad):
            return linear(hidden, self.head.to(hidden.dtype))


class LanguageModel(Decoder):
    """A decoder of any composition; see `ModelConfig`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.inputs = Inputs(config)
        unique = config.unique_layers or config.n_layer
        blocks = [Block(config) for _ in range(unique)]
        own = config.loop_scalars == "own"
        self.blocks = nn.ModuleList(loop(blocks, config) if own else blocks)
        self.norm = LayerNorm(config.n_embd)
        self.initialise()

    def initialise(self) -> None:
        """Draw every matrix from N(0, 0.02), as published; gains and scalars have their own."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Heads):
                module.initialise()

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, cache: Cache | None = None
    ) -> Output:
        """Predict the next token at every position.

        Args:
            tokens: ids `(B, T)`, int64.
            targets: ids `(B, T)` to be predicted; -100 does not count.
            cache: what an earlier call returned; `tokens` then continue that call's.

        Returns:
            What the logits are made from, the loss where there are targets, else the cache for a
            continuation.

        Raises:
            InputError: an id beyond the vocabulary, or more tokens than `block_size`.
        """
        limit = self.config.block_size
        recorder = Recorder(cache, limit=limit, keeps=targets is None)
        self._check(tokens, recorder.length)
        stream = self.inputs(tokens, recorder)
        for layer in range(self.config.n_layer):
            stream = self.blocks[layer % len(self.blocks)](stream, recorder)
        hidden, head = self.norm(stream.x), self.inputs.usual.tokens.weight
        hidden = hidden.to(product_dtype(hidden))
        if not torch.is_grad_enabled():
            head = head.detach()  # logits that are read later shall not ask for gradients either
        if targets is None:
            return Output(hidden, head, None, recorder.cache(tokens.shape[1]))
        loss = chunked_cross_entropy(hidden.flatten(0, 1), head, targets.flatten())
        return Output(hidden, head, loss, None)

    def _check(self, tokens: Tensor, start: int) -> None:
        if tokens.ndim != 2 or tokens.shape[1] == 0:
            raise InputError(
                f"tokens must be (batch, time) with time ≥ 1, not {tuple(tokens.shape)}"
            )
        if start + tokens.shape[1] > self.config.block_size:
            raise InputError(
                f"{start + tokens.shape[1]} tokens do not fit the model's block size of "
                f"{self.config.block_size}: shorten the input or build a model with a larger one"
            )
        # Reading ids back from an accelerator would stall it; there, its own assertion speaks.
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.config.vocab_size:
                raise InputError(
                    f"token id {low if low < 0 else high} is outside the vocabulary of "
                    f"{self.config.vocab_size}: was the text encoded with another tokenizer?"
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
        view = copy.copy(self)
        if loops > 1:
            view.config = replace(config, n_layer=loops * unique, unique_layers=unique)
        else:
            view.config = replace(config, n_layer=unique, unique_layers=0, loop_scalars="shared")
        return view

    def num_parameters(self) -> int:
        """Number of trained values; the table that input and head share counts once."""
        return sum(p.numel() for p in self.parameters())
