"""Text of unknown origin, made harmless where it is shown: terminals, Markdown, figures."""

import re


def visible(text: str, keep: str = "") -> str:
    r"""Characters that steer a terminal or cannot be seen, as escapes (`\x1b`); `keep` are left."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def code(text: str) -> str:
    """For a code span of Markdown: nothing in it ends the span."""
    return "`" + visible(text).replace("`", "'") + "`"


def markdown(text: str) -> str:
    """For a line of Markdown: shown as it is, but for code spans."""
    parts = visible(text).split("`")
    if len(parts) % 2 == 0:  # a span that never ends is none
        parts = ["'".join(parts)]
    plain = [re.sub(r"([\\*\[\]<>])", r"\\\1", part) for part in parts[::2]]
    return "`".join(
        part for pair in zip(plain, [*parts[1::2], ""], strict=True) for part in pair
    ).removesuffix("`")


def mathless(text: str) -> str:
    """For a label of a figure: no formula begins in it."""
    return visible(text).replace("$", r"\$")
