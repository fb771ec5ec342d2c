"""Single wrong values in TOML files for `train --config` and `compare --config`.

    python tests/faults/toml_values.py --values 3
    python tests/faults/toml_values.py --every 30  # the short form

Every key of every table is given values of every kind. Exit code 0 if each file was refused with
exit code 2 and one line that names the key (or the value), or was rightly accepted (`rules.py` says
what is right), with that very value in the config of the run.
"""

import argparse
import collections
import os
import random
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apart import apart
from harness import workplace
from rules import COMPARE, DATA, MODEL, NOWHERE, PRESETS, TRAIN, ZERO, Rule
from surroundings import FILES

import sympformer.study.report

WRONG = [
    *("true", "-1", "0", "1", "2", "3", "2.0", "0.5", "-0.5", "1e-9", "nan", "inf", "-inf"),
    *('""', '"x"', '"gpt"', '" "', '"\\n"', '"\\u0000"', '"3"', '"true"', '"none"', "'''a\nb'''"),
    *("[]", "[1]", "[0.9]", "[0.5, 0.9]", "[0.9, 1.0]", "[[1], 2]", '["gpt"]', "[true]", "{}"),
    *("{ a = 1 }", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "9223372036854775807"),
    *("9223372036854775808", "1" * 400, "1e308", "0x7f", "1_000"),
]
RIGHT: dict[str, list[str]] = {
    "attention": ['"linear"', '"tied-linear"', '"Linear"'],
    "dynamics": ['"none"', '"symp"', '"yurii"'],
    "form": ['"velocity"', '"momentum"', '"naive"', '"auto"'],
    "scheme": ['"tao"', '"strang"', '"leapfrog"'],
    "drift": ['"before"', '"during"'],
    "connection": ['"proposal"', '"none"'],
    "causality": ['"joint"', '"Prefix"'],
    "mlp_velocity": ['"own"', '"momentum"'],
    "initial_momentum": ['"zero"', '"difference"'],
    "damping": ['"nesterov"', '"constant"'],
    "lookahead": ["false"],
    "heads": ['"averaged"', '"avereged"'],
    "normalizer": ['"length"'],
    "tokenizer": ['"byte"', '"bpe:300"', '"bpe:x"', '"bpe:0"', '"bpe:99999999999999999999"'],
    "text": ['"text"'],
    "dtype": ['"bfloat16"', '"float16"'],
    "device": ['"cpu"', '"meta"', '"cuda:0"', '"cpu:7"'],
    "threads": ["4", "5000"],
    "betas": ["[0, 0]", "[0.9]", "[0.9, nan]", "[-0.1, 0.9]", '["0.9", "0.9"]', "[true, false]"],
    "presets": ['["symp-exp-euler", "gpt"]', '["symp-exp-euler", 3]', '["symp-exp-euler", "x"]'],
    "baseline": ['"v"', '"symp-exp-euler"'],
    "seeds": ["[0, 1]", "[0, 0]", "[-1]", "[0, 1.0]", "[9223372036854775808]"],
    "preset": ['"gpt-untied"', '"symp-exp-euler"', '"Symp-r2"'],
    "train_tokens": ["100"],
    "valid_tokens": ["100"],
}
"""Values that are right, or nearly, beside `WRONG`."""

LEAKING = ('"joint"', '"length"')
"""With these the audit finds, and train says, that outputs depend on later tokens."""

SIZES = {"n_layer": "2", "n_head": "2", "n_embd": "8", "block_size": "16"}
RECIPE = {
    **{"steps": "2", "batch_size": "2", "warmup": "1", "eval_every": "2", "eval_blocks": "2"},
    **{"threads": "1", "learning_rate": "1e-3"},
}
TEXT, FABLES = (
    {"text": '"text"', "tokenizer": '"byte"'},
    {"train_tokens": "3000", "valid_tokens": "400"},
)


@dataclass(frozen=True)
class Case:
    """One value of one key of one table."""

    command: str
    table: str
    key: str
    literal: str
    rule: Rule

    @property
    def value(self) -> object:
        """The value, as TOML has it; None if it is none."""
        try:
            return tomllib.loads(f"a = {self.literal}")["a"]
        except ValueError:
            return None

    def tables(self) -> dict[str, dict[str, str]]:
        """A whole file with this value in it: literals by table and key."""
        fables = self.key in FABLES
        top = {"preset": '"symp-exp-euler"'}
        if self.command == "compare":
            names = ("presets", '["symp-exp-euler"]'), ("baseline", '"symp-exp-euler"')
            top = {**dict(names), "seeds": "[0]"}
        tables = {"": top, "model": SIZES, "data": FABLES if fables else TEXT, "train": RECIPE}
        if self.command == "compare":
            # An option of its own, or the variant would be refused as no variant.
            tables["variant.v"] = {"preset": '"symp-exp-euler"', "mlp_width": "24"}
        if self.table == "" and self.key in tables:  # a table is something else
            del tables[self.key]
        if self.table == "" and self.key == "variant":
            del tables["variant.v"]
        tables[self.table] = {**tables[self.table], self.key: self.literal}
        return tables

    def kept(self, folder: Path) -> object:
        """What the run that was made of the file has there."""
        entry = "v" if self.table.startswith("variant") else "symp-exp-euler"
        run = folder / "out" / f"{entry}-s0" if self.command == "compare" else folder / "out"
        tables = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
        if self.command == "compare" and self.table == "":
            return self.value  # of the comparison, not of a run
        if self.table.startswith("variant"):
            if self.key == "preset":
                return tables["preset"]
            return tables["train" if self.key == "learning_rate" else "model"].get(self.key)
        return tables.get(self.table, tables).get(self.key)


def cases(number: int) -> Iterator[Case]:
    """All cases, with so many values of `WRONG` a key."""
    keys: list[tuple[str, str, str, Rule]] = []
    for command in ("train", "compare"):
        for table, rules in (("model", MODEL), ("data", DATA), ("train", TRAIN)):
            keys += [(command, table, key, rule) for key, rule in rules.items()]
            keys += [(command, table, "nothing", NOWHERE), (command, "", table, _table)]
    keys += [("train", "", "preset", lambda v: isinstance(v, str) and v in PRESETS)]
    keys += [("train", "", "imports", lambda v: v == {}), ("train", "", "steps", NOWHERE)]
    keys += [("compare", "", key, rule) for key, rule in COMPARE.items()]
    keys += [("compare", "", "variant", lambda v: v == {}), ("compare", "", "steps", NOWHERE)]
    keys += [("compare", "variant.v", key, rule) for key, rule in MODEL.items()]
    keys += [
        ("compare", "variant.v", "learning_rate", TRAIN["learning_rate"]),
        ("compare", "variant.v", "preset", lambda v: isinstance(v, str) and v in PRESETS),
        ("compare", "variant.v", "steps", NOWHERE),
    ]
    for command, table, key, rule in keys:
        if command == "compare" and key in ("seed", "data_seed"):
            rule = ZERO
        draw = random.Random(f"{command} {table} {key}")
        for literal in [*draw.sample(WRONG, number), *RIGHT.get(key, [])]:
            case = Case(command, table, key, literal, rule)
            endless = key == "steps" and rule(case.value) is None
            if not (endless or (key == "compile" and literal == "true")):  # right, and long
                yield case


def _table(value: object) -> bool:
    """No whole table that says nothing, or too little, is right here."""
    return False


def judge(case: Case, folder: Path) -> tuple[str, str | None]:
    """Use a file; whether it was accepted or refused, and what is wrong with that."""
    lines = []
    for table, values in case.tables().items():
        lines += [f"[{table}]"] if table else []
        lines += [f"{key} = {literal}" for key, literal in values.items()]
    (folder / "file.toml").write_text("\n".join(lines), encoding="utf-8")
    words = [case.command, "--config", str(folder / "file.toml"), "--out", str(folder / "out")]
    outcome = apart(words, lambda: os.chdir(folder))
    leak = {1} if case.literal in LEAKING and case.command == "train" else set()
    ended = "accepted" if outcome.code in {0} | leak else "refused"
    if (fault := outcome.fault({0, 2} | leak)) is not None:
        return ended, fault
    right = case.rule(case.value)
    if ended == "accepted":
        kept, value = case.kept(folder), case.value
        if right is False:
            return ended, "accepted"
        same = kept == float(value) if isinstance(kept, float) else kept == value
        return ended, None if same else f"accepted as {kept!r}"
    line = outcome.lines[0] if outcome.lines else ""
    if right:
        return ended, f"refused: {line}"
    shown = str(case.value), repr(case.value)
    names = [*shown, case.key, case.key.removesuffix("s"), case.key.replace("_", " ")]
    if "no text at" in line and "text" in case.key:  # a name may be all blanks
        return ended, None
    if right is None and "diverged" in line:  # a number may be right, and far too large
        return ended, None
    if not any(name and name in line for name in names):
        return ended, f"refused without a name: {line}"
    return ended, None


def run() -> int:
    """Parse, try the files, say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--values", type=int, default=3)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    # It takes longer than all else.
    sympformer.study.report.write_figure = lambda *_: []
    ends: collections.Counter[str] = collections.Counter()
    wrong, chosen = 0, list(cases(options.values))[:: options.every]
    with workplace() as folder:
        for case in chosen:
            place = folder / "now"
            place.mkdir()
            (place / "text").write_text(FILES["text"])
            ended, fault = judge(case, place)
            ends[ended] += 1
            if fault:
                wrong += 1
                where = f"{case.command} {case.table} {case.key} = {case.literal[:40]}"
                print(f"  {where}: {fault}", flush=True)
            shutil.rmtree(place)
    print(f"{len(chosen)} values: {ends['refused']} refused by name, {ends['accepted']} accepted")
    print(f"{len(chosen) - wrong} right, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run())
