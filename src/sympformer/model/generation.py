"""Generation: prompts are continued token by token, with a cache."""

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import torch
from torch import Tensor, nn

from sympformer.compiler import compile_step, require_compiler
from sympformer.errors import InputError
from sympformer.model.cache import Cache
from sympformer.model.config import ModelConfig
from sympformer.model.inputs import require_ids

_GREEDY = torch.finfo(torch.float32).eps
"""Below this temperature the most likely token is taken: beside logits of 1 it is 0."""
_SEEDS = -(2**63), 2**64


class Decoder(nn.Module):
    """A model that continues text, given `model(tokens, cache=cache)` (see `LanguageModel`)."""

    config: ModelConfig

    def generate(
        self,
        tokens: Tensor,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int | None = None,
        *,
        attention_mask: Tensor | None = None,
        stop: int | None = None,
        vocab_size: int | None = None,
        compile: bool = False,
        slide: bool = False,
    ) -> Tensor:
        """Continue prompts with cached decoding, one token at a time.

        Prompts of different lengths make one batch when the shorter ones are padded on the left
        (`pad_left`): every row is continued as it would be alone. A sampled row depends on its
        place in the batch too, since the rows draw from one source of random numbers.

        Args:
            tokens: prompt ids `(B, T)`, `T ≥ 1`.
            max_new_tokens: how many to add; prompt and new tokens must fit the block size.
            temperature: 0, or next to it, takes the most likely token; otherwise logits are divided
                by it.
            top_k: sample among exactly the k most likely tokens.
            seed: makes sampling repeatable.
            attention_mask: what is a token and what padding on the left, `(B, T)`, bool or 0 and 1.
            stop: id that ends a row, as the end of a text does. Such a row is filled up with it;
                when all rows have ended, generation does.
            vocab_size: how many ids there are, where the model has more than its tokenizer (a
                vocabulary rounded up); the others are never chosen.
            compile: make one graph of the step from token to token (`torch.compile`). That takes
                up to a minute in every process, for one row and again for several; then a
                processor decodes one row three to four times as fast.
            slide: go on beyond the block size. A model without positions then has no end. One with
                learned positions forgets: whenever its block is full, the last half of it is read
                again as the start of a text, and the rest is gone.

        Returns:
            Ids `(B, T + max_new_tokens)`, fewer if all rows have ended; padding stays where it was.

        Raises:
            InputError: an empty prompt, too many tokens, padding that is not on the left, or a
                sampling option out of range; `compile` without a compiler; predictions that are
                not finite.
        """
        new = self.stream(
            tokens,
            max_new_tokens,
            temperature,
            top_k,
            seed,
            attention_mask=attention_mask,
            stop=stop,
            vocab_size=vocab_size,
            compile=compile,
            slide=slide,
        )
        return torch.cat([tokens, *new], dim=1)

    def stream(
        self,
        tokens: Tensor,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int | None = None,
        *,
        attention_mask: Tensor | None = None,
        stop: int | None = None,
        vocab_size: int | None = None,
        compile: bool = False,
        slide: bool = False,
    ) -> Iterator[Tensor]:
        """Yield the new ids of `generate` as they are made, one `(B, 1)` for each token."""
        require_sampling(temperature, top_k, seed, vocab_size)
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, Integral):
            raise InputError(f"max_new_tokens must be a whole number, not {max_new_tokens!r}")
        if max_new_tokens < 0:
            raise InputError(f"max_new_tokens must be at least 0, not {max_new_tokens}")
        require_ids(tokens, torch.int32)
        if tokens.ndim != 2 or tokens.shape[1] == 0:
            raise InputError(
                f"a prompt must be (batch, time) with time ≥ 1, not {tuple(tokens.shape)}"
            )
        length = tokens.shape[1] + max_new_tokens
        limit = self.config.block_size
        if length > limit and not slide:
            raise InputError(
                f"{tokens.shape[1]} prompt tokens and {max_new_tokens} new ones do not fit the "
                f"block size of {limit}: ask for fewer, or let the block slide (slide=True)"
            )
        model = self
        if length > limit and self.config.positions == "none":
            model = self._with_room(length)
        padding = None if attention_mask is None else left_padding(attention_mask, tokens)
        random = torch.Generator(tokens.device)
        if seed is not None:
            random.manual_seed(seed)
        else:
            random.seed()
        if compile:
            require_compiler(tokens.device.type)
        # The checks above speak when this is called, not when the first token is asked for.
        cache = Cache(padding=padding, capacity=min(length, model.config.block_size))
        step = _compiled_step if compile else _step
        sampling = temperature, top_k, random, vocab_size
        return model._stream(tokens, max_new_tokens, cache, stop, step, sampling)

    def _with_room(self, length: int) -> "Decoder":
        """The model for texts of this length, where it has no positions."""
        return self

    def _stream(
        self,
        new: Tensor,
        max_new_tokens: int,
        cache: Cache,
        stop: int | None,
        step: "Step",
        sampling: tuple[float, int | None, torch.Generator, int | None],
    ) -> Iterator[Tensor]:
        ended = torch.zeros_like(new[:, :1], dtype=torch.bool)
        limit, text = self.config.block_size, new[:, :0]
        for _ in range(max_new_tokens):
            text = torch.cat([text, new], dim=1)[:, -limit:]
            if cache.length + new.shape[1] > limit:
                new, cache = _slid(text, cache, cache.length + new.shape[1])
            with torch.inference_mode():
                logits, cache = (step if cache.length else _step)(self, new, cache)
                new = sample(logits, *sampling)
            new = new.clone()  # a tensor of inference mode could not be used in training
            if stop is not None:
                new = new.masked_fill(ended, stop)
                ended = new == stop
            yield new
            if stop is not None and ended.all():
                return


def _slid(text: Tensor, cache: Cache, length: int) -> tuple[Tensor, Cache]:
    """The last half of a full block as the start of a text, given its last tokens `(B, limit)`."""
    kept = max(1, text.shape[1] // 2)
    padding = cache.padding
    if padding is not None:
        padding = (padding - (length - kept)).clamp(min=0)
        padding = padding if padding.any() else None
    return text[:, -kept:], Cache(padding=padding, capacity=cache.capacity)


Step = Callable[[nn.Module, Tensor, Cache], tuple[Tensor, Cache]]


def _step(model: nn.Module, new: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
    """What is predicted after the new tokens `(B, n)`, `(B, V)`, and the cache with them."""
    out = model(new, cache=cache)
    return out.last_logits, out.cache


def _compiled_step(model: nn.Module, new: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
    return compile_step(_step)(model, new, cache)


def sample(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    random: torch.Generator,
    vocab_size: int | None = None,
) -> Tensor:
    """Choose one id a row, `(B, V)` to `(B, 1)`, in float32 whatever the logits are.

    Args:
        logits: of any floating dtype.
        temperature: 0, or so close to it that it makes no difference, takes the most likely id.
        top_k: draw among exactly the k most likely ids; of equal ones at the edge, any.
        random: where the draws come from.
        vocab_size: ids from this on are not chosen.

    Raises:
        InputError: a row has no finite largest logit.
    """
    logits = logits[:, :vocab_size]
    peak, likeliest = logits.max(-1, keepdim=True)
    if not peak.isfinite().all():
        raise InputError(
            "the model's predictions are not finite numbers: its weights have diverged, or its "
            "precision is too low"
        )
    if temperature < _GREEDY:
        return likeliest
    ids = None
    if top_k is not None and top_k < logits.shape[-1]:
        logits, ids = logits.topk(top_k, dim=-1)
    likelihood = ((logits.float() - peak.float()) / temperature).softmax(-1)
    drawn = torch.multinomial(likelihood, 1, generator=random)
    return drawn if ids is None else ids.gather(-1, drawn)


def require_sampling(
    temperature: float, top_k: int | None, seed: int | None, vocab_size: int | None
) -> None:
    """Refuse options that no draw can follow.

    Raises:
        InputError: one of them is out of range.
    """
    for name, value in {"top_k": top_k, "vocab_size": vocab_size, "seed": seed}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise InputError(f"{name} must be a whole number, not {value!r}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"temperature must be a number of at least 0, not {temperature}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, not {top_k}")
    if vocab_size is not None and vocab_size < 1:
        raise InputError(f"vocab_size must be at least 1, not {vocab_size}")
    if seed is not None and not _SEEDS[0] <= seed < _SEEDS[1]:
        raise InputError(f"seed must be from -2^63 to 2^64 - 1, not {seed}")


def pad_left(prompts: Sequence[Sequence[int]], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Prompts of any lengths as one batch, `tokens` and `attention_mask`, `(B, T)` each.

    What stands in the padding does not matter; `fill` must only be an id.

    Raises:
        InputError: no prompt, or an empty one.
    """
    if not prompts or not all(map(len, prompts)):
        raise InputError("every prompt needs at least one token")
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), fill)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, longest - len(prompt) :] = True
    return tokens, mask


def as_mask(mask: Tensor, tokens: Tensor) -> Tensor:
    """A mask of tokens as bool, where the tokens are.

    Raises:
        InputError: no tensor, or other values than 0 and 1.
    """
    if not isinstance(mask, Tensor):
        raise InputError(f"attention_mask must be a tensor, not {type(mask).__name__}")
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise InputError("attention_mask must hold 0 (padding) and 1 (a token) only")
    return mask.to(tokens.device, torch.bool)


def left_padding(mask: Tensor, tokens: Tensor) -> Tensor | None:
    """The number of padding tokens of each row, `(B,)`, or None if there are none."""
    mask = as_mask(mask, tokens)
    if mask.shape != tokens.shape[:2]:
        raise InputError(
            f"attention_mask must be {tuple(tokens.shape[:2])} as the tokens, not "
            f"{tuple(mask.shape)}"
        )
    if not mask[:, -1].all() or (mask[:, :-1] & ~mask[:, 1:]).any():
        raise InputError("attention_mask must be 0 on the left and 1 up to the last token")
    padding = (~mask).sum(1)
    return padding if padding.any() else None
