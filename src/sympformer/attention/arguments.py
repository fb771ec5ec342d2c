"""What the functions of attention are given, checked: values of options, shapes that fit."""

from collections.abc import Mapping

from torch import Tensor

from sympformer.attention.naive import Causality
from sympformer.attention.softmax import Normalizer
from sympformer.errors import InputError, shown
from sympformer.typed import check

_OPTIONS = {
    "scale": float | None,
    "causality": Causality,
    "normalizer": Normalizer,
    "ridge": float,
}


def check_options(**given: object) -> None:
    """Check the options of a function, by name.

    Raises:
        InputError: a value that the option does not have.
    """
    for name, value in given.items():
        check(name, value, _OPTIONS[name])


def check_shapes(tensors: Mapping[str, tuple[Tensor, str]], fewer: tuple[str, ...] = ()) -> None:
    """Check that tensors fit the first of them, whose axes are batch, heads, tokens, width.

    Args:
        tensors: each with the letter of its width; "1" is one number for all heads, `(B, 1, T, 1)`.
        fewer: those that may have fewer tokens: they are of the newest.

    Raises:
        InputError: no tensor of real numbers, or one whose shape or type is another.
    """
    first, (like, _) = next(iter(tensors.items()))
    widths: dict[str, int] = {"1": 1}
    for name, (x, letter) in tensors.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else shown(x)
            raise InputError(f"{name} must be a tensor of real numbers, not {kind}")
        if x.ndim != 4:
            raise InputError(
                f"{name} must be (batch, heads, tokens, width), not {tuple(x.shape)}: "
                "unsqueeze what it lacks"
            )
        if x.dtype != like.dtype:
            raise InputError(f"{name} is {x.dtype} and {first} {like.dtype}: give both one type")
        batch, heads, tokens, _ = like.shape
        width = widths.setdefault(letter, x.shape[-1])
        fits = x.shape[2] == tokens or (name in fewer and x.shape[2] <= tokens)
        wanted = batch, 1 if letter == "1" else heads, tokens, width
        if not fits or x.shape != (*wanted[:2], x.shape[2], width):
            at_most = " (or fewer tokens)" if name in fewer else ""
            raise InputError(
                f"{name} is {tuple(x.shape)}, and must be {wanted}{at_most} to fit {first} "
                f"{tuple(like.shape)}"
            )
