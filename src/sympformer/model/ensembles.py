"""Every prefix as an ensemble of its own: the exact flow of a density as a decoder.

With `causality="prefix"` one ensemble serves all positions, and a token moves among those before it
only. Here the tokens of each prefix move among all of that prefix, as the flow of its density says,
and the last of them predicts the next token. That takes T times the work: it is a yardstick, for
short contexts.
"""

import torch
from torch import Tensor


def prefixes(vectors: Tensor, new: int, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """The prefixes that end with each of the newest tokens, padded on the left.

    Args:
        vectors: all tokens `(B, T, c)`.
        new: how many of them are new.
        padding: number of padding tokens on the left of each row, `(B,)`, or None.

    Returns:
        Tokens `(B new, T, c)`, the prefixes of one row one after another, and how many tokens of
        padding each has, `(B new,)`.
    """
    total = vectors.shape[1]
    missing = torch.arange(new - 1, -1, -1, device=vectors.device)
    place = torch.arange(total, device=vectors.device) - missing[:, None]
    rows = vectors[:, place.clamp(min=0)]
    own = place.new_zeros(len(vectors)) if padding is None else padding
    # A prefix that is all padding keeps one token, so that it is a text, and is not used.
    padded = (missing + own[:, None]).clamp(max=total - 1)
    return rows.flatten(0, 1), padded.flatten()
