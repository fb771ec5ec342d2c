"""The commands of the particle lab, made from its table of experiments."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sympformer.commands.options import Flat


@dataclass(frozen=True)
class Lab:
    """See the theory happen: particle experiments (`sympformer lab --help` lists them)."""


def experiments() -> dict[str, Callable[..., int]]:
    """A command for each experiment, by name; it returns the exit code."""
    from sympformer.lab import EXPERIMENTS

    return {name: _command(name, experiment) for name, experiment in EXPERIMENTS.items()}


def _command(name: str, experiment: Any) -> Callable[..., int]:
    from sympformer.lab import perform

    def run(
        config: Annotated[Any, Flat],
        out: Path = Path("runs/lab"),
        animate: bool = False,
    ) -> int:
        result = perform(name, config, out, animate)
        for key, value in result.numbers.items():
            print(f"{key}: {value:.4g}")
        for claim in result.claims:
            print(claim)
        print(f"written: {out / name}.npz, .json, .png, .svg" + (", .gif" if animate else ""))
        return 0 if all(claim.holds for claim in result.claims) else 1

    run.__annotations__["config"] = Annotated[experiment.config, Flat]
    run.__doc__ = f"""{experiment.help[0].upper()}{experiment.help[1:]}.

    Args:
        out: Folder for data, figure and measured claims.
        animate: Also write an animation.
    """
    return run
