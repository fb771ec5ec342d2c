"""Corpora, tokenizers, and the batches made from them."""

from sympformer.data.corpus import Corpus, fables, from_text, load, preview, summary
from sympformer.data.loader import Loader, valid_blocks
from sympformer.data.tokenizer import Tokenizer, load_tokenizer, save_tokenizer

__all__ = [
    "Corpus",
    "Loader",
    "Tokenizer",
    "fables",
    "from_text",
    "load",
    "load_tokenizer",
    "preview",
    "save_tokenizer",
    "summary",
    "valid_blocks",
]
