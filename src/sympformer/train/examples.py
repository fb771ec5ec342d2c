"""What a run is trained and measured on: a text or a task, behind one face."""

from dataclasses import asdict
from typing import Any, Protocol

from sympformer.data import Corpus, Loader, Tokenizer, valid_blocks
from sympformer.errors import InputError
from sympformer.model import CustomModel, LanguageModel
from sympformer.model.text import sample_text
from sympformer.tasks import Setting, Task, TaskLoader
from sympformer.train.batches import Batches, share
from sympformer.train.config import RunConfig
from sympformer.train.evaluate import Evaluation, evaluate, evaluate_task, state_bytes
from sympformer.train.parallel import SINGLE, Ranks

Model = LanguageModel | CustomModel


class Examples(Protocol):
    """A text or a task, as a run of one configuration sees it."""

    name: str
    digest: str
    """Identifies all that is trained and measured on."""
    length: int
    """Tokens of the longest sequence in training."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where there is no text."""
        ...

    def loader(self, ranks: Ranks = SINGLE) -> Batches:
        """The batches of training that are this process's.

        Raises:
            InputError: the processes cannot share an update.
        """
        ...

    def evaluate(self, model: Model, ranks: Ranks = SINGLE) -> Evaluation:
        """Measure the model on what is kept for validation, the same every time.

        Processes that train together must all call this, and `tests`; each measures a share.
        """
        ...

    def sample(self, model: Model) -> dict[str, Any]:
        """What a model makes of itself, for the metrics."""
        ...

    def tests(self, model: Model, ranks: Ranks = SINGLE) -> list[dict[str, Any]]:
        """What a trained model is asked beyond validation: a row for each question."""
        ...


class TextExamples:
    """A corpus."""

    def __init__(self, corpus: Corpus, config: RunConfig) -> None:
        t = config.train
        self.corpus, self.config = corpus, config
        self.name, self.digest, self.tokenizer = corpus.name, corpus.digest, corpus.tokenizer
        self.length = config.model.block_size
        _require_vocabulary(config, corpus.tokenizer.vocab_size, "the tokenizer's")
        self.eos = corpus.tokenizer.eos if config.data.document_mask else None
        self.blocks = list(
            valid_blocks(corpus.valid, self.length, t.batch_size, t.eval_blocks, self.eos)
        )

    def loader(self, ranks: Ranks = SINGLE) -> Loader:
        """Blocks of its training stream."""
        t = self.config.train
        rows = t.batch_size // share(t.batch_size, t.accumulation, ranks.size).parts
        stream = self.corpus.train
        return Loader(stream, self.length, rows, t.data_seed, ranks.rank, ranks.size, eos=self.eos)

    def evaluate(self, model: Model, ranks: Ranks = SINGLE) -> Evaluation:
        """Measure the loss on its validation blocks."""
        return evaluate(model, self.blocks, self.corpus.floor, ranks)

    def sample(self, model: Model) -> dict[str, Any]:
        """A new document."""
        return {"sample": sample_text(model, self.corpus.tokenizer)}

    def tests(self, model: Model, ranks: Ranks = SINGLE) -> list[dict[str, Any]]:
        """None: validation says all."""
        return []


class TaskExamples:
    """A task."""

    tokenizer = None

    def __init__(self, task: Task, config: RunConfig) -> None:
        self.task, self.config = task, config
        self.name, self.digest = str(task), task.digest
        self.length = task.trained
        _require_vocabulary(config, task.vocabulary, f"that of task {task.name},")
        if config.model.block_size < task.longest:
            raise InputError(
                f"block_size {config.model.block_size} is smaller than the longest sequence of "
                f"task {task.name}, {task.longest} tokens: leave it out, or choose at least that"
            )

    def loader(self, ranks: Ranks = SINGLE) -> TaskLoader:
        """Sequences without end."""
        t = self.config.train
        parts = share(t.batch_size, t.accumulation, ranks.size).parts
        return TaskLoader(self.task, t.batch_size, t.data_seed, ranks.rank, ranks.size, parts)

    def evaluate(self, model: Model, ranks: Ranks = SINGLE) -> Evaluation:
        """Measure loss and accuracy on sequences as in training."""
        t = self.config.train
        batches = self.task.validation_batches(t.eval_blocks, t.batch_size)
        return evaluate_task(model, batches, ranks)

    def sample(self, model: Model) -> dict[str, Any]:
        """Nothing: the accuracy says all."""
        return {}

    def tests(self, model: Model, ranks: Ranks = SINGLE) -> list[dict[str, Any]]:
        """Loss and accuracy at every setting of the task's tests."""
        t = self.config.train
        return run_tests(model, self.task, t.eval_blocks, t.batch_size, ranks=ranks)


def run_tests(
    model: Model,
    task: Task,
    sequences: int,
    batch_size: int,
    settings: tuple[Setting, ...] | None = None,
    ranks: Ranks = SINGLE,
) -> list[dict[str, Any]]:
    """Measure a model at settings of a task: loss, accuracy, the best of both, and its memory.

    Args:
        model: takes sequences of the settings' lengths.
        task: draws them.
        sequences: how many of them for each setting, the same every time.
        batch_size: of training, which says how many tokens are taken at a time.
        settings: the task's tests if not given.
        ranks: this process among those that measure it together.
    """
    rows = []
    for setting in task.testing if settings is None else settings:
        found = evaluate_task(model, task.test_batches(setting, sequences, batch_size), ranks)
        where = {"setting": str(setting), **setting._asdict()}
        rows.append({**where, **asdict(found), "state_bytes": state_bytes(model, setting.length)})
    return rows


def examples(data: Corpus | Task, config: RunConfig) -> Examples:
    """A text or a task, for a run.

    Raises:
        InputError: the model's vocabulary or block size is too small for it, or a text is shorter
            than a block.
    """
    return TaskExamples(data, config) if isinstance(data, Task) else TextExamples(data, config)


def _require_vocabulary(config: RunConfig, needed: int, whose: str) -> None:
    if config.model.vocab_size < needed:
        raise InputError(
            f"vocab_size {config.model.vocab_size} is smaller than {whose} {needed}: leave it out, "
            "or choose at least that"
        )
