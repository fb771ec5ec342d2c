"""Text from a model: what a person asks of it."""

import torch

from sympformer.data.tokenizer import Tokenizer
from sympformer.errors import InputError
from sympformer.model import LanguageModel


def continue_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | None = None,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int | None = None,
) -> str:
    """Prompt and continuation as text, up to the end of the document or of the block.

    Without a prompt it is a new document.

    Raises:
        InputError: the prompt holds no tokens, or more than the model's block size.
    """
    ids = [tokenizer.eos] if prompt is None else tokenizer.encode(prompt)
    if not ids:
        raise InputError(f"the prompt {prompt!r} holds no tokens: give it some text")
    room = model.config.block_size - len(ids)
    if room < 1:
        raise InputError(
            f"the prompt's {len(ids)} tokens leave no room in the model's block size of "
            f"{model.config.block_size}: shorten it"
        )
    device = next(model.parameters()).device
    tokens = torch.tensor([ids], device=device)
    new = model.eval().generate(tokens, min(max_new_tokens, room), temperature, top_k, seed)
    whole = new[0].tolist()
    end = next((i for i in range(len(ids), len(whole)) if whole[i] == tokenizer.eos), len(whole))
    return tokenizer.decode(whole[prompt is None : end])
