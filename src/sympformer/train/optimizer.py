"""The optimizer of the published recipe, and its groups of parameters."""

import torch
from torch import nn

from sympformer.model.layers import LearnedScalar
from sympformer.train.config import TrainConfig
from sympformer.train.spread import whole


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
    return [name for name, ps in groups if not all(bool(whole(p.isfinite().all())) for p in ps)]


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
