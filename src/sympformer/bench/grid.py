"""Which cases `sympformer bench` measures, and which of them side by side."""

from collections.abc import Sequence
from dataclasses import replace

from sympformer.bench.case import PLAIN, Case
from sympformer.errors import InputError


def grid(
    first: Case,
    presets: Sequence[str],
    measures: Sequence[str],
    lengths: Sequence[int],
    widths: Sequence[int],
    tokens_per_batch: int | None = None,
) -> dict[str, list[Case]]:
    """Groups of cases by name: one for each measure, width and length, of all models.

    Args:
        first: what all cases share.
        presets: models beside the yardstick.
        measures: of MEASURES.
        lengths: contexts T, in tokens.
        widths: model dimensions.
        tokens_per_batch: sequences are as many as hold so many tokens, instead of the batch size.

    Raises:
        InputError: an unknown name, a size that makes no sense, or nothing to measure.
    """
    for name, given in (("presets", presets), ("measure", measures), ("lengths", lengths)):
        if not given:
            raise InputError(f"--{name} needs at least one value")
    if tokens_per_batch is not None and tokens_per_batch < max(lengths):
        raise InputError(
            f"{tokens_per_batch} tokens a batch do not hold one sequence of {max(lengths)}: "
            "give more, or shorter lengths"
        )
    models = list(dict.fromkeys([PLAIN, *presets]))
    groups = {}
    for measure in dict.fromkeys(measures):
        for d in dict.fromkeys(widths):
            for length in dict.fromkeys(lengths):
                batch = tokens_per_batch // length if tokens_per_batch else first.batch_size
                case = replace(first, measure=measure, n_embd=d, length=length, batch_size=batch)
                groups[f"{measure}, d {d}, T {length}"] = [replace(case, model=m) for m in models]
    return groups
