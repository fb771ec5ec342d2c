"""What the README and the pages say to type is what the command line takes, and links lead on."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

import sympformer as sf
from sympformer.cli import WELCOME, _command, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORT = (
    "sympformer presets",
    "sympformer data --task parity",
)


def lines(page):
    """The lines of its shell blocks, continued ones as one."""
    found = "\n".join(SHELL.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return [line for line in found.splitlines() if "sympformer " in line]


def arguments(line):
    """What a line gives to the program, without what stands before it; None if it calls another."""
    words = shlex.split(line.split("&&")[-1], comments=True)
    for i, word in enumerate(words):
        if word.rpartition("/")[2] == "sympformer" and words[i - 1 : i] in ([], ["-m"]):
            return words[i + 1 :]
    return None


COMMANDS = [(page.name, line) for page in PAGES for line in lines(page)]
COMMANDS += [("welcome", line.split("   ")[0]) for line in WELCOME.splitlines() if line[:2] == "  "]


@pytest.fixture
def _nothing_there(monkeypatch):
    """Runs and files of the reader's own are taken as given, and nothing is performed."""
    from sympformer.commands.train import Train

    done = SimpleNamespace(numbers={}, claims=[])
    monkeypatch.setattr("sympformer.lab.perform", lambda *_: done)
    monkeypatch.setattr("sympformer.imports.import_from", lambda name: None)
    monkeypatch.setitem(sf.tasks.TASKS, "largest", sf.tasks.TASKS["mqar"])  # of a page's own file
    monkeypatch.setattr(Train, "of_run", classmethod(lambda cls, run: cls()))
    monkeypatch.setattr(Train, "of_model", classmethod(lambda cls, model: cls()))
    monkeypatch.chdir(ROOT)


def parsed(given):
    """Whether the parser takes it."""
    try:
        _command(given)
    except SystemExit as end:
        return end.code == 0
    return True


@pytest.mark.usefixtures("_nothing_there")
@pytest.mark.parametrize("page", sorted({page for page, _ in COMMANDS}))
def test_every_command_is_one(page, capsys):
    for where, line in COMMANDS:
        if where != page or (given := arguments(line)) is None:
            continue
        assert parsed(given), f"{line}\n{capsys.readouterr().err}"


def test_the_commands_are_found():
    given = [arguments(line) for _, line in COMMANDS]
    assert sum(words is not None for words in given) > 80
    assert arguments("torchrun --nproc-per-node=4 -m sympformer train gpt  # four") == [
        "train",
        "gpt",
    ]
    assert arguments("pip install 'sympformer[hf]' sympformer-plugin") is None


@pytest.mark.usefixtures("_nothing_there")
def test_a_wrong_one_is_seen():
    assert not parsed(arguments("sympformer compare --preset gpt"))


@pytest.mark.parametrize("start", SHORT)
def test_the_short_ones_run(start, capsys):
    line = next(line for _, line in COMMANDS if line.startswith(start))
    assert main(arguments(line)) == 0
    assert capsys.readouterr().out


def test_the_first_minutes_run(tmp_path, monkeypatch, capsys):
    """The commands of the page in their order, the training cut short."""
    monkeypatch.chdir(tmp_path)
    sizes = "--n-layer 1 --n-head 1 --n-embd 16 --block-size 16 --train-tokens 3000 "
    sizes += "--valid-tokens 400 --warmup 0 --eval-every 2 --eval-blocks 2 --batch-size 2"
    for line in lines(ROOT / "docs" / "start.md"):
        given = arguments(line)
        if given[0] == "train":
            given = [*given[: given.index("--steps")], "--steps", "2", *sizes.split()]
        if given[0] in ("train", "generate", "eval"):
            assert main(given) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(page):
    """Those of the pages are followed when the site is built."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^):#]+)\)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_interface_is_on_its_page():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rooms = {"attention", "data", "dynamics", "lab", "model", "study", "tasks", "train"}
    for name in sf.__all__:
        wanted = rf"sympformer\.{name}\b" if name in rooms else rf"auto\w+:: {name}$"
        assert re.search(wanted, page, re.MULTILINE), name
