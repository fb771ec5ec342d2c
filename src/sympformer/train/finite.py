"""Which updates are applied: those whose loss and gradients are finite; and the loss scale."""

import math
from typing import Any

from sympformer.errors import InputError
from sympformer.train.config import TrainConfig

FIRST_SCALE, LARGEST_SCALE = 2.0**16, 2.0**24
PATIENCE = 2000
"""Updates without an overflow after which the loss scale is doubled."""
OVERFLOWS = 20
"""Updates in a row that float16 may skip if the config does not say: its scale starts high."""


class DivergenceError(InputError):
    """A loss or a gradient is not finite; the update was not applied."""


class Finite:
    """Counts updates that were skipped, and scales the loss of float16.

    A scale of 1 is none. An update that is not finite halves it, `PATIENCE` good ones double it.

    Attributes:
        scale: what the loss is multiplied by before the backward pass, a power of two.
        skipped: updates that were skipped, in all.
        counts: whether a finite update changes anything here; else `applies` need not be asked.
    """

    def __init__(self, config: TrainConfig) -> None:
        scales = config.dtype == "float16"
        given = config.skip_nonfinite
        self.allowed = (OVERFLOWS if scales else 0) if given is None else given
        self.scale = FIRST_SCALE if scales else 1.0
        self.skipped = self._in_a_row = self._good = 0
        self.counts = scales

    def applies(self, step: int, loss: float, norms: dict[str, float]) -> bool:
        """Whether to apply an update.

        Args:
            step: its number, from 0.
            loss: of its batch.
            norms: of its gradients, by group.

        Raises:
            DivergenceError: it is not finite, and as many before it in a row as may be skipped
                were not either; the message names step and groups.
        """
        bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
        what = [] if math.isfinite(loss) else ["the loss"]
        what += [f"the gradient of the {' and the '.join(bad)}"] if bad else []
        if not what:
            self._in_a_row, self._good = 0, self._good + 1
            if self._good >= PATIENCE and self.scale > 1:
                self.scale, self._good = min(2 * self.scale, LARGEST_SCALE), 0
            self.counts = self.scale > 1
            return True
        if self._in_a_row >= self.allowed:
            skipped = f", nor in the {self._in_a_row} updates before it, which were skipped"
            raise DivergenceError(
                f"training diverged at step {step}: {' and '.join(what)} not finite"
                f"{skipped if self._in_a_row else ''}; the update was not applied"
            )
        self.skipped, self._in_a_row, self._good = self.skipped + 1, self._in_a_row + 1, 0
        self.scale, self.counts = max(1.0, self.scale / 2), True
        return False

    def state_dict(self) -> dict[str, Any]:
        """The counters, and the scale."""
        counters = {"skipped": self.skipped, "in_a_row": self._in_a_row, "good": self._good}
        return {**counters, "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.skipped, self.scale = state["skipped"], state["scale"]
        self._in_a_row, self._good = state["in_a_row"], state["good"]
        self.counts = self._in_a_row > 0 or self.scale > 1
