"""What an audit found, for people and for machines."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

CHECKS = {
    "influence": "influence of later tokens",
    "gradient": "gradient to later tokens",
    "prefix": "prefix against longer text",
    "cache": "cache against full pass",
    "chunk": "cache, several at once",
}
"""The checks by name, and how the report calls them."""


@dataclass(frozen=True)
class Finding:
    """The largest value that a check saw: at which output, with which weights.

    `token` is, for influence and gradient, the later token; for prefix, the first token beyond the
    prefix; for cache and chunk, the first token fed in the
    same call as the output. `allowed` is the value up
    to which nothing is wrong, which depends on the precision in which the model computes.
    """

    value: float
    weights: str
    token: int
    output: int
    allowed: float

    @property
    def failed(self) -> bool:
        """More than allowed."""
        return self.value > self.allowed


@dataclass(frozen=True)
class AuditReport:
    """What the audit measured; `str()` of it is meant for people, `to_dict()` for JSON.

    Influences and differences are in standard deviations of a logit over the positions; gradients
    are relative to the largest gradient on a visible token. A finding is None where nothing could
    be measured; `not_made` says why, and names what else was not done. `nonfinite` names the
    weights with outputs that are NaN, infinite, or too large to be compared: nothing is proved
    there, so the model does not count as causal. `where` is the precision, and what is special
    about device and form.
    """

    length: int
    influence: Finding | None
    gradient: Finding | None
    prefix: Finding | None
    cache: Finding | None
    chunk: Finding | None = None
    nonfinite: tuple[str, ...] = ()
    not_made: Mapping[str, str] = field(default_factory=dict)
    where: str = "in float64"
    repeats: bool = True
    """Whether the same ids give the same outputs every time."""
    wrong_loss: str = ""
    """What is wrong with the loss of a model that was registered, if it is not of its logits."""

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
        """How far cached decoding is from one full pass, by single tokens or several at once."""
        return max((f.value for f in (self.cache, self.chunk) if f), default=None)

    @property
    def causal(self) -> bool:
        """No output depends on a later token, by influence and by gradient."""
        influence, gradient = self.influence, self.gradient
        return bool(
            self.repeats
            and not self.nonfinite
            and (influence and not influence.failed)
            and not (gradient and gradient.failed)
        )

    @property
    def prefix_consistent(self) -> bool | None:
        """The outputs of a prefix do not depend on how many tokens follow; None if not measured."""
        return None if self.prefix is None else not self.prefix.failed

    @property
    def cache_consistent(self) -> bool | None:
        """Cached decoding agrees with the full pass; None if not measured, as without a cache."""
        if self.cache is None:
            return None
        return not self.cache.failed and not (self.chunk and self.chunk.failed)

    @property
    def passed(self) -> bool:
        """Causal, with the loss of its logits; prefix and cache consistent as far as measured."""
        return (
            self.causal
            and not self.wrong_loss
            and self.prefix_consistent is not False
            and self.cache_consistent is not False
        )

    @property
    def verdict(self) -> str:
        """One line: the gravest fault that was found, or that there is none."""
        influence, gradient, prefix = self.influence, self.gradient, self.prefix
        if not self.repeats:
            return (
                "UNDECIDED: the same ids give other outputs the second time: take out what is "
                "drawn anew (dropout, sampling), or draw it from torch's global random state"
            )
        cache, chunk = self.cache, self.chunk
        if influence and influence.failed:
            return (
                f"LEAK: output {influence.output} moves by {influence.value:.2g} standard "
                f"deviations when token {influence.token} changes"
            )
        if gradient and gradient.failed:
            return (
                f"LEAK: output {gradient.output} has a gradient with respect to token "
                f"{gradient.token}, {gradient.value:.2g} times that of a visible token"
            )
        if self.nonfinite:
            return f"UNDECIDED: outputs are not finite with weights {', '.join(self.nonfinite)}"
        if self.wrong_loss:
            return f"WRONG LOSS: {self.wrong_loss}"
        if prefix and prefix.failed:
            return (
                f"LENGTH DEPENDENT: output {prefix.output} moves by {prefix.value:.2g} standard "
                f"deviations when token {prefix.token} and more follow"
            )
        if cache and cache.failed:
            return (
                f"WRONG CACHE: output {cache.output} of cached decoding is {cache.value:.2g} "
                f"standard deviations away from the full pass"
            )
        if chunk and chunk.failed:
            return (
                f"WRONG CACHE: when several tokens follow at once, output {chunk.output} is "
                f"{chunk.value:.2g} standard deviations away from the full pass"
            )
        missing = f"; not made: {', '.join(self.not_made)}" if self.not_made else ""
        return f"CAUSAL: no output depends on a later token{missing}"

    def to_dict(self) -> dict[str, Any]:
        """Verdicts, measured values and worst cases, as plain JSON values."""
        found = {name: getattr(self, name) for name in CHECKS}
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
            "where": self.where,
            "repeats": self.repeats,
            "wrong_loss": self.wrong_loss,
            "not_made": dict(self.not_made),
            "nonfinite": list(self.nonfinite),
            "worst": {name: finding and asdict(finding) for name, finding in found.items()},
        }

    def __str__(self) -> str:
        """The verdict, then one line for each check."""
        lines = [self.verdict, f"  {f'{self.length} tokens {self.where}':<28}  largest  allowed"]
        for check, name in CHECKS.items():
            finding = getattr(self, check)
            if finding is None and check == "chunk" and "cache" in self.not_made:
                continue
            if finding is None:
                lines.append(f"  {name:<28} not made: {self.not_made.get(check, 'not finite')}")
                continue
            line = f"  {name:<28}{finding.value:>9.1e}{finding.allowed:>9.0e}"
            if finding.failed:
                line += f"  FAILED at output {finding.output}, token {finding.token}"
                line += f", weights {finding.weights}"
            lines.append(line)
            if check in self.not_made:
                lines.append(f"  {'':<28} in part: {self.not_made[check]}")
        lines += [
            f"  {name:<28} not made: {reason}"
            for name, reason in self.not_made.items()
            if name not in CHECKS
        ]
        return "\n".join(lines)
