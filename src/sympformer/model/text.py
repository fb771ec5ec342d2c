"""Text from a model: what a person asks of it."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from sympformer.errors import InputError
from sympformer.model.custom import CustomModel
from sympformer.model.generation import pad_left
from sympformer.model.language import LanguageModel

_BROKEN = "\ufffd"
_CONTEXT = 4
"""Groups of tokens that are decoded again, so that the next is decoded as in the whole text."""
_WAIT = 8
"""Tokens after which no character is waited for: one has at most four bytes."""


class Tokenizer(Protocol):
    """What generation needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Ids are below it; others are never generated."""
        ...

    @property
    def eos(self) -> int:
        """The token that ends a document."""
        ...

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def continue_text(
    model: LanguageModel | CustomModel,
    tokenizer: Tokenizer,
    prompt: str | None = None,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int | None = None,
    *,
    compile: bool = False,
    slide: bool = False,
) -> str:
    """Prompt and continuation as text, up to the end of the document or, if it does not slide, of
    the block.

    Without a prompt it is a new document. `compile`, `slide`: see `LanguageModel.generate`.

    Raises:
        InputError: the prompt holds no tokens, or more than the model's block size, or is not
            UTF-8; a sampling option is out of range.
    """
    options = max_new_tokens, temperature, top_k, seed
    ways = {"compile": compile, "slide": slide}
    return "".join(stream_text(model, tokenizer, prompt, *options, **ways))


def stream_text(
    model: LanguageModel | CustomModel,
    tokenizer: Tokenizer,
    prompt: str | None = None,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int | None = None,
    *,
    compile: bool = False,
    slide: bool = False,
) -> Iterator[str]:
    """Yield the text of `continue_text` in pieces, as it comes; the first is the prompt."""
    ids = _encode(tokenizer, prompt)
    options = max_new_tokens, temperature, top_k, seed, compile, slide
    rows = _rows(model, tokenizer, [ids], *options)
    new = (int(row) for row in rows)
    start = [] if prompt is None else ids
    return decode_stream(tokenizer, start, new)


def continue_texts(
    model: LanguageModel | CustomModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int | None = None,
    *,
    compile: bool = False,
    slide: bool = False,
) -> list[str]:
    """Several prompts and their continuations, made in one batch.

    At temperature 0 each text is that of `continue_text`, but for the room: the longest prompt
    says how many tokens fit.

    Raises:
        InputError: as `continue_text`, of any prompt.
    """
    start = [_encode(tokenizer, prompt) for prompt in prompts]
    options = max_new_tokens, temperature, top_k, seed, compile, slide
    rows = _rows(model, tokenizer, start, *options)
    new = [list[int]() for _ in start]
    for row in rows:
        for more, number in zip(new, row.flatten().tolist(), strict=True):
            more.append(number)
    return [
        "".join(decode_stream(tokenizer, old, more)) for old, more in zip(start, new, strict=True)
    ]


def sample_text(model: LanguageModel | CustomModel, tokenizer: Tokenizer, seed: int = 0) -> str:
    """A new document as `continue_text` makes it, or the reason why there is none.

    For those whose work a sample shall never stop: a training run evaluates models of any state
    and size, with any tokenizer.
    """
    try:
        return continue_text(model, tokenizer, seed=seed)
    except Exception as error:
        return f"(no sample: {type(error).__name__}: {error})"


def decode_stream(tokenizer: Tokenizer, prompt: Sequence[int], new: Iterable[int]) -> Iterator[str]:
    """Yield the text of a prompt and of what follows it, up to the end of the document.

    A character whose bytes are spread over several tokens comes when it is whole. Each token is
    decoded with a few before it, on which its white space, capitals, ... may depend.
    """
    window = _Window(tokenizer)
    if prompt:
        yield window.extend(prompt)
    for number in new:
        if number == tokenizer.eos:
            break
        if text := window.extend([number]):
            yield text
    if rest := window.rest():
        yield rest


class _Window:
    """The last tokens of a text, in groups that end with whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decode = tokenizer.decode
        self._groups: deque[list[int]] = deque([[]], maxlen=_CONTEXT + 1)
        self._shown = ""
        self._waits = 0

    def extend(self, ids: Iterable[int]) -> str:
        """Text that is new, and will not change with the tokens that follow."""
        self._groups[-1].extend(ids)
        self._waits += 1
        text = self._text()
        whole = text.rstrip(_BROKEN)
        late = self._waits > _WAIT
        if late:  # these bytes are no character, except that the last may begin one
            whole = text.removesuffix(_BROKEN)
        elif not whole.startswith(self._shown):
            return ""
        new = whole[len(self._shown) :]
        self._shown += new
        if late or whole == text:
            self._groups.append([])
            self._waits = 0
            self._shown = self._text()
            if whole != text:
                self._shown = self._shown.removesuffix(_BROKEN)
        return new

    def rest(self) -> str:
        """What has been held back."""
        return self._text()[len(self._shown) :]

    def _text(self) -> str:
        return self._decode([number for group in self._groups for number in group])


def _encode(tokenizer: Tokenizer, prompt: str | None) -> list[int]:
    if prompt is None:
        return [tokenizer.eos]
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise InputError(f"the prompt {prompt!r} is not UTF-8 text") from None
    ids = tokenizer.encode(prompt)
    if not ids:
        raise InputError(f"the prompt {prompt!r} holds no tokens: give it some text")
    return ids


def _rows(
    model: LanguageModel | CustomModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int | None,
    compile: bool,
    slide: bool,
) -> Iterator[Tensor]:
    """The new ids of every prompt, `(B, 1)` for each token."""
    tokens, mask = pad_left(prompts)
    room = max_new_tokens if slide else model.config.block_size - tokens.shape[1]
    if room < 1 and not slide:
        raise InputError(
            f"the prompt's {tokens.shape[1]} tokens leave no room in the model's block size of "
            f"{model.config.block_size}: shorten it"
        )
    device = next(model.parameters()).device
    return model.eval().stream(
        tokens.to(device),
        min(max_new_tokens, room),
        temperature,
        top_k,
        seed,
        attention_mask=mask,
        stop=tokenizer.eos,
        vocab_size=tokenizer.vocab_size,
        compile=compile,
        slide=slide,
    )
