"""Parameter groups, learning-rate schedule and gradient clipping of the published recipe."""

import math

import torch
from torch import Tensor, nn

from sympformer.errors import InputError
from sympformer.model.layers import Scalar
from sympformer.train.config import TrainConfig


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Split the parameters into `embeddings`, `scalars` (learned scalars) and `weights`."""
    groups: dict[str, list[nn.Parameter]] = {"embeddings": [], "scalars": [], "weights": []}
    kinds = {nn.Embedding: "embeddings", Scalar: "scalars"}
    for module in model.modules():
        kind = next((name for cls, name in kinds.items() if isinstance(module, cls)), "weights")
        groups[kind] += module.parameters(recurse=False)
    return {name: parameters for name, parameters in groups.items() if parameters}


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on embeddings only and its own learning rate for scalars."""
    groups = [
        {
            "name": name,
            "params": parameters,
            "weight_decay": config.weight_decay if name == "embeddings" else 0.0,
            "factor": config.scalar_lr if name == "scalars" else 1.0,
        }
        for name, parameters in parameter_groups(model).items()
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


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


def clip_gradients(optimizer: torch.optim.Optimizer, bound: float, step: int) -> Tensor:
    """Bound the norm of all gradients but the scalars'; return that norm before clipping.

    Raises:
        InputError: a gradient is not finite; the message names the step and the parameter group.
    """
    gradients = {
        group["name"]: [p.grad for p in group["params"] if p.grad is not None]
        for group in optimizer.param_groups
    }
    norms = {name: nn.utils.get_total_norm(g) for name, g in gradients.items() if g}
    if not torch.stack(list(norms.values())).isfinite().all():
        bad = next(name for name, norm in norms.items() if not norm.isfinite())
        raise divergence(step, f"the gradient of the {bad} is not finite")
    clipped = [
        p
        for group in optimizer.param_groups
        if group["name"] != "scalars"
        for p in group["params"]
        if p.grad is not None
    ]
    norm = nn.utils.get_total_norm([p.grad for p in clipped if p.grad is not None])
    nn.utils.clip_grads_with_norm_(clipped, bound, norm)
    return norm


def divergence(step: int, what: str) -> InputError:
    """The error of a run that must stop before update `step` is applied."""
    return InputError(
        f"training diverged at step {step}: {what}; the update was not applied and the last "
        "checkpoint is kept: lower the learning rate, or train in float32"
    )
