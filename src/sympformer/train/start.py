"""A run that starts from the weights of a trained model, with an optimizer of its own."""

from typing import Any

from sympformer.data import Tokenizer
from sympformer.errors import InputError
from sympformer.model import CustomModel, LanguageModel
from sympformer.model.continuation import start_as
from sympformer.model.weights import weights
from sympformer.train.runs import trained
from sympformer.train.tensors import digest


def start_from(
    path: str, model: LanguageModel | CustomModel, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Give a fresh model the weights that a run or a model folder holds.

    Args:
        path: where the trained model is.
        model: of the same config, or a gradual one that starts as the same function.
        tokenizer: of the text that it will be trained on; None for a task.

    Returns:
        What a summary says of it: the path, and the digest of the weights there.

    Raises:
        InputError: there is no model, it is of another function, or its ids mean other text.
    """
    held = trained(path)
    source = held.model()
    if tokenizer is not None and not same_ids(own := held.tokenizer(), tokenizer):
        raise InputError(
            f"{path} was trained with tokenizer {own.name}, and this text is encoded with "
            f"{tokenizer.name}: give --tokenizer {path}"
        )
    start_as(model, source)
    return {"model": path, "weights": digest(weights(source))}


def same_ids(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether ids of the two mean the same text: their files may differ in form."""
    if one.digest == other.digest:
        return True
    if (one.vocab_size, one.eos) != (other.vocab_size, other.eos):
        return False
    return all(one.decode([i]) == other.decode([i]) for i in range(one.vocab_size))
