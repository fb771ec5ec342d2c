"""What is audited, as a function from ids and a cache to logits and a cache."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sympformer.errors import InputError
from sympformer.model.outputs import described, find_logits

CACHES = ("cache", "past_key_values", "state")
"""Names under which models take a cache, and under which their outputs hold one."""
LIMITS = ("block_size", "max_position_embeddings", "n_positions")
"""Names under which the configs of models hold the most tokens of a text."""


class Subject:
    """A model, how it is called, and what its answer means.

    Args:
        model: a module, or any callable from ids.
        call: `call(model, ids) -> out`, in place of `model(ids)`.
        logits: `logits(out) -> (B, T, V)`, where the output does not say which they are.

    Attributes:
        module: the model, if it is a module; a function shows neither weights nor embeddings.
        cache_name: under which name a cache is taken; None if none is.
        device: where ids are put; the CPU for a function.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        call: Callable[..., Any] | None = None,
        logits: Callable[[Any], Tensor] | None = None,
    ):
        self.model, self.call, self.logits = model, call, logits
        self.module = model if isinstance(model, nn.Module) else None
        parameters = _parameters(call or (model if self.module is None else self.module.forward))
        self.cache_name = next((name for name in CACHES if name in parameters), None)
        self._asks = "use_cache" in parameters
        self.device = device_of(self.module)

    def __call__(self, ids: Tensor, cache: Any = None, keep: bool = False) -> tuple[Tensor, Any]:
        """Logits `(B, T, V)`, and the cache after them if there is one.

        Args:
            ids: `(B, T)` int64; the model gets a contiguous copy.
            cache: of the tokens before.
            keep: whether a cache is wanted; some models make one only then.

        Raises:
            InputError: the output has no logits of every position.
        """
        options: dict[str, Any] = {}
        if keep and self._asks:
            options["use_cache"] = True
        if cache is not None:
            options[str(self.cache_name)] = cache
        _seed()  # the same noise in every call, should the model draw any
        ids = ids.clone(memory_format=torch.contiguous_format)
        out = self.call(self.model, ids, **options) if self.call else self.model(ids, **options)
        return self.logits_of(out, ids), self._cache_of(out)

    def logits_of(self, out: Any, ids: Tensor) -> Tensor:
        """The logits `(B, T, V)` in an output for ids `(B, T)`.

        Raises:
            InputError: there are none of every position.
        """
        logits = self.logits(out) if self.logits else find_logits(out, ids.shape)
        shape = tuple(getattr(logits, "shape", ()))
        if not isinstance(logits, Tensor) or len(shape) != 3 or shape[:2] != ids.shape:
            raise InputError(
                f"for ids {tuple(ids.shape)} the model gave {described(out)}, not logits (B, T, V) "
                "of every position: give call=, e.g. lambda m, ids: m(ids, ids.roll(-1, 1))[0], or "
                "logits=, a function of the output"
            )
        if not logits.is_floating_point():
            raise InputError(f"logits must be real numbers, not {logits.dtype}")
        return logits

    def _cache_of(self, out: Any) -> Any:
        if self.cache_name is None:
            return None
        if isinstance(out, Mapping):
            return out.get(self.cache_name)
        return getattr(out, self.cache_name, None)


def _seed() -> None:
    # For accelerators that are not there, torch keeps every seed, with where it was asked for.
    everywhere = torch.accelerator.is_available()
    (torch if everywhere else torch.default_generator).manual_seed(0)


def limit_of(model: Any) -> int | None:
    """The most tokens that `model.config` allows, if it says so."""
    config = getattr(model, "config", None)
    limits = [getattr(config, name, None) for name in LIMITS]
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def device_of(module: nn.Module | None) -> torch.device:
    """Where the first parameter lies; the CPU without any."""
    parameters = () if module is None else module.parameters()
    return next((p.device for p in parameters), torch.device("cpu"))


def _parameters(function: Callable[..., Any]) -> Iterable[str]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return ()
