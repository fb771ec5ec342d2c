"""The optimizers: AdamW as in the published recipe, or Muon for matrices; groups of parameters."""

from typing import Any

import torch
from torch import nn

from sympformer.model.layers import LearnedScalar
from sympformer.train.config import TrainConfig
from sympformer.train.spread import whole
from sympformer.train.width import ratios


def parameter_groups(model: nn.Module, matrices: bool = False) -> dict[str, list[nn.Parameter]]:
    """Split the parameters into `embeddings`, `scalars` (learned scalars) and `weights`.

    With `matrices`, the matrices of linear maps stand in a group so called, but not that of a head,
    which has a row for every id.
    """
    groups: dict[str, list[nn.Parameter]] = {"embeddings": [], "scalars": [], "weights": []}
    kinds = {nn.Embedding: "embeddings", LearnedScalar: "scalars"}
    if matrices:
        groups["matrices"] = []
        kinds[nn.Linear] = "matrices"
    rows = getattr(getattr(model, "config", None), "vocab_size", None)
    for module in model.modules():
        kind = next((name for cls, name in kinds.items() if isinstance(module, cls)), "weights")
        for parameter in module.parameters(recurse=False):
            is_map = kind != "matrices" or (parameter.ndim == 2 and parameter.shape[0] != rows)
            groups[kind if is_map else "weights"].append(parameter)
    return {name: parameters for name, parameters in groups.items() if parameters}


def nonfinite_groups(model: nn.Module) -> list[str]:
    """The names of the groups that hold a number that is not finite."""
    groups = parameter_groups(model).items()
    return [name for name, ps in groups if not all(bool(whole(p.isfinite().all())) for p in ps)]


@torch.no_grad()
def learned_scalars(model: nn.Module) -> dict[str, float]:
    """The values of the learned scalars, by name: steps, damping, look-ahead of every layer."""
    found = {n: whole(m()) for n, m in model.named_modules() if isinstance(m, LearnedScalar)}
    values = torch.stack(list(found.values())).tolist() if found else []
    return dict(zip(found, values, strict=True))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that is asked for; every group has a `name` and the `factor` of its rate.

    With a base width, `matrices` and `weights` come in a group for each factor; the first of them
    has the plain name.
    """
    if config.optimizer == "muon":
        return muon(model, config)
    return adamw(model, config)


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on embeddings only and its own learning rate for scalars.

    One kernel makes the whole update where torch has one: a table of the vocabulary is read and
    written once, not a dozen times.
    """
    return _adamw(model, config, _groups(model, config, matrices=config.base_width is not None))


def muon(model: nn.Module, config: TrainConfig) -> "Several":
    """Muon (Jordan et al. 2024) for the matrices of linear maps, AdamW for all else.

    The update of a matrix has the mean square of AdamW's (Liu et al. 2025, arXiv:2502.16982), so
    one learning rate serves both; `matrix_lr` is its multiple for matrices.
    """
    groups = _groups(model, config, matrices=True)
    of_matrices = [group for group in groups if group["name"].startswith("matrices")]
    others = [group for group in groups if group not in of_matrices]
    options = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
    return Several(
        _adamw(model, config, others),
        torch.optim.Muon(of_matrices, lr=config.learning_rate, **options),
    )


def _adamw(
    model: nn.Module, config: TrainConfig, groups: list[dict[str, Any]]
) -> torch.optim.AdamW:
    devices = {p.device.type for p in model.parameters()}
    fused = True if devices <= {"cpu", "cuda"} else None
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)


def _groups(model: nn.Module, config: TrainConfig, *, matrices: bool) -> list[dict[str, Any]]:
    """What torch's optimizers take."""
    ratio = {} if config.base_width is None else ratios(model, config.base_width)
    muon = config.optimizer == "muon"
    own = {"scalars": config.scalar_lr, "matrices": config.matrix_lr if muon else 1.0}
    groups = []
    for name, parameters in parameter_groups(model, matrices).items():
        power = -0.5 if muon and name == "matrices" else -1.0
        factors = [own.get(name, 1.0) * ratio.get(p, 1.0) ** power for p in parameters]
        for number, factor in enumerate(dict.fromkeys(factors)):
            groups.append(
                {
                    "name": f"{name} {number + 1}" if number else name,
                    "params": [p for p, f in zip(parameters, factors, strict=True) if f == factor],
                    "weight_decay": config.weight_decay if name == "embeddings" else 0.0,
                    "factor": factor,
                }
            )
    return groups


class Several(torch.optim.Optimizer):
    """Optimizers that make an update together, each of its own parameters; as one to look at."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._share()

    def _share(self) -> None:
        """Let the parts have the groups and the state of the whole."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def step(self, closure: Any = None) -> Any:
        """Make the update of every part."""
        assert closure is None
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()
