"""What stands before a token, as tensors that a program is given and gives back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sympformer.model.cache import Buffer, Entry


class GivenPast:
    """Earlier tokens by the entries they left: `sympformer.attention.past.Past`.

    Args:
        old: what earlier tokens left, by name; all entries are there.
        length: number of earlier tokens, which may be a symbol.
    """

    keeps = True
    padding: Tensor | None = None

    def __init__(self, old: Mapping[str, Tensor], length: int):
        self.old, self.length, self.name = old, length, ""
        self.new: dict[str, Tensor] = {}
        """What later tokens need, by the same names."""

    def part(self, name: str) -> "GivenPast":
        """The same tokens, as a part sees them."""
        part = GivenPast(self.old, self.length)
        part.name, part.new = f"{self.name}{name}.", self.new
        return part

    def recall(self, name: str) -> Tensor:
        """What earlier tokens left under this name."""
        return self.old[self.name + name]

    def keep(self, name: str, value: Tensor) -> None:
        """Leave `value` for later tokens, in place of what was there."""
        self.new[self.name + name] = value

    def extend(self, name: str, new: Tensor) -> Tensor:
        """Append `new` to what earlier tokens left; return the whole."""
        whole = torch.cat([self.recall(name), new], dim=-2)
        self.keep(name, whole)
        return whole


def parts_of(entries: Mapping[str, Entry], length: int) -> tuple[dict[str, Tensor], list[str]]:
    """Entries of a cache as tensors of their own, and the names of those that grow."""
    tensors = {
        name: (e.tokens(length) if isinstance(e, Buffer) else e).clone().contiguous()
        for name, e in entries.items()
    }
    return tensors, [name for name, e in entries.items() if isinstance(e, Buffer)]
