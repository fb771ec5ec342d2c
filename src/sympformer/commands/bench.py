"""The command that measures time and memory."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sympformer import machine
from sympformer.commands.options import COMPARED
from sympformer.errors import InputError


@dataclass(frozen=True)
class Bench:
    """Measure time and memory side by side with a plain GPT on torch's fused attention."""

    presets: tuple[str, ...] = COMPARED
    """Architectures, beside the plain GPT."""
    measure: tuple[str, ...] = ("step", "memory", "prefill", "decode")
    """Of step, memory, prefill, decode, generate, recompute."""
    lengths: tuple[int, ...] = (512,)
    """Contexts T, in tokens."""
    forms: tuple[str, ...] = ("auto",)
    """How attention is computed: auto, or forms in sympformer.attention.forms; each model is
    measured in every one of them that it has."""
    n_layer: int = 8
    """Layers."""
    n_head: int = 8
    """Attention heads."""
    n_embd: tuple[int, ...] = (64,)
    """Model dimensions."""
    vocab_size: int = 50304
    """Token ids."""
    batch_size: int = 6
    """Sequences."""
    tokens_per_batch: int | None = None
    """As many sequences as hold so many tokens, at every length, instead of the batch size."""
    rounds: int = 5
    """Rounds that count, after a warm-up; in each, every model has its turn."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward and backward pass; weights stay float32."""
    compile: bool = False
    """Compile training steps and the step of decoding, which takes up to a minute each."""
    threads: int | None = None
    """CPU threads; torch's choice if not given."""
    out: Path = Path("runs/bench")
    """Folder for numbers, tables and the figure (drawn where there are several lengths)."""
    redraw: Path | None = None
    """Measure nothing: write tables and figure of this results.json."""

    def run(self) -> int:
        """Measure."""
        from sympformer.bench import (
            BenchProgress,
            BenchReport,
            Case,
            bench,
            existing,
            grid,
            print_tables,
            write_report,
        )

        if self.rounds < 1 or (self.threads is not None and self.threads < 1):
            raise InputError("rounds and threads must be at least 1")
        if self.redraw is None:
            first = Case(
                "plain-gpt",
                n_layer=self.n_layer,
                n_head=self.n_head,
                vocab_size=self.vocab_size,
                batch_size=self.batch_size,
                device=str(machine.resolve_device(self.device)),
                dtype=self.dtype,
                compile=self.compile,
            )
            axes = self.presets, self.measure, self.lengths, self.n_embd
            groups = grid(first, *axes, self.tokens_per_batch, self.forms)
            groups, left_out = existing(groups)
            for line in left_out:
                print(f"left out, {line}", file=sys.stderr)
            machine.keep_freed_memory()
            with machine.threads(self.threads):
                report = bench(groups, self.rounds, BenchProgress())
        else:
            report = BenchReport.load(self.redraw)
        paths = write_report(report, self.out)
        print_tables(report)
        print("written: " + ", ".join(map(str, paths)))
        return 0
