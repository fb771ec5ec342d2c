"""What an audit found, for people and for machines."""

import math
from dataclasses import asdict, dataclass
from typing import Any

# Both passes of the influence check have one shape, so a causal model repeats the same float64
# operations on the same numbers: the difference is zero, or rounding (1e-16) grown by the layers.
CAUSAL_TOLERANCE = 1e-10
# What is not seen is not in the graph, or multiplied by an exact zero.
GRADIENT_TOLERANCE = 0.0
# A prefix or a cached step has another shape, so sums run in another order, some of them in
# float32 where a model insists on it, and large weights amplify the rounding.
SHAPE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Finding:
    """The largest value that a check saw: at which output, with which weights.

    `token` is, for influence and gradient, the later token; for prefix, the first token beyond the
    prefix; for cache, the first token fed in the same call as the output.
    """

    value: float
    weights: str
    token: int
    output: int


@dataclass(frozen=True)
class Report:
    """What the audit measured; `str()` of it is meant for people, `to_dict()` for JSON.

    Influences and differences are in standard deviations of a logit over the positions; gradients
    are relative to the largest gradient on a visible token. A finding is None where there was
    nothing to measure: `gradient` if no `nn.Embedding` receives the tokens, `cache` if the model
    has none. `nonfinite` names the weights with outputs that are NaN, infinite, or too large to be
    compared: nothing is proved there, so the model does not count as causal.
    """

    length: int
    influence: Finding | None
    gradient: Finding | None
    prefix: Finding | None
    cache: Finding | None
    nonfinite: tuple[str, ...] = ()

    @property
    def max_future_influence(self) -> float:
        """How far an output moved because a later token changed; inf if no output was finite."""
        return self.influence.value if self.influence else math.inf

    @property
    def max_future_gradient(self) -> float | None:
        """The gradient of an output with respect to the embedding of a later token."""
        return self.gradient.value if self.gradient else None

    @property
    def max_prefix_difference(self) -> float:
        """How far an output moved because more tokens followed; inf if no output was finite."""
        return self.prefix.value if self.prefix else math.inf

    @property
    def max_cache_difference(self) -> float | None:
        """How far cached decoding is from one full pass."""
        return self.cache.value if self.cache else None

    @property
    def causal(self) -> bool:
        """No output depends on a later token, by influence and by gradient."""
        return (
            not self.nonfinite
            and self.max_future_influence <= CAUSAL_TOLERANCE
            and (self.max_future_gradient or 0.0) <= GRADIENT_TOLERANCE
        )

    @property
    def prefix_consistent(self) -> bool:
        """The outputs of a prefix do not depend on how many tokens follow."""
        return self.max_prefix_difference <= SHAPE_TOLERANCE

    @property
    def cache_consistent(self) -> bool | None:
        """Cached decoding agrees with the full pass; None if the model has no cache."""
        return self.cache.value <= SHAPE_TOLERANCE if self.cache else None

    @property
    def passed(self) -> bool:
        """Causal, and prefix and cache consistent."""
        return self.causal and self.prefix_consistent and self.cache_consistent is not False

    @property
    def verdict(self) -> str:
        """One line: the gravest fault that was found, or that there is none."""
        influence, gradient, prefix, cache = self.influence, self.gradient, self.prefix, self.cache
        if influence and influence.value > CAUSAL_TOLERANCE:
            return (
                f"LEAK: output {influence.output} moves by {influence.value:.2g} standard "
                f"deviations when token {influence.token} changes"
            )
        if gradient and gradient.value > GRADIENT_TOLERANCE:
            return (
                f"LEAK: output {gradient.output} has a gradient with respect to token "
                f"{gradient.token}, {gradient.value:.2g} times that of a visible token"
            )
        if self.nonfinite:
            return f"UNDECIDED: outputs are not finite with weights {', '.join(self.nonfinite)}"
        if prefix and not self.prefix_consistent:
            return (
                f"LENGTH DEPENDENT: output {prefix.output} moves by {prefix.value:.2g} standard "
                f"deviations when token {prefix.token} and more follow"
            )
        if cache and not self.cache_consistent:
            return (
                f"WRONG CACHE: output {cache.output} of cached decoding is {cache.value:.2g} "
                f"standard deviations away from the full pass"
            )
        return "CAUSAL: no output depends on a later token"

    def to_dict(self) -> dict[str, Any]:
        """Verdicts, measured values and worst cases, as plain JSON values."""
        found = {name: getattr(self, name) for name in ("influence", "gradient", "prefix", "cache")}
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "causal": self.causal,
            "prefix_consistent": self.prefix_consistent,
            "cache_consistent": self.cache_consistent,
            "max_future_influence": self.influence and self.influence.value,
            "max_future_gradient": self.max_future_gradient,
            "max_prefix_difference": self.prefix and self.prefix.value,
            "max_cache_difference": self.max_cache_difference,
            "length": self.length,
            "nonfinite": list(self.nonfinite),
            "worst": {name: finding and asdict(finding) for name, finding in found.items()},
        }

    def __str__(self) -> str:
        """The verdict, then one line for each check."""
        rows = (
            ("influence of later tokens", self.influence, CAUSAL_TOLERANCE),
            ("gradient to later tokens", self.gradient, GRADIENT_TOLERANCE),
            ("prefix against longer text", self.prefix, SHAPE_TOLERANCE),
            ("cache against full pass", self.cache, SHAPE_TOLERANCE),
        )
        lines = [self.verdict, f"  {f'{self.length} tokens in float64':<28}  largest  allowed"]
        for name, finding, allowed in rows:
            if finding is None:
                lines.append(f"  {name:<28}{'not there':>9}{allowed:>9.0e}")
                continue
            line = f"  {name:<28}{finding.value:>9.1e}{allowed:>9.0e}"
            if finding.value > allowed:
                line += f"  FAILED at output {finding.output}, token {finding.token}"
                line += f", weights {finding.weights}"
            lines.append(line)
        return "\n".join(lines)
