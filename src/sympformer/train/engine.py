"""The engine of training: a model, its optimizer, and one update. It knows no files."""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from sympformer import machine
from sympformer.errors import InputError
from sympformer.model.loss import IGNORED
from sympformer.model.weights import load_weights, weights
from sympformer.train.batches import Batches
from sympformer.train.config import TrainConfig
from sympformer.train.optimizer import make_optimizer
from sympformer.train.schedule import learning_rate


class DivergenceError(InputError):
    """A loss or a gradient is not finite; the update was not applied."""


class Engine:
    """Makes updates: the same ones from the same state.

    Args:
        model: a module with `model(tokens, targets).loss`, the mean over the target tokens that
            are not -100, in nats; its parameters are on one device.
        loader: the batches of this process; its rank and world size are the engine's.
        config: the recipe.
    """

    def __init__(self, model: nn.Module, loader: Batches, config: TrainConfig):
        self.model, self.loader, self.config = model, loader, config
        self.rank, self.world_size = loader.rank, loader.world_size
        self.device = next(model.parameters()).device
        self.precision = machine.precision(self.device, config.dtype)
        self.optimizer = make_optimizer(model, config)
        self.step, self.seconds = 0, 0.0
        self.tokens = 0
        """Targets that counted in all updates of all ranks so far; ranks draw as many each."""

    @property
    def records(self) -> bool:
        """Whether this process writes what the run leaves: the first one does."""
        return self.rank == 0

    def state_dict(self) -> dict[str, Any]:
        """All that the next updates depend on, and the counters; its tensors are no copies."""
        return {
            "model": weights(self.model),
            "optimizer": {name: dict(self.optimizer.state[p]) for name, p in self._moved()},
            "loader": self.loader.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state; entries that are not the engine's are left alone.

        Rates and the like are the engine's own, whatever they were when the state was taken.

        Raises:
            InputError: `state` is of another loader or model.
        """
        self.loader.load_state_dict(state["loader"])
        load_weights(self.model, state["model"])
        groups = self.optimizer.state_dict()["param_groups"]
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        order = [names[p] for group in self.optimizer.param_groups for p in group["params"]]
        moments = {i: state["optimizer"][n] for i, n in enumerate(order) if n in state["optimizer"]}
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.tokens = state["step"], state["tokens"]
        self.seconds = state["seconds"]

    def _moved(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that the optimizer has met, by name."""
        return [(n, p) for n, p in self.model.named_parameters() if p in self.optimizer.state]

    def update(self) -> dict[str, float]:
        """Make one update; return its loss (nats a token), rate, gradient norm and tokens a second.

        Raises:
            DivergenceError: before the update is applied; its message names step and groups.
        """
        began = time.perf_counter()
        self.model.train()
        rate = learning_rate(self.step, self.config)
        set_learning_rate(self.optimizer, rate)
        total, counted = self._backward()
        norms = gradient_norms(self.optimizer)
        clipped = clip_gradients(self.optimizer, norms, self.config.clip)
        # The one transfer from an accelerator. It waits for the gradients; what the optimizer
        # still has to do there is part of the next update's time.
        loss, norm, *each = torch.stack([total, clipped, *norms.values()]).tolist()
        self._check_finite(loss, dict(zip(norms, each, strict=True)))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self.step += 1
        self.tokens += counted * self.world_size
        return {
            "loss": loss,
            "lr": rate,
            "grad_norm": norm,
            "tokens_per_second": counted * self.world_size / seconds,
        }

    def _backward(self) -> tuple[Tensor, int]:
        """Add up the gradients of the micro-batches.

        Returns:
            The loss, a scalar on the device, and the number of targets that it is the mean of.
        """
        batches = [b for _ in range(self.config.accumulation) for b in self.loader.passes()]
        counts = [len((targets != IGNORED).nonzero()) for _, targets in batches]
        total, counted = torch.zeros((), device=self.device), sum(counts)
        for (inputs, targets), count in zip(batches, counts, strict=True):
            with self.precision:
                loss = self.model(inputs.to(self.device), targets.to(self.device)).loss
            # The sum over target tokens, divided by their number in the whole update.
            share = loss * (count / counted)
            share.backward()
            total += share.detach()
        return total, counted

    def _check_finite(self, loss: float, norms: dict[str, float]) -> None:
        bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
        what = [] if math.isfinite(loss) else ["the loss"]
        what += [f"the gradient of the {' and the '.join(bad)}"] if bad else []
        if what:
            raise DivergenceError(
                f"training diverged at step {self.step}: {' and '.join(what)} not finite; the "
                "update was not applied"
            )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its multiple of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def gradient_norms(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The norm of each group's gradient, a scalar on its device, by the group's name."""
    norms = {}
    for group in optimizer.param_groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        norms[group["name"]] = norm.to(group["params"][0].device)  # of no gradients: on the CPU
    return norms


def clip_gradients(
    optimizer: torch.optim.Optimizer, norms: dict[str, Tensor], bound: float
) -> Tensor:
    """Bound the norm of all gradients but the scalars'; return that norm before clipping.

    Args:
        optimizer: its groups.
        norms: their `gradient_norms`.
        bound: the largest norm.
    """
    groups = [group for group in optimizer.param_groups if group["name"] != "scalars"]
    norm = torch.stack([norms[group["name"]] for group in groups]).norm()
    parameters = [p for group in groups for p in group["params"]]
    nn.utils.clip_grads_with_norm_(parameters, bound, norm)
    return norm
