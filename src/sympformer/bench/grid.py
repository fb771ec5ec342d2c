"""Which cases `sympformer bench` measures, and which of them side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sympformer.attention import forms
from sympformer.bench.case import PLAIN, Case
from sympformer.bench.operations import operation
from sympformer.errors import InputError


def grid(
    first: Case,
    presets: Sequence[str],
    measures: Sequence[str],
    lengths: Sequence[int],
    widths: Sequence[int],
    tokens_per_batch: int | None = None,
    names: Sequence[str] = ("auto",),
) -> dict[str, list[Case]]:
    """Groups of cases by name: one for each measure, width and length, of all models
    in all forms.

    Args:
        first: what all cases share.
        presets: models beside the yardstick.
        measures: of MEASURES.
        lengths: contexts T, in tokens.
        widths: model dimensions.
        tokens_per_batch: sequences are as many as hold so many tokens, instead of the batch size.
        names: forms of attention, of `sympformer.attention.forms`; the yardstick has its own.

    Raises:
        InputError: an unknown name, a size that makes no sense, or nothing to measure.
    """
    asked = {"presets": presets, "measure": measures, "lengths": lengths, "forms": names}
    asked["n-embd"] = widths
    for name, given in asked.items():
        if not given:
            raise InputError(f"--{name} needs at least one value")
    if tokens_per_batch is not None and tokens_per_batch < max(lengths):
        raise InputError(
            f"{tokens_per_batch} tokens a batch do not hold one sequence of {max(lengths)}: "
            "give more, or shorter lengths"
        )
    models = [m for m in dict.fromkeys(presets) if m != PLAIN]
    kinds = [(PLAIN, "auto"), *((m, form) for m in models for form in dict.fromkeys(names))]
    groups = {}
    for measure in dict.fromkeys(measures):
        for d in dict.fromkeys(widths):
            for length in dict.fromkeys(lengths):
                batch = tokens_per_batch // length if tokens_per_batch else first.batch_size
                case = replace(first, measure=measure, n_embd=d, length=length, batch_size=batch)
                groups[f"{measure}, d {d}, T {length}"] = [
                    replace(case, model=m, form=form) for m, form in kinds
                ]
    return groups


def existing(groups: Mapping[str, Sequence[Case]]) -> tuple[dict[str, list[Case]], list[str]]:
    """Leave out the cases whose model does not run in the form that is asked for.

    Each is tried at a tiny size.

    Returns:
        The groups; a line for each form about what was left out.

    Raises:
        InputError: a form that cannot run here, or in which nothing that is measured runs.
    """
    kept = {name: [] for name in groups}
    tried: dict[Case, str] = {}
    for name, cases in groups.items():
        for case in cases:
            tiny = replace(case, n_layer=1, vocab_size=8, length=4, batch_size=1)
            if tiny not in tried:
                tried[tiny] = _obstacle(tiny)
            if not tried[tiny]:
                kept[name].append(case)
    has = {case.form for case, obstacle in tried.items() if not obstacle}
    lacks: dict[str, dict[str, None]] = {}
    for case, obstacle in tried.items():
        if obstacle and case.form not in has:
            raise InputError(f"{case.model} {case.measure} in form {case.form!r}: {obstacle}")
        if obstacle:
            lacks.setdefault(case.form, {})[f"{case.measure} of {case.model}"] = None
    return kept, [f"not in form {form!r}: {', '.join(what)}" for form, what in lacks.items()]


def _obstacle(case: Case) -> str:
    """What keeps a case from running in its form; empty if nothing does."""
    if case.form == "auto":
        return ""
    with forms.using(case.form):  # refuses what cannot run here at all
        pass
    compiled = case.compile and case.measure in ("step", "memory")
    try:
        made = operation(replace(case, compile=False), turns=1)
        with forms.recorded(compiled) as used:
            made.run()
    except InputError as error:
        return str(error)
    ran = {line.split()[0] for line in used}
    return "" if case.form in ran else "no attention in it has this form"
