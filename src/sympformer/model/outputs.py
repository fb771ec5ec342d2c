"""What the outputs of models hold, ours and those of others."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from sympformer.errors import InputError


def find_logits(out: Any, shape: Iterable[int]) -> Any:
    """The logits in an output: itself, `.logits`, `["logits"]`, or the only tensor (B, T, ·) of it.

    Raises:
        InputError: a tuple or list with several tensors (B, T, ·).
    """
    if isinstance(out, Tensor):
        return out
    if isinstance(out, Mapping):
        return out.get("logits")
    if hasattr(out, "logits") or not isinstance(out, tuple | list):
        return getattr(out, "logits", None)
    found = [t for t in out if isinstance(t, Tensor) and t.ndim == 3 and t.shape[:2] == shape]
    if len(found) > 1:
        raise InputError(
            f"the model gave {described(out)}: say which are the logits, e.g. "
            "logits=lambda out: out[0]"
        )
    return found[0] if found else None


def find_loss(out: Any) -> Any:
    """The loss in an output: itself, `.loss`, `["loss"]`, or the only scalar of a tuple or list."""
    if isinstance(out, Tensor):
        return out
    if isinstance(out, Mapping):
        return out.get("loss")
    if hasattr(out, "loss") or not isinstance(out, tuple | list):
        return getattr(out, "loss", None)
    found = [t for t in out if isinstance(t, Tensor) and t.ndim == 0]
    return found[0] if len(found) == 1 else None


def described(out: Any) -> str:
    """An output in a few words, with the shapes of its tensors."""
    if isinstance(out, Tensor):
        return f"a tensor {tuple(out.shape)}"
    if isinstance(out, Mapping):
        return f"a {type(out).__name__} with {', '.join(map(str, out)) or 'nothing'}"
    if isinstance(out, tuple | list):
        parts = ", ".join(
            f"tensor {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            for part in out
        )
        return f"a {type(out).__name__} of {parts or 'nothing'}"
    return f"a {type(out).__name__}"
