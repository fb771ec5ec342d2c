"""What goes wrong in a check, as the check says it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sympformer.errors import one_line


@contextmanager
def reported(name: str) -> Iterator[None]:
    """Make of whatever `name` raises an `AssertionError` of one line.

    Raises:
        AssertionError: something was raised.
    """
    try:
        yield
    except AssertionError as error:
        raise AssertionError(
            " ".join(str(error).split()) or f"{name}: {one_line(error)}"
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise AssertionError(f"{name} fails: {one_line(error)}") from error
