"""Documents of a packed batch, each as a row of its own: nothing crosses from one to another.

A row of a packed batch is cut before every separator, which so becomes the first token of the
document behind it, as it is where a text is generated from nothing: it predicts that document's
first token. All targets stay. Rows are evened out on the right, which no causal model sees: so
attention, states, convolutions, shifts and positions of every such model begin anew with a
document, in its fastest form, without a mask.
"""

import torch
from torch import Tensor

IGNORED = -100
"""A target that does not count, as in torch's losses."""


def apart(inputs: Tensor, eos: int) -> list[Tensor]:
    """Where the tokens of each document are, in passes of documents of similar length.

    Args:
        inputs: ids `(B, T)`.
        eos: the id of the separator.

    Returns:
        For each pass places in the flattened batch `(R, L)`, -1 behind the end of a document. No
        pass has more than `B T` of them; all together have every place of the batch once.
    """
    starts = inputs == eos
    starts[:, 0] = True
    (first,) = starts.flatten().nonzero(as_tuple=True)
    length = torch.diff(first, append=first.new_tensor([inputs.numel()]))
    length, order = length.sort(descending=True, stable=True)
    first, passes = first[order], []
    while len(first):
        longest = int(length[0])
        rows = inputs.numel() // longest
        within = torch.arange(longest)
        places = first[:rows, None] + within
        passes.append(places.masked_fill(within >= length[:rows, None], -1))
        first, length = first[rows:], length[rows:]
    return passes


def taken(values: Tensor, places: Tensor, fill: int) -> Tensor:
    """The values of a batch `(B, T)` at some places `(R, L)`, and `fill` where there is none."""
    return values.flatten()[places.clamp(min=0)].masked_fill(places < 0, fill)
