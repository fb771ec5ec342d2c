"""The particle lab: the flows of the theory, without language."""

from sympformer.lab.experiments import EXPERIMENTS, perform
from sympformer.lab.flows import LinearFlow, SoftmaxFlow, VelocityFlow, hamiltonian
from sympformer.lab.formulas import (
    linear_field,
    linear_moments,
    regularised_field,
    regularised_moments,
    softmax_acceleration,
    softmax_field,
    softmax_hamiltonian,
)
from sympformer.lab.regularised import RegularisedFlow

__all__ = [
    "EXPERIMENTS",
    "LinearFlow",
    "RegularisedFlow",
    "SoftmaxFlow",
    "VelocityFlow",
    "hamiltonian",
    "linear_field",
    "linear_moments",
    "perform",
    "regularised_field",
    "regularised_moments",
    "softmax_acceleration",
    "softmax_field",
    "softmax_hamiltonian",
]
