"""What one evaluation of the field is: softmax and linear attention, in both forms.

`functional` has it as functions, `naive` the formulas, `forms` the choice of how it is computed.
"""

from sympformer.attention import forms, naive
from sympformer.attention.functional import (
    linear_attention,
    linear_metric,
    linear_momentum,
    softmax_attention,
    softmax_momentum,
    softmax_velocity,
)
from sympformer.attention.past import hide

__all__ = [
    "forms",
    "hide",
    "linear_attention",
    "linear_metric",
    "linear_momentum",
    "naive",
    "softmax_attention",
    "softmax_momentum",
    "softmax_velocity",
]
