"""The command about data, and the corpus that other commands read."""

import json
from dataclasses import dataclass, field
from typing import Annotated

from sympformer.commands.options import Flat
from sympformer.data import Corpus, fables, from_text, preview, summary
from sympformer.train import DataConfig


@dataclass(frozen=True)
class Data:
    """Prepare a corpus and show what is in it."""

    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)

    def run(self) -> int:
        """Prepare."""
        corpus = prepare(self.data)
        print(json.dumps(summary(corpus), indent=2))
        print(preview(corpus))
        return 0


def prepare(data: DataConfig) -> Corpus:
    """The corpus that the options ask for.

    Raises:
        InputError: a text that cannot be read or used.
    """
    if data.text is None:
        return fables(train_tokens=data.train_tokens, valid_tokens=data.valid_tokens)
    return from_text(
        data.text,
        data.valid_text,
        tokenizer=data.tokenizer,
        separator=data.separator,
        valid_fraction=data.valid_fraction,
    )
