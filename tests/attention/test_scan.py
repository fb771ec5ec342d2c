"""The scan in C++: where it runs, and what is said where it cannot."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from sympformer.attention import chunked, delta, forms, prefix_sums, scan
from sympformer.errors import InputError

from .test_delta import assert_same, problem, recurrence, results


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine where nothing can be compiled, and a fresh process on it."""

    def fail(source, folder):
        raise RuntimeError("no compiler found\nin many words")

    monkeypatch.setattr(scan._Library, "code", None)
    monkeypatch.setattr(scan._Library, "asked", False)
    monkeypatch.setattr(scan, "load_library", fail)


def test_it_runs_here():
    """Else the tests of the scan would be tests of chunks."""
    assert scan.available()
    given = problem(5)
    assert scan.suits(given["k"], given["y"])


@pytest.mark.parametrize(("d", "e"), [(8, 8), (16, 24), (24, 8), (40, 40), (64, 64), (96, 32)])
@pytest.mark.parametrize("channels", [0, 1, None])
@pytest.mark.parametrize("n", [2, 63, 64, 65, 130])
def test_every_width(d, e, channels, n):
    """Whole blocks of columns, parts of them, and whole and broken chunks of decays."""
    given = problem(n, d if channels is None else channels, d=d, e=e)
    assert_same(results(delta.scanned, given), results(recurrence, given))


def test_heads_may_lie_within_tokens():
    """As projections are laid out, in slices of one tensor; others are copied."""
    given = problem(20, heads=(2, 3))
    laid = {n: t.transpose(1, 2).contiguous().transpose(1, 2) for n, t in given.items()}
    laid["q"] = torch.cat([laid["q"], laid["k"]], -1)[..., : given["q"].shape[-1]]
    laid["y"] = given["y"].mT.contiguous().mT
    assert_same(results(delta.scanned, laid), results(delta.masked, given))


@pytest.mark.parametrize("shared", ["q", "k", "beta", "y", "decay", "state"])
def test_what_heads_share_is_broadcast(shared):
    """In every form: the one in C++ would read what lies behind the tensor."""
    given = problem(20)
    given[shared] = given[shared][:, :1]
    expected = results(delta.masked, given)
    for form in (delta.chunked, delta.scanned):
        assert_same(results(form, given), expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("q", (2, 3, 5, 8)),
        ("q", (2, 3, 20, 16)),
        ("beta", (2, 3, 20, 8)),
        ("y", (2, 3, 5, 16)),
        ("decay", (2, 3, 20, 4)),
        ("decay", (2, 3, 5, 1)),
        ("state", (2, 3, 16, 8)),
        ("state", (5, 3, 8, 16)),
    ],
)
@pytest.mark.parametrize("form", [delta.chunked, delta.scanned])
def test_shapes_that_do_not_fit_are_refused(form, name, shape):
    """Not written to memory that is somebody else's."""
    given = problem(20)
    given[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"must match|broadcast"):
        form(**given)


@pytest.mark.parametrize("form", [delta.chunked, delta.scanned])
@pytest.mark.parametrize("sizes", [{"d": 0}, {"e": 0}, {"heads": (2, 0)}, {"n": 0}])
def test_nothing_gives_nothing(form, sizes):
    given = problem(**{"n": 20, **sizes})
    for a, b in zip(results(form, given), results(delta.masked, given), strict=True):
        torch.testing.assert_close(a, b)


def test_mixed_dtypes():
    given = problem(20)
    given["q"], given["y"] = given["q"].float(), given["y"].bfloat16()
    exact = {name: t.double() for name, t in given.items()}
    got = [t.double() for t in results(delta.scanned, given)]
    for a, b in zip(got, results(recurrence, exact), strict=True):
        assert (a - b).norm() <= 0.01 * b.norm()


def test_what_does_not_suit_is_done_in_chunks():
    for options in ({"d": 4}, {"e": 5}, {"heads": (2, 1, 3)}):
        given = problem(20, **options)
        assert not scan.suits(given["k"], given["y"])
        assert_same(results(delta.scanned, given), results(recurrence, given))
    assert not scan.suits(torch.zeros(2, 0, 8), torch.zeros(2, 0, 8))
    assert not scan.suits(torch.zeros(3, 8, device="meta"), torch.zeros(3, 8, device="meta"))


def test_without_a_compiler(no_compiler):
    """Chunks, said once in one line; asked for by name, it is refused."""
    given = problem(20)
    expected = results(delta.chunked, given)
    with pytest.warns(UserWarning, match=r"no compiler found\): install g\+\+ or clang$"):
        got = results(delta.scanned, given)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
    with forms.recorded() as used:
        forms.weighted_sum(given["q"], given["k"], given["y"])
    assert {line.split()[0] for line in used} == {"chunked"}
    with pytest.raises(InputError, match="install g"), forms.using("scan"):
        pass


def test_threads_share_heads():
    """Each head is one thread's: their number changes nothing, to the last bit."""
    given = {n: t.float() for n, t in problem(100, heads=(3, 5)).items()}
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(results(delta.scanned, given))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_it_is_part_of_a_compiled_graph():
    given = [t.float() for t in problem(20, carried=False).values()]
    assert scan.available()

    def form(q, k, beta, y, g):
        return forms.delta_rule(q, k, beta, y, decay=g)[1] * 2 + forms.weighted_sum(q, k, y)

    compiled = torch.compile(form, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), form(*given))


def test_sums_of_many_tokens_stay_as_exact_as_the_recurrence():
    q, k, y = (problem(3000, 0, heads=(1,), carried=False)[n].float() for n in ("q", "k", "y"))
    truth = prefix_sums.chunked(q.double(), k.double(), y.double())
    error = prefix_sums.scanned(q, k, y).double() - truth
    assert error.norm() <= 2e-6 * truth.norm()


def test_a_thread_that_asks_while_another_compiles_waits(monkeypatch):
    """It was told that nothing can be compiled, and ran in chunks."""
    code, begun, go = scan._Library.code, threading.Event(), threading.Event()

    def slow(source, folder):
        begun.set()
        go.wait(60)
        return type("Library", (), {"sympformer_scan": code})

    monkeypatch.setattr(scan._Library, "code", None)
    monkeypatch.setattr(scan._Library, "asked", False)
    monkeypatch.setattr(scan, "load_library", slow)
    told = []
    threads = [threading.Thread(target=lambda: told.append(scan.available())) for _ in range(3)]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(60)
    assert told == [True] * 3


FIRST = """
import torch
from sympformer.attention import forms, scan
compiled = torch.compile(forms.weighted_sum, backend="eager", fullgraph=True)
with forms.recorded() as used:
    compiled(*torch.ones(3, 1, 1, 20, 8))
assert {line.split()[0] for line in used} == {"scan"}, used
"""


def test_a_compiled_graph_that_is_the_first_to_ask_has_it():
    subprocess.run([sys.executable, "-c", FIRST], check=True)


def of_a_graph(given):
    """The operator as a graph holds it, that an earlier process made: nobody asked what suits."""
    state = torch.zeros(2, 3, 8, 16)
    return chunked._chunked(given["q"], given["k"], None, given["y"], None, state, 0)[0]


def test_a_graph_of_an_earlier_process_loads_it(monkeypatch):
    given = {n: t.float() for n, t in problem(20).items()}
    expected = prefix_sums.scanned(given["q"], given["k"], given["y"])
    monkeypatch.setattr(scan._Library, "code", None)
    monkeypatch.setattr(scan._Library, "asked", False)
    assert torch.equal(of_a_graph(given), expected)


@pytest.mark.filterwarnings("ignore:linear attention runs in plain torch")
def test_a_graph_from_elsewhere_says_what_it_lacks(no_compiler):
    given = {n: t.float() for n, t in problem(20).items()}
    with pytest.raises(InputError, match="make it anew here"):
        of_a_graph(given)


LITTLE = """
import re, resource
from pathlib import Path
import torch
from sympformer.attention import chunked, scan
q, g, state = torch.ones(1, 1, 2**14, 256), torch.zeros(1, 1, 2**14, 1), torch.zeros(1, 1, 256, 256)
assert scan.available()
found = chunked._chunked(q, q, None, q, g, state, 0)
size = re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
resource.setrlimit(resource.RLIMIT_AS, (int(size) * 1024 + 64 * 2**20,) * 2)
chunked._chunked_backward(None, q, None, q, g, state, *found[1:], None, q, 0)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for its memory")
def test_too_little_memory_is_an_exception():
    """It ended the process: no exception may leave a thread of a team."""
    done = subprocess.run([sys.executable, "-c", LITTLE], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].startswith("MemoryError: no memory for the states")
