"""Train several presets alike: same data, same seeds, same size, each audited."""

from collections.abc import Sequence
from pathlib import Path

from sympformer.data import Corpus
from sympformer.errors import InputError
from sympformer.train import Progress, RunConfig, train
from sympformer.train.folder import RunFolder


def compare(
    configs: Sequence[RunConfig],
    corpus: Corpus,
    folder: Path,
    progress: Progress | None = None,
    shard: tuple[int, int] = (1, 1),
) -> list[Path]:
    """Train every run that `folder` does not hold yet; return all run folders.

    Finished runs are kept, unfinished ones resumed, so a comparison can be stopped, continued,
    and extended by presets or seeds. Shard (i, n) trains the runs i, i + n, ... only, so that n
    processes share the work.

    Raises:
        InputError: a run in `folder` has another config.
    """
    runs = [RunFolder(run_folder(folder, config)) for config in configs]
    for config, run in zip(configs, runs, strict=True):
        if run.exists and run.config() != config:
            raise InputError(
                f"{run} holds a run with another configuration: choose another folder with --out"
            )
    first, step = shard
    for config, run in list(zip(configs, runs, strict=True))[first - 1 :: step]:
        if not run.finished:
            train(config, corpus, run.path, resume=run.exists, progress=progress)
    return [run.path for run in runs]


def run_folder(folder: Path, config: RunConfig) -> Path:
    """Where a comparison keeps this run."""
    return folder / f"{config.name}-s{config.train.seed}"
