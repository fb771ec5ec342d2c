"""The command line in hard surroundings: one line and exit code 2, or 130, never a traceback."""

import errno
import os
import subprocess
import sys

import pytest

from sympformer import cli
from sympformer.commands.models import Presets
from sympformer.errors import InputError

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def output(monkeypatch):
    """A function that makes a file the standard output."""
    opened = []

    def use(target, **options):
        opened.append(open(target, "w", **options))  # noqa: SIM115
        monkeypatch.setattr(sys, "stdout", opened[-1])
        return opened[-1]

    yield use
    for stream in opened:
        stream.close()


@pytest.fixture
def raising(monkeypatch):
    """A function that makes a command end in an exception."""

    def use(error):
        def run(self):
            raise error

        monkeypatch.setattr(Presets, "run", run)

    return use


def start(*arguments, **options):
    command = [sys.executable, "-m", "sympformer", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **{"env": ENVIRONMENT, **pipes, **options})


def run(*arguments, **options):
    process = start(*arguments, **options)
    out, err = process.communicate()
    return process.returncode, out, err


def one_line(text):
    return text.startswith("sympformer: ") and text.endswith("\n") and text.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["presets"], ["--help"]])
def test_a_full_disk_behind_the_output(output, capsys, arguments):
    output("/dev/full")
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert one_line(error)
    assert "No space left" in error


def test_a_closed_pipe(output, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    output(writer)
    assert cli.main(["presets"]) == 2
    assert one_line(capsys.readouterr().err)


def test_closed_streams(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["presets"]) == 0
    assert cli.main(["audit", "nothing"]) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_nowhere_to_say_it(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert cli.main(["audit", "nothing"]) == 2


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "\\u2192\\xe9"), ("cp1252", "\\u2192é")])
def test_what_an_encoding_lacks_is_shown_as_its_escape(
    tmp_path, output, monkeypatch, encoding, shown
):
    monkeypatch.setattr(Presets, "run", lambda self: print("→é") or 0)
    output(tmp_path / "out", encoding=encoding)
    assert cli.main(["presets"]) == 0
    assert (tmp_path / "out").read_text(encoding=encoding) == shown + "\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("two\nlines"), 2, "two lines"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            2,
            "No space left on device: a/b",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 2, "Permission denied: a"),
        (OSError("strange"), 2, "strange"),
        (MemoryError(), 2, "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            2,
            "9",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "not enough memory: CUDA"),
        (ImportError("libtorch.so: failed to map segment from shared object"), 2, "libtorch.so"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_mend_is_one_line(raising, capsys, error, code, says):
    raising(error)
    assert cli.main(["presets"]) == code
    shown = capsys.readouterr().err
    assert one_line(shown)
    assert says in shown


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("x"), KeyError("x")])
def test_a_defect_of_ours_shows_its_traceback(raising, error):
    raising(error)
    with pytest.raises(type(error)):
        cli.main(["presets"])


def test_a_name_that_the_locale_lacks(raising, monkeypatch, capsys):
    raising(UnicodeEncodeError("ascii", "é.txt", 0, 1, "ordinal not in range(128)"))
    with pytest.raises(UnicodeEncodeError):  # of a file's content: ours
        cli.main(["presets"])
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert cli.main(["presets"]) == 2
    assert "PYTHONUTF8=1" in capsys.readouterr().err


def test_arguments_that_are_no_text(capsys):
    for arguments in (
        ["data", "--text", "caf\udce9.txt"],
        ["generate", "run", "--prompt", "\udcff"],
    ):
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert one_line(error)
        assert "is not UTF-8 text" in error


def test_as_a_module_and_in_a_posix_locale(tmp_path):
    """Its arguments are UTF-8 all the same."""
    posix = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    text = tmp_path / "t.txt"
    text.write_text("".join(f"story {i} →\n§\n" for i in range(200)), encoding="utf-8")
    options = "--tokenizer", "byte", "--separator", "§"
    posix["SYMPFORMER_CACHE"] = str(tmp_path / "cache")
    code, out, error = run("data", "--text", str(text), *options, env=posix)
    assert (code, error) == (0, "")
    assert "story 0 \\u2192<|endoftext|>" in out


def test_without_a_home(tmp_path):
    homeless = {k: v for k, v in ENVIRONMENT.items() if k not in ("HOME", "SYMPFORMER_CACHE")}
    homeless["HOME"] = str(tmp_path / "file")
    (tmp_path / "file").write_text("in the way")
    code, _, error = run("data", env=homeless)
    assert code == 2
    assert one_line(error)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory")
def test_too_little_memory_to_import_torch():
    import resource

    little = (300 << 20,) * 2
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, little)  # noqa: E731
    code, _, error = run("presets", preexec_fn=limit)
    assert code == 2
    assert one_line(error)
    assert "memory" in error


INTERRUPTED = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)
except BaseException:
    pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_interrupt_in_the_first_moments(tmp_path):
    """While a library is imported that swallows exceptions."""
    (tmp_path / "tyro.py").write_text(INTERRUPTED)
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    code, out, error = run("presets", env={**ENVIRONMENT, "PYTHONPATH": path})
    assert (code, out, error) == (130, "", "sympformer: interrupted\n")


def test_the_package_enters_its_rooms_when_asked():
    code = (
        "import sys, sympformer as sf, sympformer.cli; assert 'torch' not in sys.modules; "
        "sf.build, sf.audit, sf.presets(), sf.causality, sf.dynamics; assert 'build' in dir(sf); "
        "print(all(hasattr(sf, name) for name in sf.__all__), hasattr(sf, 'nothing'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.stdout.strip() == "True False", done.stderr
