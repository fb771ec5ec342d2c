"""The command line as a user meets it: exit codes, one clear line, nothing lost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import tyro

from sympformer import machine
from sympformer.cli import main
from sympformer.commands import COMMANDS
from sympformer.commands.repeated import gathered
from sympformer.commands.study import Compare
from sympformer.lab import EXPERIMENTS

FAST = [
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "32"),
    *("--train-tokens", "6000", "--valid-tokens", "2000", "--batch-size", "4"),
    *("--steps", "4", "--warmup", "2", "--eval-every", "2", "--eval-blocks", "8"),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SYMPFORMER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run(*arguments):
    """Exit code of a command, also where the parser ends the program."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code


def test_help_is_quick():
    """What measures and draws is imported by the command that needs it."""
    heavy = ("matplotlib", "scipy", "sympformer.bench", "sympformer.study", "sympformer.lab")
    code = f"import sys, sympformer.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_presets(capsys):
    assert run("presets") == 0
    assert "symp-r2" in capsys.readouterr().out
    assert run("presets", "--json") == 0
    assert "gpt-untied" in json.loads(capsys.readouterr().out)


def test_a_warning_is_one_line(tmp_path):
    """Without a compiler, and without the library that one has made before."""
    given = ["train", "deltanet", "--out", tmp_path / "run", *FAST, "--n-embd", "16"]
    surroundings = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    surroundings |= {"CXX": "/nowhere/c++", "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(
        [sys.executable, "-m", "sympformer", *map(str, given)],
        capture_output=True,
        text=True,
        env=surroundings,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "plain torch" in line]
    assert line.startswith("sympformer: linear attention runs in plain torch")
    assert "UserWarning" not in done.stderr


def test_eval_elsewhere(tmp_path, capsys):
    runs = [tmp_path / name for name in ("gpt", "symp-r2")]
    for out in runs:
        assert run("train", out.name, "--out", out, *FAST) == 0
    text = tmp_path / "text.txt"
    text.write_text("once upon a time\n<|endoftext|>\nshe was happy\n<|endoftext|>\nthe end\n")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"sentence_good": "she was happy", "sentence_bad": "she was was"}')
    passages = tmp_path / "passages.txt"
    passages.write_text("once upon a time\nshe was happy\n")
    capsys.readouterr()
    given = ["--text", text, "--against", runs[1], "--documents", 2, "--stride", 3]
    assert run("eval", runs[0], *given, "--pairs", pairs, "--last-word", passages) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"]["documents"] == found["against"]["difference"]["documents"] == 2
    bits = [part["bits_per_byte"]["value"] for part in (found["text"], found["against"]["text"])]
    difference = found["against"]["difference"]["bits_per_byte"]["value"]
    assert difference == pytest.approx(bits[0] - bits[1])
    assert found["pairs"]["accuracy"]["pairs"] == 1
    assert found["last_word"]["passages"] == 2
    for options, message in [
        (["--against", runs[1]], "--against is about a --text"),
        (["--stride", 3], "--stride is about a --text"),
        (["--separator", "x"], "--separator is about a --text"),
        (["--pairs", pairs, "--blocks", 3], "leave one of the two out"),
        (["--text", text, "--documents", 0], "--documents must be at least 1"),
        (["--text", tmp_path / "absent.txt"], "absent.txt"),
    ]:
        assert run("eval", runs[0], *options) == 2
        assert message in capsys.readouterr().err


def test_train_eval_generate_resume_audit(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "symp-r2", "--out", out, *FAST) == 0
    assert "nats/token" in capsys.readouterr().out
    assert run("train", "--resume", out) == 0
    capsys.readouterr()
    assert run("eval", out) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss"] > found["floor"] > 0
    classes = found["classes"].values()
    mean = sum(row["tokens"] * row["loss"] for row in classes) / found["tokens"]
    assert mean == pytest.approx(found["loss"], rel=1e-5)
    assert run("eval", out / "model.safetensors") == 0
    assert json.loads(capsys.readouterr().out) == found
    assert run("generate", out / "model.safetensors", "--max-new-tokens", "2") == 0
    capsys.readouterr()
    assert run("generate", out, "--prompt", "once upon a time", "--max-new-tokens", "5") == 0
    assert capsys.readouterr().out.lower().startswith("once upon a time")
    prompts = ["--prompt", "once upon a time", "--prompt", "she"]
    assert run("generate", out, *prompts, "--temperature", "0", "--max-new-tokens", "5") == 0
    together = capsys.readouterr().out.rstrip("\n").split("\n---\n")
    for prompt, text in zip(prompts[1::2], together, strict=True):
        alone = ["--prompt", prompt, "--temperature", "0", "--max-new-tokens", "5"]
        assert run("generate", out, *alone) == 0
        assert capsys.readouterr().out == text + "\n"
    assert run("audit", out, "--length", "16") == 0
    assert "CAUSAL" in capsys.readouterr().out


def test_resume_takes_the_options_that_may_change(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "gpt", "--out", out, *FAST, "--set", "mlp_width=24") == 0
    assert run("train", "--resume", out, "--steps", "4", "--seed", "0") == 0  # as they are
    assert run("train", "--resume", out, "--steps", "6", "--learning-rate", "1e-3") == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 6 + 3
    capsys.readouterr()
    for options, says in (
        (["--seed", "1"], "train.seed from 0 to 1"),
        (["--n-layer", "2"], "model.n_layer from 1 to 2"),
        (["--set", "mlp_width=32"], "model.mlp_width from 24 to 32"),
        (["--steps", "5"], "has made 6 updates already"),
        (["--out", tmp_path / "elsewhere"], "leave out --out"),
    ):
        assert run("train", "--resume", out, *options) == 2
        assert says in capsys.readouterr().err
    assert run("report", out, "--baseline", "gpt") == 0
    says = "gpt (seed 0) was resumed with steps=6, learning_rate=0.001 from step 4."
    assert says in (out / "table.md").read_text()
    assert run("train", "--resume") == 2
    assert "--resume needs a run folder" in capsys.readouterr().err


def test_other_data_is_refused_with_both_digests(tmp_path, capsys):
    """By eval, by a comparison that is extended, and by --resume."""
    text, out = tmp_path / "text.txt", tmp_path / "o"
    story = "the {} sat on the mat number {}.\n<|endoftext|>\n"
    options = [*FAST, "--text", text, "--tokenizer", "bpe:300", "--out", out]
    text.write_text("".join(story.format("cat", n) for n in range(400)))
    assert run("compare", "--presets", "gpt", *options) == 0
    text.write_text("".join(story.format("dog", n) for n in range(400)))
    for words in (
        ["eval", out / "gpt-s0"],
        ["train", "--resume", out / "gpt-s0"],
        ["compare", "--presets", "gpt", "gpt-untied", *options],
    ):
        capsys.readouterr()
        assert run(*words) == 2
        assert re.search(r"other data \(digest \w{12}, now \w{12}\)", capsys.readouterr().err)
    assert not (out / "gpt-untied-s0").exists()


def test_more_loops_than_in_training(tmp_path, capsys):
    out = tmp_path / "run"
    looped = [*FAST, "--n-layer", "2", "--set", "unique_layers=1"]
    assert run("train", "symp-h0", "--out", out, *looped) == 0
    losses = []
    for loops in (2, 5):
        capsys.readouterr()
        assert run("eval", out, "--loops", loops) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] != losses[1]
    assert run("eval", out, "--loops", 0) == 2
    assert run("eval", out, "--loops", 10**6) == 2
    assert run("eval", out, "--blocks", 0) == 2


def test_lab(tmp_path, capsys):
    small = ["--particles", "4", "--steps", "64", "128", "256"]
    assert run("lab", "orders", "--out", tmp_path, *small) == 0
    assert "holds" in capsys.readouterr().out
    for suffix in ("npz", "json", "png", "svg"):
        assert (tmp_path / f"orders.{suffix}").stat().st_size > 0
    assert run("lab", "order", "--out", tmp_path) == 2


def test_compare_extends_and_reports(tmp_path, capsys):
    out = tmp_path / "study"
    assert run("compare", "--presets", "gpt", "--out", out, *FAST) == 0
    written = (out / "gpt-s0" / "summary.json").read_bytes()
    assert run("compare", "--presets", "gpt", "symp-h0", "--out", out, *FAST) == 0
    assert (out / "gpt-s0" / "summary.json").read_bytes() == written
    for name in ("table.md", "table.tex", "results.json", "loss.png", "loss.svg"):
        assert (out / name).stat().st_size > 0
    table = (out / "table.md").read_text()
    assert "symp-h0" in table
    capsys.readouterr()
    assert run("report", out) == 0
    assert "symp-h0" in capsys.readouterr().out


def test_compare_on_text(tmp_path, capsys):
    text = tmp_path / "text.txt"
    story = "the cat sat on the mat number {}.\n<|endoftext|>\n"
    text.write_text("".join(story.format(n) for n in range(400)))
    options = [*FAST, "--text", text, "--tokenizer", "bpe:300", "--seeds", "0", "1"]
    assert run("compare", "--presets", "gpt", "gpt-untied", "--out", tmp_path / "o", *options) == 0
    assert "gpt-untied" in (tmp_path / "o" / "table.md").read_text()


def test_compare_from_a_file(tmp_path, capsys):
    """The file gives the defaults, the command line overrides them, the scale shrinks them."""
    plan = tmp_path / "plan.toml"
    plan.write_text(
        """
        presets = ["gpt", "symp-exp-euler"]
        baseline = "gpt"
        seeds = [0]
        model = { n_layer = 1, n_head = 2, n_embd = 16, block_size = 32, heads = "averaged" }
        variant = { symp-exp-euler = { initial_step = 0.1 } }
        data = { train_tokens = 6000, valid_tokens = 2000 }
        train = { steps = 40, batch_size = 4, warmup = 2, eval_every = 20, eval_blocks = 8 }
        """
    )
    out = tmp_path / "out"
    options = ["--config", plan, "--scale", 0.1, "--batch-size", 2, "--out", out]
    assert run("compare", *options) == 0
    config = (out / "symp-exp-euler-s0" / "config.toml").read_text()
    for line in ("initial_step = 0.1", "steps = 4", "batch_size = 2", 'heads = "averaged"'):
        assert line in config
    assert run("compare", "--config", tmp_path / "none.toml") == 2
    assert "none.toml" in capsys.readouterr().err


def test_variants_are_entries_of_their_own(tmp_path, capsys):
    """On the command line and in a file; the table says what each is."""
    out = tmp_path / "o"
    variants = ["look=symp-r2,lookahead=true", "fast=gpt,learning_rate=6e-3"]
    options = ["--presets", "gpt", "symp-r2", "--variant", *variants, "--out", out, *FAST]
    assert run("compare", *options) == 0
    assert "lookahead = true" in (out / "look-s0" / "config.toml").read_text()
    assert "learning_rate = 0.006" in (out / "fast-s0" / "config.toml").read_text()
    table = (out / "table.md").read_text()
    assert "look is symp-r2, lookahead=true." in table
    assert "fast is gpt, learning_rate=0.006." in table
    plan = tmp_path / "plan.toml"
    plan.write_text(
        """
        baseline = "small"
        seeds = [0]
        model = { n_layer = 1, n_head = 2, n_embd = 16, block_size = 32 }
        [variant.small]
        preset = "gpt"
        mlp_width = 8
        [variant.look]
        preset = "symp-r2"
        lookahead = true
        """
    )
    assert run("compare", "--config", plan, "--out", tmp_path / "p", *FAST) == 0
    table = (tmp_path / "p" / "table.md").read_text()
    assert "small is gpt, mlp_width=8." in table
    assert "vs small" in table


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("look", "NAME=PRESET"),
        ("look=symp-r3", "did you mean 'symp-r2'"),
        ("gpt=symp-r2", "name of a preset"),
        ("gpt=gpt,mlp_width=32", "'gpt' is a preset, which would be replaced"),
        ("x=gpt, mlp_width=0", "variant 'x' is the same as 'gpt'"),
        ("a/b=symp-r2", "name of a folder"),
        ("look=symp-r2,lookahed=true", "did you mean 'lookahead'"),
        ("look=symp-r2,learning_rate=fast", "learning_rate must be a finite number"),
    ],
)
def test_a_variant_that_makes_no_sense_is_refused(variant, says, tmp_path, capsys):
    assert run("compare", "--variant", variant, "--out", tmp_path / "o", *FAST) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_an_option_that_is_repeated_appends():
    variants = ["--variant", "x=gpt,mlp_width=32", "--seeds", "0", "--variant=y=gpt,mlp_width=64"]
    asked = gathered(Compare, [*variants, "--shard", "1/2", "--seeds", "1", "2", "--out", "a"])
    compare = tyro.cli(Compare, args=asked)
    assert compare.variant == ("x=gpt,mlp_width=32", "y=gpt,mlp_width=64")
    assert compare.seeds == (0, 1, 2)
    assert (compare.shard, compare.out) == ("1/2", Path("a"))


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (command, field)
        for command in [*COMMANDS.values(), *(e.config for e in EXPERIMENTS.values())]
        for field, hint in get_type_hints(command).items()
        if get_origin(hint) is tuple and get_args(hint)[-1] is ... and field != "prompt"
    ],
)
def test_every_option_of_several_values_may_be_repeated(command, option):
    flag = "--" + option.replace("_", "-")
    got = gathered(command, ["x", flag, "1", "2", "--n", "0", flag, "3"])
    assert got == ["x", "--n", "0", flag, "1", "2", "3"]


def test_a_repeated_set_reaches_the_model(capsys):
    sets = ["--set", "n_layer=1", "--set", "causality=joint"]
    assert run("audit", "gpt", *sets, "--length", "12") == 1
    assert "LEAK" in capsys.readouterr().out


def test_shards_share_the_work(tmp_path, capsys):
    """Each trains its own runs; the last to finish makes the report."""
    out = tmp_path / "o"
    options = ["--presets", "gpt", "gpt-untied", "symp-h0", "--out", out, *FAST]
    assert run("compare", *options, "--shard", "2/2") == 0
    assert [p.name for p in out.iterdir()] == ["gpt-untied-s0"]
    assert "2 of 3 runs are not finished" in capsys.readouterr().out
    assert run("compare", *options, "--shard", "1/2") == 0
    assert (out / "table.md").exists()
    for wrong in ("0/2", "3/2", "1", "a/b"):
        assert run("compare", *options, "--shard", wrong) == 2
        assert "I/N" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "offers"), [(256, True), (64, False)])
def test_bfloat16_is_offered_where_a_processor_multiplies_it(
    width, offers, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: True)
    line = f"train gpt --out {tmp_path / 'r'} --n-layer 1 --n-head 2 --block-size 8 --steps 1"
    options = f" --n-embd {width} --batch-size 1 --eval-blocks 1 --train-tokens 400"
    assert main((line + options + " --valid-tokens 100 --device cpu").split()) == 0
    assert ("--dtype bfloat16" in capsys.readouterr().err) is offers


def test_train_from_a_file(tmp_path, capsys):
    """The configuration of a run is such a file; the command line goes before it."""
    first, again = tmp_path / "first", tmp_path / "again"
    options = ["--set", "lookahead=true", "--learning-rate", "0.001", *FAST]
    assert run("train", "symp-r2", *options, "--out", first) == 0
    file = first / "config.toml"
    assert run("train", "--config", file, "--steps", "2", "--out", again) == 0
    expected = file.read_text().replace("\nsteps = 4", "\nsteps = 2")
    assert (again / "config.toml").read_text() == expected
    broken = tmp_path / "broken.toml"
    broken.write_text("presett = 3")
    assert run("train", "--config", broken) == 2
    assert "did you mean 'preset'" in capsys.readouterr().err
    assert run("train", "--config") == 2
    assert "--config needs a FILE.toml" in capsys.readouterr().err


def test_audit_of_a_leak(capsys):
    assert run("audit", "symp-h0", "--length", "12", "--set", "causality=joint", "--json") == 1
    assert json.loads(capsys.readouterr().out)["causal"] is False


def test_a_leaking_comparison_is_marked(tmp_path):
    out = tmp_path / "leak"
    assert run("compare", "--presets", "gpt", "--set", "causality=joint", "--out", out, *FAST) == 0
    assert "leak" in (out / "table.md").read_text().lower()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "symp-r3", *FAST], "did you mean 'symp-r2'"),
        (["compare", "--presets", "gtp", *FAST], "did you mean 'gpt'"),
        (["train", "gpt", "--set", "connection=proposal", *FAST], "form 'velocity'"),
        (["train", "gpt", "--set", "n_embd", *FAST], "OPTION=VALUE"),
        (["train", "gpt", "--set", "mlp_width=" + "1" * 5000, *FAST], "mlp_width must be"),
        (["train", "gpt", "--set", "mlp_width=" + "[" * 100_000, *FAST], "mlp_width must be"),
        (["train", "gpt", *FAST, "--text", "nowhere.txt"], "nowhere.txt"),
        (["train", "gpt", *FAST, "--n-embd", "15"], "multiple of n_head"),
        (["train", "gpt", *FAST, "--steps", "0"], "steps must be at least 1"),
        (["train", "gpt", *FAST, "--device", "cuda:9"], "not available"),
        (["train", "gpt", *FAST, "--block-size", "9000"], "needs 9001"),
        (["train", "--resume", "nowhere"], "does not exist"),
        (["eval", "nowhere"], "does not exist"),
        (["generate", "nowhere"], "does not exist"),
        (["report", "nowhere"], "nowhere"),
        (["audit", "symp-r3"], "did you mean 'symp-r2'"),
        (["data", "--text", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("sympformer:")]) == 1


def test_empty_text(tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    assert (
        run("train", "gpt", "--out", tmp_path / "o", "--text", tmp_path / "empty.txt", *FAST) == 2
    )
    assert "empty.txt" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_an_unknown_word_in_a_prompt(tmp_path, capsys):
    run("train", "gpt", "--out", tmp_path / "run", *FAST)
    capsys.readouterr()
    assert run("generate", tmp_path / "run", "--prompt", "quantum chromodynamics") == 2
    assert "quantum" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nonsense"], ["train", "gpt", "--stepz", "3"], []])
def test_wrong_usage(arguments, capsys):
    assert run(*arguments) == 2


def test_without_arguments_it_says_what_to_do_first():
    """At once, before torch is there; every line is a command."""
    code = "import sys; from sympformer.cli import main; main([]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    lines = done.stderr.splitlines()
    assert 5 <= len(lines) <= 8
    commands = re.findall(r"^  sympformer (\S+)", done.stderr, re.MULTILINE)
    assert commands[0] == "compare"
    assert set(commands) <= {*COMMANDS, "--help"}


def test_options_are_added_to_those_of_a_file(tmp_path):
    """One option of the model, or one variant, does not silently drop those that the file gives."""
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(
        """
        presets = ["gpt"]
        baseline = "gpt"
        seeds = [0]
        model = { heads = "averaged", mlp_width = 8 }
        variant = { look = { preset = "symp-r2", lookahead = true }, own = { preset = "yurii" } }
        """
    )
    options = ["--set", "mlp_width=12", "--variant", "own=symp-h0", "--out", out, *FAST]
    assert run("compare", "--config", plan, *options) == 0
    configs = {p.parent.name: p.read_text() for p in out.glob("*/config.toml")}
    assert configs.keys() == {"gpt-s0", "look-s0", "own-s0"}
    for text in configs.values():
        assert 'heads = "averaged"' in text
        assert "mlp_width = 12" in text
    assert 'preset = "symp-h0"' in configs["own-s0"]
    # The run of a variant is a file of defaults like any other.
    again = tmp_path / "again"
    assert run("train", "--config", out / "look-s0" / "config.toml", "--out", again) == 0
    model = [text.split("[model]")[1] for text in (configs["look-s0"], _config(again))]
    assert model[0] == model[1]
    assert 'preset = "symp-r2"' in _config(again)


def _config(folder):
    return (folder / "config.toml").read_text()
