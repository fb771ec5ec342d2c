"""Train several presets alike: same data, same seeds, same size, each audited."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sympformer.data import Corpus
from sympformer.errors import InputError, Stopped
from sympformer.train import Progress, RunConfig, train
from sympformer.train.folder import RunFolder


def compare(
    configs: Sequence[RunConfig],
    corpus: Corpus,
    folder: Path,
    progress: Progress | None = None,
    shard: tuple[int, int] = (1, 1),
    stop: Callable[[], int] | None = None,
) -> list[Path]:
    """Train every run that `folder` does not hold yet; return all run folders.

    Finished runs are kept, unfinished ones resumed, so a comparison can be stopped, continued,
    and extended by presets or seeds. Shard (i, n) trains the runs i, i + n, ... only, so that n
    processes share the work. A run that was resumed with other options goes on with them. `stop` is
    that of `train`.

    Raises:
        InputError: a run in `folder` has another config, or was trained on other data.
        Stopped: `stop` asked for it; all is saved.
    """
    runs = [RunFolder(run_folder(folder, config)) for config in configs]
    for config, run in zip(configs, runs, strict=True):
        if not run.exists:
            continue
        if run.began_as() != config:
            raise InputError(
                f"{run} holds a run with another configuration: choose another folder with --out"
            )
        run.require(corpus)
    first, step = shard
    for config, run in list(zip(configs, runs, strict=True))[first - 1 :: step]:
        if run.finished:
            continue
        now = run.config() if run.exists else config
        try:
            train(now, corpus, run.path, resume=run.exists, progress=progress, stop=stop)
        except Stopped as stopped:
            line = f"{stopped}; the same command goes on with the whole comparison"
            raise Stopped(line, stopped.code) from None
    return [run.path for run in runs]


def run_folder(folder: Path, config: RunConfig) -> Path:
    """Where a comparison keeps this run."""
    return folder / f"{config.name}-s{config.train.seed}"
