"""Options that several commands share."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from tyro.conf import arg

from sympformer.errors import InputError

COMPARED = ("gpt", "gpt-untied", "yurii", "symp-h0", "symp-r2", "symp-exp-euler")
"""The presets that are compared unless others are given."""
Flat = arg(name="")
"""For options that stand beside the command's own, without a name before theirs."""
Set = Annotated[tuple[str, ...], arg(metavar="[OPTION=VALUE ...]")]
"""Options of an architecture, read by `overrides`."""


@dataclass(frozen=True)
class Size:
    """Size of the model."""

    n_layer: int = 4
    """Layers."""
    n_head: int = 4
    """Attention heads."""
    n_embd: int = 64
    """Model dimension."""
    block_size: int = 128
    """Context, in tokens."""
    vocab_size: int | None = None
    """Token ids; as many as the tokenizer has if not given."""

    def fields(self) -> dict[str, int]:
        """The sizes that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def overrides(options: tuple[str, ...]) -> dict[str, Any]:
    """What the options of `--set` say; values are read as JSON, and as text if they are none.

    Raises:
        InputError: an option without a value.
    """
    overrides = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise InputError(f"--set takes OPTION=VALUE, not {option!r}")
        try:
            overrides[name] = json.loads(text)
        except json.JSONDecodeError:
            overrides[name] = text
    return overrides
