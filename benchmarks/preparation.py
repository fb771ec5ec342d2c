"""Preparing a text, side by side with `datasets.map` and the same tokenizer.

    python benchmarks/preparation.py stories.jsonl --field text --vocabulary 4096

Both read the same JSON lines and encode them with the same vocabulary, in turns, with one thread of
the tokenizer; each number is the best of its rounds, in MB of text a second of wall time and of
processor time. `datasets` reads the file into a table of its own and maps that; ours reads the
file, divides it, encodes, writes and hashes.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"  # before the tokenizer is imported

from sympformer.data.encoding import pack
from sympformer.data.source import Source
from sympformer.data.tokenizer import SubwordTokenizer, train_bpe
from sympformer.optional import require


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Preparing a text beside datasets.map")
    parser.add_argument("text", help="a .jsonl file")
    parser.add_argument("--field", default="text")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    source = Source.of(options.text, None, 0.05, field=options.field)
    size = sum(len(document.text.encode()) for document in source.documents())
    tokenizer = train_bpe(source.training_documents(), options.vocabulary)
    ways: dict[str, Callable[[Path], None]] = {
        "sympformer": lambda folder: ours(source, tokenizer, folder),
        "datasets, table and map": lambda folder: theirs(options, tokenizer, folder),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                wall, used = time.perf_counter(), time.process_time()
                way(Path(folder))
                found[name].append((time.perf_counter() - wall, time.process_time() - used))
    print(f"{size / 1e6:.1f} MB of text, {tokenizer.name}")
    for name, times in found.items():
        wall, used = (size / 1e6 / min(each) for each in zip(*times, strict=True))
        print(f"{name}: {wall:.2f} MB/s, {used:.2f} MB/s a core")


def ours(source: Source, tokenizer: SubwordTokenizer, folder: Path) -> None:
    """Fill a folder as `from_text` does."""
    pack(source.documents(), tokenizer, folder)


def theirs(options: argparse.Namespace, tokenizer: SubwordTokenizer, folder: Path) -> None:
    """Read the file as a table, and map it to ids, which are written as a table."""
    datasets = require("datasets", "hub", "this measurement")
    datasets.disable_progress_bars()
    cache = str(folder)
    table = datasets.load_dataset("json", data_files=options.text, split="train", cache_dir=cache)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        texts = [text.replace("\r\n", "\n") for text in batch[options.field]]
        return {"ids": [[*ids, tokenizer.eos] for ids in tokenizer.encode_batch(texts)]}

    table.map(encode, batched=True, remove_columns=table.column_names)


if __name__ == "__main__":
    main()
