"""Train several presets alike: same data, same seeds, same size, each audited."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sympformer import machine
from sympformer.data import Corpus
from sympformer.errors import InputError, Stopped
from sympformer.tasks import Task
from sympformer.train import Progress, RunConfig, train
from sympformer.train.engine import DivergenceError
from sympformer.train.folder import RunFolder


def compare(
    configs: Sequence[RunConfig],
    data: Corpus | Task,
    folder: Path,
    progress: Progress | None = None,
    shard: tuple[int, int] = (1, 1),
    stop: Callable[[], int] | None = None,
) -> list[Path]:
    """Train every run that `folder` does not hold yet; return all run folders.

    Finished runs are kept, unfinished ones resumed, so a comparison can be stopped, continued,
    and extended by presets or seeds. Shard (i, n) trains the runs i, i + n, ... only, so that n
    processes share the work. Where an entry is trained at several learning rates, one at which it
    diverges is given up, and the others go on. A run that was resumed with other options goes on
    with them. `stop` is that of `train`.

    Raises:
        InputError: a run in `folder` has another config, or was trained on other data.
        Stopped: `stop` asked for it; all is saved.
    """
    configs = [config.on(machine.resolve_device(config.train.device)) for config in configs]
    runs = [RunFolder(path) for path in run_folders(folder, configs)]
    for config, run in zip(configs, runs, strict=True):
        if not run.exists:
            continue
        if run.began_as() != config:
            raise InputError(
                f"{run} holds a run with another configuration: choose another folder with --out"
            )
        run.require(data.digest)
    first, step = shard
    for config, run in list(zip(configs, runs, strict=True))[first - 1 :: step]:
        if run.finished or run.given_up:
            continue
        now = run.config() if run.exists else config
        try:
            train(now, data, run.path, resume=run.exists, progress=progress, stop=stop)
        except Stopped as stopped:
            line = f"{stopped}; the same command goes on with the whole comparison"
            raise Stopped(line, stopped.code) from None
        except DivergenceError as error:
            if len(_rates(configs, config.name)) == 1:
                raise
            run.give_up(str(error))
    return [run.path for run in runs]


def run_folders(folder: Path, configs: Sequence[RunConfig]) -> list[Path]:
    """Where a comparison keeps these runs."""
    paths = []
    for config in configs:
        several = len(_rates(configs, config.name)) > 1
        rate = f"-lr{config.train.learning_rate:g}" if several else ""
        paths.append(folder / f"{config.name}{rate}-s{config.train.seed}")
    return paths


def _rates(configs: Sequence[RunConfig], name: str) -> set[float]:
    return {config.train.learning_rate for config in configs if config.name == name}
