"""What a run's tensor files say of themselves, and the model that they hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sympformer.errors import InputError
from sympformer.files import delete, link
from sympformer.imports import import_again
from sympformer.model import CustomModel, LanguageModel, ModelConfig, build
from sympformer.model.weights import load_weights
from sympformer.train.shards import KEY, prune, read_state
from sympformer.train.tensors import digest, read_tensors, write_tensors
from sympformer.typed import read_toml

STATE, BEST, MODEL = "state.safetensors", "best.safetensors", "model.safetensors"
EARLIER = "state-*.safetensors"
"""States that are kept beside the last, by their step."""
OLD_STATE = "checkpoint.pt"

_PLACES = "text", "valid_text"
"""Of the data, where it lies: that may change, for its digest is known."""


def _of_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be said of the weights alone, given what is said of a state."""
    rest = state["state"]
    kept = {name: rest[name] for name in ("step", "corpus", "tokenizer") if name in rest}
    own = {name: state[name] for name in ("run", "config", "weights")}
    return {**own, "kind": "weights", "state": kept}


def derive(folder: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Make the files that follow from the state, where they do not.

    Of a sharded state no file holds the weights alone: `whole_weights` gathers them.
    """
    rest = about["state"]
    if rest.get("best_step") == rest["step"]:
        link(folder / STATE, folder / BEST)
    keep_last(folder, rest["step"], about["run"].get("train", {}).get("keep_last", 1))
    prune(folder, [folder / STATE, folder / BEST, *folder.glob(EARLIER)])
    if KEY in about:
        delete(folder / MODEL)
        return
    own = _of_weights(about)
    try:
        if read_tensors(folder / MODEL)[1] == own:
            return
    except InputError:  # none yet, or damaged
        pass
    write_tensors(folder / MODEL, weights_in(tensors), own)


def keep_last(folder: Path, step: int, number: int) -> None:
    """Keep the state under a name of its own too, and no more than `number` of those.

    With 1, there is none: the state is the last.
    """
    if number > 1:
        link(folder / STATE, folder / EARLIER.replace("*", f"{step:08}"))
    kept = sorted(folder.glob(EARLIER))
    for path in kept[: max(0, len(kept) - number)]:
        delete(path)


def whole_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights that a file of a run holds, on the CPU, and what a file of them alone says.

    Raises:
        InputError: it is damaged, or is no file of a run.
    """
    tensors, about = read_state(path, prefix="model/")
    tensors = weights_in(tensors) if about.get("kind") == "state" else tensors
    own = {name: value for name, value in about.items() if name != KEY}
    return tensors, _of_weights({**own, "weights": digest(tensors)})


def refuse_old_format(folder: Path) -> None:
    """Refuse a run of an earlier version.

    Raises:
        InputError: it has a state that is not read any more.
    """
    if (folder / OLD_STATE).exists():
        raise InputError(
            f"{folder} was trained by an earlier version, whose {OLD_STATE} has no digest and is "
            "not read any more: train again, or use that version"
        )


def require_own(config: Path, path: Path, about: Mapping[str, Any]) -> None:
    """Refuse a tensor file of another run than the config beside it, or an edited config.

    Raises:
        InputError: they are of different runs; what differs is named.
    """
    for name in ("kind", "run", "config", "weights", "state"):
        if name not in about:
            raise InputError(f"{path} is no file of a run: it does not say its {name}")
    own, known = _identity(read_toml(config)), _identity(about["run"])
    names = (n for n in (*known, *own) if own.get(n) != known.get(n))
    if (name := next(names, None)) is not None:
        raise InputError(
            f"{config} and {path.name} are of different runs: {name} is "
            f"{own.get(name)!r} in the one, {known.get(name)!r} in the other: restore the file "
            "that was changed (options change with --resume and the option, never in the file)"
        )


def weights_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights among the tensors of a state, by their own names, on the CPU."""
    prefix = "model/"
    return {n.removeprefix(prefix): t.cpu() for n, t in tensors.items() if n.startswith(prefix)}


def model_in(
    path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]
) -> LanguageModel | CustomModel:
    """The model that a tensor file holds, by what it says about itself.

    Raises:
        InputError: it is no file of a run, or cannot be loaded.
    """
    try:
        import_again(about["run"].get("imports", {}), str(path))
        model = build(ModelConfig.from_dict(about["config"]))
        load_weights(model, weights_in(tensors) if about["kind"] == "state" else tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no file of a run ({type(error).__name__}: {error})") from None
    except InputError as error:
        raise InputError(f"{path} cannot be loaded: {error}") from None
    return model.eval()


def _identity(tables: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run the one it is, by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        if name == "imports":
            flat[name] = sorted(value.values())
        elif isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            flat[name] = value
    return {n: v for n, v in flat.items() if n not in [f"data.{place}" for place in _PLACES]}
