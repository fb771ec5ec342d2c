"""Tokenizers as Hugging Face's: the same ids of the same text."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sympformer.data import Tokenizer
from sympformer.data.tokenizer import END_OF_TEXT, ByteTokenizer, SubwordTokenizer


def hf_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast | None:
    """The tokenizer for `transformers`; None for the fables, whose grammar it lacks."""
    if isinstance(tokenizer, SubwordTokenizer):
        made = tokenizers.Tokenizer.from_str(tokenizer.serialized)
    elif isinstance(tokenizer, ByteTokenizer):
        made = _bytes(tokenizer)
    else:
        return None
    end = made.id_to_token(tokenizer.eos)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=end,
        eos_token=end,
        pad_token=end,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _bytes(tokenizer: ByteTokenizer) -> tokenizers.Tokenizer:
    """Byte pairs without merges: the letters of byte-level tokenizers, in the order of bytes."""
    vocabulary = {**{_letter(b): b for b in range(256)}, END_OF_TEXT: tokenizer.eos}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END_OF_TEXT])
    return made


def _letter(byte: int) -> str:
    """The letter by which byte-level tokenizers write a byte (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in plain:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in plain].index(byte))
