"""The engine of training: a model, its optimizer, and one update. It knows no files."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sympformer import machine
from sympformer.model.loss import IGNORED
from sympformer.model.weights import load_weights, weights
from sympformer.train.batches import Batches, share
from sympformer.train.config import TrainConfig
from sympformer.train.finite import DivergenceError, Finite
from sympformer.train.optimizer import make_optimizer
from sympformer.train.parallel import SINGLE, Ranks
from sympformer.train.spread import like, spread, whole

__all__ = ["DivergenceError", "Engine", "learning_rate"]


class Engine:
    """Makes updates: the same ones from the same state, whatever the number of processes.

    Args:
        model: a module with `model(tokens, targets).loss`, the mean over the target tokens that
            are not -100, in nats; its parameters are on one device.
        loader: the batches of this process.
        config: the recipe.
        ranks: this process among those that train together, the loader's.

    Raises:
        InputError: the processes cannot share an update, or a model is not spread over them.
    """

    def __init__(
        self, model: nn.Module, loader: Batches, config: TrainConfig, ranks: Ranks = SINGLE
    ):
        self.model, self.loader, self.config, self.ranks = model, loader, config, ranks
        self.micro_batches = share(config.batch_size, config.accumulation, ranks.size).micro_batches
        self.device = next(model.parameters()).device
        self.precision = machine.precision(self.device, config.dtype)
        self.spread = spread(model, config.parallel, ranks)  # alone: None
        self.optimizer = make_optimizer(model, config)
        self.finite = Finite(config)
        self.step, self.seconds = 0, 0.0
        self.tokens = 0
        """Targets that counted in all updates of all processes so far."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next updates depend on, and the counters.

        Its tensors are no copies; those that are sharded stay so, all else is the same in every
        process.
        """
        return {
            "model": weights(self.model),  # gives back what the last pass has gathered
            "optimizer": {name: dict(self.optimizer.state[p]) for name, p in self._moved()},
            "finite": self.finite.state_dict(),
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
        own = weights(self.model)
        given = {n: like(t, own[n]) if n in own else t for n, t in state["model"].items()}
        load_weights(self.model, given)
        groups = self.optimizer.state_dict()["param_groups"]
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        order = [names[p] for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            i: {name: like(value, own[n]) for name, value in state["optimizer"][n].items()}
            for i, n in enumerate(order)
            if n in state["optimizer"]
        }
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.tokens = state["step"], state["tokens"]
        self.seconds = state["seconds"]
        if "finite" in state:  # of states from before there were skips and scales, nothing
            self.finite.load_state_dict(state["finite"])

    def shards(self) -> Callable[[str], Tensor | None]:
        """By name in a state (`model/...`, `optimizer/.../...`): the parameter that a tensor has
        the shape of, if it is sharded: so this process shall have it.
        """
        own = {n: p for n, p in weights(self.model).items() if hasattr(p, "full_tensor")}

        def shard(name: str) -> Tensor | None:
            kind, _, rest = name.partition("/")
            return own.get(rest if kind == "model" else rest.rpartition("/")[0])

        return shard

    def _moved(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that the optimizer has met, by name."""
        return [(n, p) for n, p in self.model.named_parameters() if p in self.optimizer.state]

    def update(self) -> dict[str, Any]:
        """Make one update; return its loss (nats a token), rate, gradient norm and tokens a second.

        An update that is not finite and may be skipped is not applied; what it returns is
        `skipped`, the number of such updates so far.

        Raises:
            DivergenceError: before the update is applied; its message names step and groups.
        """
        began = time.perf_counter()
        self.model.train()
        rate = learning_rate(self.step, self.config)
        set_learning_rate(self.optimizer, rate)
        total, counted = self._backward()
        norms = gradient_norms(self.optimizer)
        if self.spread is not None:
            norms = {name: whole(norm) for name, norm in norms.items()}
        clipped = clip_gradients(self.optimizer, norms, self.config.clip)
        # The one transfer from an accelerator. It waits for the gradients; what the optimizer
        # still has to do there is part of the next update's time.
        loss, norm, *each = torch.stack([total, clipped, *norms.values()]).tolist()
        applied = math.isfinite(loss) and all(map(math.isfinite, each))
        if not applied or self.finite.counts:
            applied = self.finite.applies(self.step, loss, dict(zip(norms, each, strict=True)))
        if applied:
            self.optimizer.step()
            self.tokens += counted
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self.step += 1
        if not applied:
            return {"skipped": self.finite.skipped}
        return {
            "loss": loss,
            "lr": rate,
            "grad_norm": norm,
            "tokens_per_second": counted / seconds,
        }

    def _backward(self) -> tuple[Tensor, int]:
        """Add up the gradients of the micro-batches of all processes.

        Returns:
            The loss, a scalar on the device, and the number of targets that it is the mean of.
        """
        batches = [b for _ in range(self.micro_batches) for b in self.loader.passes()]
        counts = [len((targets != IGNORED).nonzero()) for _, targets in batches]
        if self.spread is not None:
            total, counted = self.spread.backward(self._add, batches, counts)
        else:
            total, counted = torch.zeros((), device=self.device), sum(counts)
            for batch, count in zip(batches, counts, strict=True):
                total = total + self._add(self.model, batch, count / counted) * (count / counted)
        if self.finite.scale != 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(self.finite.scale)
        return total, counted

    def _add(
        self, model: Callable[..., Any], batch: tuple[Tensor, Tensor], weight: float
    ) -> Tensor:
        """Add the gradient of `weight` times a micro-batch's mean loss; return that mean."""
        with self.precision:
            loss = model(*(part.to(self.device) for part in batch)).loss
        (loss * (weight * self.finite.scale)).backward()
        return loss.detach()


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of update `step` (from 0): linear warm-up, then what `config.schedule` says.

    `cosine`: half a cosine from the peak down to its floor. `wsd` (warm-up, stable, decay): the
    peak, and over the last `config.decay` of all updates a line down to the floor; how many there
    will be need not be known before (Hu et al. 2024, arXiv:2404.06395).
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "cosine":
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        share = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    else:
        share = min(1.0, max(0, config.steps - step) / (config.decay * config.steps))
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * share)


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
