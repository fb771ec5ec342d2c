"""Parameter groups, learning-rate schedule and gradient clipping of the published recipe."""

import math

import torch
from torch import Tensor, nn

from sympformer.model.layers import LearnedScalar
from sympformer.train.config import TrainConfig


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Split the parameters into `embeddings`, `scalars` (learned scalars) and `weights`."""
    groups: dict[str, list[nn.Parameter]] = {"embeddings": [], "scalars": [], "weights": []}
    kinds = {nn.Embedding: "embeddings", LearnedScalar: "scalars"}
    for module in model.modules():
        kind = next((name for cls, name in kinds.items() if isinstance(module, cls)), "weights")
        groups[kind] += module.parameters(recurse=False)
    return {name: parameters for name, parameters in groups.items() if parameters}


def nonfinite_groups(model: nn.Module) -> list[str]:
    """The names of the groups that hold a number that is not finite."""
    groups = parameter_groups(model).items()
    return [name for name, ps in groups if not all(bool(p.isfinite().all()) for p in ps)]


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on embeddings only and its own learning rate for scalars.

    One kernel makes the whole update where torch has one: a table of the vocabulary is read and
    written once, not a dozen times.
    """
    groups = [
        {
            "name": name,
            "params": parameters,
            "weight_decay": config.weight_decay if name == "embeddings" else 0.0,
            "factor": config.scalar_lr if name == "scalars" else 1.0,
        }
        for name, parameters in parameter_groups(model).items()
    ]
    devices = {p.device.type for p in model.parameters()}
    fused = True if devices <= {"cpu", "cuda"} else None
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of update `step` (from 0): linear warm-up, then a cosine down to its floor."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)


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
