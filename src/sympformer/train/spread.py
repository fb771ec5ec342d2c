"""A model as several processes train it: replicated (DDP) or sharded (FSDP2)."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sympformer.errors import InputError
from sympformer.model import LanguageModel
from sympformer.model.layers import LearnedScalar
from sympformer.train.parallel import Ranks

Mode = Literal["auto", "none", "ddp", "fsdp"]
Batch = tuple[Tensor, Tensor]
Add = Callable[[Callable[..., Any], Batch, float], Tensor]


def mode_of(asked: Mode, ranks: Ranks) -> Literal["none", "ddp", "fsdp"]:
    """How a model is spread over the processes.

    Raises:
        InputError: it would not be, though there are several, or there is no group of them.
    """
    if asked == "auto":
        return "ddp" if ranks.size > 1 else "none"
    if asked == "none" and ranks.size > 1:
        raise InputError(
            f"--parallel none in {ranks.size} processes would train the same run in each: leave it "
            "out, or start one process"
        )
    if asked != "none" and not dist.is_initialized():
        raise InputError(
            f"--parallel {asked} needs processes that have joined: start them with `torchrun "
            "--nproc-per-node=N -m sympformer train ...`, or choose --parallel none"
        )
    return asked


class Spread:
    """A model as every one of several processes calls it."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks

    def __call__(self, *given: Tensor) -> Any:
        """A forward pass."""
        raise NotImplementedError

    def backward(
        self, add: Add, batches: Sequence[Batch], counts: Sequence[int]
    ) -> tuple[Tensor, int]:
        """Add up the gradients of micro-batches, here `batches`, of all processes.

        Args:
            add: adds the gradient of a weighted mean loss, and returns the mean.
            batches: inputs and targets.
            counts: targets that count in each.

        Returns:
            The loss over all processes, a scalar, and the number of targets that it is the mean of.
        """
        counted = self.ranks.total(sum(counts))
        self.settle(add, batches[0])
        total = torch.zeros((), device=next(self.model.parameters()).device)
        for number, (batch, count) in enumerate(zip(batches, counts, strict=True), 1):
            with self.accumulating(last=number == len(batches)):
                # The sum over target tokens, divided by their number in the whole update. Gradients
                # become means over the processes, and are to be sums.
                mean = add(self, batch, count * self.ranks.size / counted)
            total = total + mean * (count / counted)
        self.finish()
        return self.ranks.summed(total), counted

    def settle(self, add: Add, batch: Batch) -> None:
        """Before the passes of an update: whatever would make the first one ever special."""

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """For the pass over a micro-batch, and whether it is the last of its update."""
        del last
        return nullcontext()

    def finish(self) -> None:
        """Behind the last backward pass: every gradient becomes the mean over the processes."""


class Replicated(Spread):
    """A copy in every process (DDP): gradients are averaged in the last backward pass only."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__(model, ranks)
        self._own = isinstance(model, LanguageModel)
        # All our parameters are trained in every update; of a user's model nobody knows.
        self._ddp = nn.parallel.DistributedDataParallel(model, find_unused_parameters=not self._own)
        self._settled = False

    def __call__(self, *given: Tensor) -> Any:
        """A forward pass."""
        return self._ddp(*given)

    def settle(self, add: Add, batch: Batch) -> None:
        """Before the first update of our models: one pass whose gradients are dropped.

        DDP orders its buckets anew after the first backward pass, and sums over more than two
        processes are rounded as the buckets lie. So a run that goes on would not be the run that
        was never stopped.
        """
        if self._own and not self._settled:
            add(self, batch, 1.0)
            self.model.zero_grad(set_to_none=True)
        self._settled = True

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """For the pass over a micro-batch, and whether it is the last of its update."""
        return nullcontext() if last else self._ddp.no_sync()


class Sharded(Spread):
    """A share of every parameter, gradient and moment in each process (FSDP2).

    A block is gathered when it runs, and given back after. Gradients are reduced in every backward
    pass: kept whole until the last they would take what sharding has saved. Learned scalars are
    replicated: a model makes the times of all layers before the first of them runs.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__(model, ranks)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        device = next(model.parameters()).device
        mesh = init_device_mesh(device.type, (ranks.size,))
        modules = (module for module in model.modules() if isinstance(module, LearnedScalar))
        self.scalars = [module.raw for module in modules]
        for scalar in self.scalars:
            dist.broadcast(scalar.data, src=0)
        options = {"mesh": mesh, "ignored_params": set(self.scalars)}
        for unit in _units(model):
            fully_shard(unit, **options)
        fully_shard(model, **options)

    def __call__(self, *given: Tensor) -> Any:
        """A forward pass."""
        with warnings.catch_warnings():  # nothing changes in place what a block gives
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
            return self.model(*given)

    def finish(self) -> None:
        """Average the gradients of the scalars, which are replicated."""
        gradients = [s.grad for s in self.scalars if s.grad is not None]
        if not gradients:
            return
        mean = self.ranks.summed(torch.cat(gradients)) / self.ranks.size
        for gradient, value in zip(gradients, mean.split(1), strict=True):
            gradient.copy_(value)


def _units(model: nn.Module) -> list[nn.Module]:
    """What is gathered together, beside the rest of the model.

    Blocks, unless they share parts and have scalars of their own: a part has one owner.
    """
    if not isinstance(model, LanguageModel) or model.config.loop_scalars == "own":
        return []
    return list(model.blocks)


def spread(model: nn.Module, asked: Mode, ranks: Ranks) -> Spread | None:
    """Give a model to every process, or to none; `model` itself is changed where it is sharded.

    Raises:
        InputError: as `mode_of`.
    """
    mode = mode_of(asked, ranks)
    if mode == "ddp":
        return Replicated(model, ranks)
    return Sharded(model, ranks) if mode == "fsdp" else None


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, gathered; all processes must ask for it."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def like(tensor: Tensor, own: Any) -> Tensor:
    """A whole tensor, that every process has, as `own` is: sharded in the same way, or not."""
    shards = hasattr(own, "full_tensor") and not hasattr(tensor, "full_tensor")
    if not shards or tensor.shape != own.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    there = tensor.to(own.device)
    return distribute_tensor(there, own.device_mesh, own.placements, src_data_rank=None)
