"""The command that says what a training run needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from rich.console import Console
from tyro.conf import Positional

from sympformer import machine
from sympformer.commands.data import expected_vocabulary
from sympformer.commands.options import Flat, Set, Size, defaults, with_options
from sympformer.commands.train import Train
from sympformer.errors import InputError, lookup
from sympformer.table import Table
from sympformer.train import DataConfig, RunConfig, TrainConfig
from sympformer.train.batches import share
from sympformer.train.sizes import parameters


@dataclass(frozen=True)
class Estimate:
    """Say what a training run will need, before it is started: memory, operations, time."""

    preset: Positional[str] = "symp-r2"
    """Architecture; `sympformer presets` lists them."""
    config: Path | None = None
    """TOML file that gives the defaults of all other options, as the config.toml of a run."""
    processes: int = 1
    """How many train together, each on hardware of its own."""
    hardware: str = "here"
    """here, which is measured, or a100, h100, h200, from their data sheets."""
    peak: float | None = None
    """Instead of the hardware's: 10¹² operations a second of its products."""
    bandwidth: float | None = None
    """Instead of the hardware's: 10⁹ bytes a second to and from its memory."""
    set: Set = ()
    """Other options of the architecture."""
    size: Annotated[Size, Flat] = field(default_factory=Size)
    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    task_set: Set = ()
    """Options of the task."""
    model: tyro.conf.Suppress[Mapping[str, Any]] = field(default_factory=dict)
    """What a file says of the architecture beside its size."""
    options: tyro.conf.Suppress[Mapping[str, Any]] = field(default_factory=dict)
    """What a file says of the task."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """The defaults in a TOML file, as those of `train`."""
        return cls(config=path, **defaults(path))

    def run(self) -> int:
        """Count, and print."""
        from sympformer.estimate import HARDWARE, here  # what measures is imported when it does

        for name in ("processes", "peak", "bandwidth"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise InputError(f"{name} must be greater than 0, not {value}")
        lookup({"here": None, **HARDWARE}, self.hardware, "hardware")
        config = self._asked()
        if self.processes > 1 and config.train.parallel == "none":
            raise InputError(
                f"--parallel none in {self.processes} processes is refused by train: leave it out"
            )
        if config.model.model:
            raise InputError("a model of a user's own is not estimated: nothing is known of it")
        if self.hardware == "here":
            device = machine.resolve_device(config.train.device)
            dtype = config.on(device).train.dtype
            hardware = here(dtype, device)
        else:
            hardware, dtype = HARDWARE[self.hardware], "bfloat16"
            if config.train.dtype not in ("auto", dtype):
                raise InputError(
                    f"the peak of {self.hardware} is that of bfloat16: leave out --dtype "
                    f"{config.train.dtype}, or give --peak with --hardware here"
                )
        own = {"peak": self.peak and self.peak * 1e12}
        own["bandwidth"] = self.bandwidth and self.bandwidth * 1e9
        hardware = hardware._replace(**{n: value for n, value in own.items() if value})
        self._table(config, hardware, dtype).print(Console())
        return 0

    def _asked(self) -> RunConfig:
        """The run that is meant; its data are not prepared."""
        data = with_options(self.data, self.options, self.task_set)
        same = {name: getattr(self, name) for name in ("preset", "set", "size", "train", "model")}
        train = Train(data=self.data, task_set=self.task_set, options=self.options, **same)
        return train.asked(self.size.vocab_size or expected_vocabulary(data))

    def _table(self, config: RunConfig, hardware: Any, dtype: str) -> Table:
        from sympformer.estimate import memory, one_pass, speed

        model, t = config.model, config.train
        own = share(t.batch_size, t.accumulation, self.processes)
        rows = t.batch_size // own.parts
        length = model.block_size if config.data.task is None else config.data.make_task().trained
        with Console(stderr=True).status("counting passes of 2 and 3 layers"):
            passed = one_pass(model, rows, length, dtype)
        held = memory(config, passed, self.processes)
        sharers = self.processes if t.parallel == "fsdp" else 1
        fast = speed(model, passed, own.micro_batches, rows, length, hardware, sharers)
        update = t.batch_size * t.accumulation * length
        lines = [("parameters", f"{parameters(model):,}")]
        lines += [
            (f"memory: {name}", _bytes(size)) for name, size in held._asdict().items() if size
        ]
        free = "" if hardware.memory is None else f" of {_bytes(hardware.memory)}"
        lines += [
            ("memory of a process", _bytes(held.total) + free),
            ("tokens of an update", f"{update:,}"),
            ("operations of a process in it", f"{fast.operations:.3g}"),
            ("bytes that it moves", _bytes(fast.moved)),
            ("tokens a second, at most", f"{fast.most * self.processes:,.0f}"),
            ("tokens a second, all in memory", f"{fast.uncached * self.processes:,.0f}"),
            ("tokens of the run", f"{update * t.steps:,}"),
            (
                "its time, from that",
                " to ".join(
                    _time(update * t.steps / speed / self.processes)
                    for speed in (fast.most, fast.uncached)
                ),
            ),
        ]
        notes = [
            f"{hardware.name}: {hardware.peak / 1e12:.3g} 10^12 operations a second, "
            f"{_bytes(hardware.bandwidth)} a second, {dtype}"
        ]
        if self.processes > 1:
            notes.append("exchanges between processes are not counted in times")
        what = f"{config.preset}, {self.processes} process{'es' * (self.processes > 1)}"
        return Table(("", "estimate"), tuple(lines), frozenset(), what, tuple(notes))


def _bytes(size: float) -> str:
    unit, name = next((u for u in ((1e12, "TB"), (1e9, "GB")) if size >= u[0]), (1e6, "MB"))
    return f"{size / unit:,.3g} {name}"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
