"""Two models on the same documents: what one saves over the other, in bits per byte."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sympformer.errors import InputError
from sympformer.evaluation.intervals import Estimate, ratio, share
from sympformer.evaluation.text import TextScores


@dataclass(frozen=True)
class Difference:
    """One model less the other, paired by document; below 0, the first is better."""

    bits_per_byte: Estimate
    """Over all bytes, with the bootstrap over documents."""
    better: Estimate
    """The share of documents of which the first needs fewer bits; equal ones count half."""
    wilcoxon: float
    """p of Wilcoxon's signed-rank test on the documents' bits per byte; 1 if none differs."""
    documents: int

    def summary(self) -> dict[str, Any]:
        """As plain numbers."""
        return {
            "bits_per_byte": self.bits_per_byte._asdict(),
            "better_documents": self.better._asdict(),
            "wilcoxon_p": self.wilcoxon,
            "documents": self.documents,
        }


def compare_texts(one: TextScores, other: TextScores, seed: int = 0) -> Difference:
    """Compare the scores of two models on the same documents.

    The documents are the sample: of another seed of the training this says nothing.

    Raises:
        InputError: they are of other documents.
    """
    from scipy import stats

    if not np.array_equal(one.bytes, other.bytes):
        raise InputError("the two models were scored on other documents")
    saved = (one.nats - other.nats) / math.log(2)
    by_document = saved / one.bytes
    # Sums of equal numbers in another order differ in the last bits.
    by_document[np.abs(saved) < 1e-9 * (np.abs(one.nats) + 1)] = 0.0
    better = (by_document < 0).sum() + (by_document == 0).sum() // 2
    p = float(stats.wilcoxon(by_document)[1]) if by_document.any() else 1.0  # pyright: ignore[reportArgumentType]
    n = len(saved)
    return Difference(ratio(saved, one.bytes, seed), share(int(better), n), p, n)
