"""The command about data, and the corpus that other commands read."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from sympformer.commands.options import Flat, Set, with_options
from sympformer.data import (
    Corpus,
    fables,
    from_text,
    load,
    load_tokenizer,
    preview,
    summary,
)
from sympformer.data.fables import vocabulary as fables_vocabulary
from sympformer.data.hub import PREFIX, HubText
from sympformer.errors import InputError
from sympformer.tasks import IGNORED, Task
from sympformer.train import DataConfig
from sympformer.train.parallel import Ranks

GPT2 = 50257
"""Ids of GPT-2's tokenizer."""


@dataclass(frozen=True)
class Data:
    """Prepare a corpus or a task and show what is in it."""

    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)
    task_set: Set = ()
    """Options of the task, e.g. --task-set vocab_size=256 "train=[[32,4],[64,8]]"."""

    def run(self) -> int:
        """Prepare."""
        corpus = prepare(with_options(self.data, {}, self.task_set))
        if isinstance(corpus, Task):
            print(_described(corpus))
            return 0
        print(json.dumps(summary(corpus), indent=2))
        print(preview(corpus))
        return 0


def expected_vocabulary(data: DataConfig) -> int:
    """The ids of data that need not be there: as many as its tokenizer is to have.

    Raises:
        InputError: its tokenizer cannot be read.
    """
    if data.task is not None:
        return data.make_task().vocabulary
    if data.text is None:
        return len(fables_vocabulary())
    kind, _, size = data.tokenizer.partition(":")
    if kind == "bpe" and size.isdecimal():
        return int(size)
    return GPT2 if kind == "gpt2" else load_tokenizer(data.tokenizer).vocab_size


def vocabulary(data: Corpus | Task) -> int:
    """Number of token ids."""
    return data.vocabulary if isinstance(data, Task) else data.tokenizer.vocab_size


def pinned(data: DataConfig) -> DataConfig:
    """The same data, data sets of the hub at the commits that they are at now.

    Raises:
        InputError: the hub cannot be reached.
    """
    texts = {name: getattr(data, name) for name in ("text", "valid_text")}
    on_hub = {name: text for name, text in texts.items() if text and text.startswith(PREFIX)}
    return replace(data, **{n: str(HubText.parse(text).pinned()) for n, text in on_hub.items()})


def prepare(data: DataConfig) -> Corpus | Task:
    """The corpus or the task that the options ask for.

    Raises:
        InputError: a text that cannot be read or used.
    """
    if data.task is not None:
        return data.make_task()
    if data.text is None:
        return fables(train_tokens=data.train_tokens, valid_tokens=data.valid_tokens)
    return from_text(
        data.text,
        data.valid_text,
        tokenizer=data.tokenizer,
        separator=data.separator,
        valid_fraction=data.valid_fraction,
        field=data.field,
    )


def prepare_once(data: DataConfig, ranks: Ranks) -> Corpus | Task:
    """As `prepare`, for processes that train together: the first one prepares, the others load.

    Raises:
        InputError: as `prepare`, or a process does not see what the first has prepared.
    """
    if data.task is not None or ranks.size == 1:
        return prepare(data)
    made: list[Corpus | Task] = []

    def first() -> Path:
        made.append(prepare(data))
        assert isinstance(made[0], Corpus)
        assert made[0].folder is not None
        return made[0].folder.resolve()

    folder = ranks.told(first)
    if made:
        return made[0]
    if not folder.exists():
        raise InputError(
            f"{folder}, which the first process has prepared, is not on this machine: set "
            "SYMPFORMER_CACHE to a folder that all machines share"
        )
    return load(folder, verify=False)


def _described(task: Task) -> str:
    """A task in JSON, and a sequence of its training: tokens, and answers beneath them."""
    about = {
        "task": task.name,
        "options": asdict(task),
        "digest": task.digest,
        "vocab_size": task.vocabulary,
        "training": [str(setting) for setting in task.training],
        "tests": [str(setting) for setting in task.testing],
    }
    batch = task.training_batch(seed=0, number=0, size=1)
    rows = [list(map(str, batch.tokens[0]))]
    rows += [["." if t == IGNORED else str(t) for t in batch.targets[0]]]
    width = max(map(len, rows[0] + rows[1]))
    lines = [" ".join(cell.rjust(width) for cell in row) for row in rows]
    return "\n".join([json.dumps(about, indent=2), *lines])
