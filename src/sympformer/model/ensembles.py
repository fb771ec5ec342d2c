"""Every prefix as an ensemble of its own: the exact flow of a density as a decoder.

With `causality="prefix"` one ensemble serves all positions, and a token moves among those before it
only. Here the tokens of each prefix move among all of that prefix, as the flow of its density says,
and the last of them predicts the next token. That takes T times the work: it is a yardstick, for
short contexts.
"""

import torch
from torch import Tensor


def prefixes(ids: Tensor, new: int, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """The prefixes that end with each of the newest tokens, padded on the left.

    Args:
        ids: all tokens `(B, T)`.
        new: how many of them are new.
        padding: number of padding tokens on the left of each row, `(B,)`, or None.

    Returns:
        Ids `(B new, T)`, the prefixes of one row one after another, and how many tokens of
        padding each has, `(B new,)`.
    """
    total = ids.shape[1]
    missing = torch.arange(new - 1, -1, -1, device=ids.device)
    place = torch.arange(total, device=ids.device) - missing[:, None]
    rows = ids[:, place.clamp(min=0)]
    own = ids.new_zeros(len(ids)) if padding is None else padding
    # A prefix that is all padding keeps one token, so that it is a text, and is not used.
    padded = (missing + own[:, None]).clamp(max=total - 1)
    return rows.flatten(0, 1), padded.flatten()
