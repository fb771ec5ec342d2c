"""Signals are noticed inside the context, and only there."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sympformer.signals import noticed

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_signal_leaves_a_note(capfd):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with noticed() as came:
        assert came() == 0
        signal.raise_signal(signal.SIGTERM)
        assert came() == signal.SIGTERM
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert "stopping after this step" in capfd.readouterr().err


def test_what_a_launcher_passes_on_is_no_second_signal(capfd):
    """From a terminal a process gets an interrupt itself, and once more from torchrun."""
    with noticed(says=False, again=60) as came:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # without `again` it would end the process
        assert came() == signal.SIGINT
    assert capfd.readouterr().err == ""


def test_elsewhere_than_in_the_main_thread_nothing_is_changed():
    def use():
        with noticed() as came:
            found.append((came(), signal.getsignal(signal.SIGINT)))

    found: list[object] = []
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [(0, signal.getsignal(signal.SIGINT))]


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noticed():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_saves_and_says_how_to_go_on(tmp_path, number, code):
    """A second process is refused meanwhile; afterwards the command that was named works."""
    sizes = "--n-layer 1 --n-head 1 --n-embd 8 --block-size 16 --batch-size 2 --eval-blocks 2 "
    sizes += "--train-tokens 3000 --valid-tokens 400 --eval-every 100000 --steps 100000"
    words = [sys.executable, "-m", "sympformer", "train"]
    run = {"cwd": tmp_path, "env": ENVIRONMENT, "text": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*words, "gpt", *sizes.split(), "--out", "run"], **run, **pipes)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size > 500):
        assert process.poll() is None
        time.sleep(0.02)
    second = subprocess.run([*words, "--resume", "run"], **run, capture_output=True)
    assert (second.returncode, "another process is using run" in second.stderr) == (2, True)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "is saved: `sympformer train --resume run` goes on" in err
    made = len(metrics.read_text().splitlines())
    done = subprocess.run(
        [*words, "--resume", "run", "--steps", str(made + 1)], **run, capture_output=True
    )
    assert done.returncode == 0, done.stderr
