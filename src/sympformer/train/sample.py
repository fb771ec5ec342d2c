"""Text from a model: what a person asks of it."""

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from sympformer.data.tokenizer import Tokenizer
from sympformer.errors import InputError
from sympformer.model import LanguageModel
from sympformer.model.generation import pad_left


def continue_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | None = None,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int | None = None,
    *,
    compile: bool = False,
) -> str:
    """Prompt and continuation as text, up to the end of the document or of the block.

    Without a prompt it is a new document. `compile`: see `LanguageModel.generate`.

    Raises:
        InputError: the prompt holds no tokens, or more than the model's block size.
    """
    options = max_new_tokens, temperature, top_k, seed
    return "".join(stream_text(model, tokenizer, prompt, *options, compile=compile))


def stream_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | None = None,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int | None = None,
    *,
    compile: bool = False,
) -> Iterator[str]:
    """Yield the text of `continue_text` in pieces, as it comes; the first is the prompt."""
    ids = _encode(tokenizer, prompt)
    rows = _rows(model, tokenizer, [ids], max_new_tokens, temperature, top_k, seed, compile)
    new = (int(row) for row in rows)
    start = [] if prompt is None else ids
    return decode_stream(tokenizer, start, new)


def continue_texts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int | None = None,
    *,
    compile: bool = False,
) -> list[str]:
    """Several prompts and their continuations, made in one batch.

    At temperature 0 each text is that of `continue_text`, but for the room: the longest prompt
    says how many tokens fit.

    Raises:
        InputError: as `continue_text`, of any prompt.
    """
    start = [_encode(tokenizer, prompt) for prompt in prompts]
    rows = _rows(model, tokenizer, start, max_new_tokens, temperature, top_k, seed, compile)
    new = [list[int]() for _ in start]
    for row in rows:
        for more, number in zip(new, row.flatten().tolist(), strict=True):
            more.append(number)
    return [
        "".join(decode_stream(tokenizer, old, more)) for old, more in zip(start, new, strict=True)
    ]


def decode_stream(tokenizer: Tokenizer, prompt: Sequence[int], new: Iterable[int]) -> Iterator[str]:
    """Yield the text of a prompt and of what follows it, up to the end of the document.

    A character whose bytes are spread over several tokens comes when it is whole.
    """
    ids, shown = list(prompt), ""
    if ids:
        shown = tokenizer.decode(ids).rstrip("\ufffd")
        yield shown
    for number in new:
        if number == tokenizer.eos:
            break
        ids.append(number)
        text = tokenizer.decode(ids).rstrip("\ufffd")
        if len(text) > len(shown) and text.startswith(shown):
            yield text[len(shown) :]
            shown = text
    rest = tokenizer.decode(ids)[len(shown) :]
    if rest:
        yield rest


def _encode(tokenizer: Tokenizer, prompt: str | None) -> list[int]:
    ids = [tokenizer.eos] if prompt is None else tokenizer.encode(prompt)
    if not ids:
        raise InputError(f"the prompt {prompt!r} holds no tokens: give it some text")
    return ids


def _rows(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int | None,
    compile: bool,
) -> Iterator[Tensor]:
    """The new ids of every prompt, `(B, 1)` for each token."""
    tokens, mask = pad_left(prompts)
    room = model.config.block_size - tokens.shape[1]
    if room < 1:
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
        compile=compile,
    )
