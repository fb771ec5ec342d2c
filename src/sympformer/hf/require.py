"""Whether the library that this room is about is there."""

from importlib.metadata import PackageNotFoundError, version

from sympformer.errors import InputError

OLDEST = (5, 24)
"""Release from which caches are called `cache` and cropped by the tokens to remove."""


def require_transformers() -> None:
    """Refuse to go on without `transformers`, or with one that is too old.

    Raises:
        InputError: with the command that mends it.
    """
    try:
        found = version("transformers")
    except PackageNotFoundError:
        raise InputError("this needs transformers: pip install 'sympformer[hf]'") from None
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise InputError(
            f"this needs transformers {oldest} or newer, and {found} is installed: pip install "
            "-U 'sympformer[hf]'"
        )
