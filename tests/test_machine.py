"""The machine: what is set for a while is put back, and what one step frees the next one finds."""

import subprocess
import sys

import pytest
import torch

from sympformer import InputError, machine

CODE = """
import resource, sys
import torch
from sympformer.machine import keep_freed_memory

if not keep_freed_memory():
    sys.exit(3)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    del [torch.ones(2**20) for _ in range(100)][:]

step()
step()
before = faults()
step()
print(faults() - before)
"""


def test_freed_memory_is_kept():
    """A step frees 100 blocks of 1,024 pages; in a process of its own, for it stays so."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("not the GNU C library")
    assert int(done.stdout) < 100 * 1024 / 10  # malloc may place a block or two elsewhere


def test_devices():
    assert machine.resolve_device("cpu") == torch.device("cpu")
    assert machine.resolve_device("auto").type in ("cpu", "cuda", "mps", "xpu")
    for name in ("nonsense", "cuda:77", "cpu:7"):
        with pytest.raises(InputError, match=f"{name}' is not available"):
            machine.resolve_device(name)


def test_precision_is_entered_again_and_again():
    a = torch.ones(2, 2)
    for dtype, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        context = machine.precision(machine.CPU, dtype)
        for _ in range(2):
            with context:
                assert (a @ a).dtype == expected
            assert (a @ a).dtype == torch.float32


def test_passes_are_in_float32_unless_cuda_has_bfloat16(monkeypatch):
    assert machine.default_dtype(machine.CPU) == "float32"
    for here, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, h=here: h)
        assert machine.default_dtype(torch.device("cuda")) == expected


@pytest.mark.parametrize("number", [None, 1, 3])
def test_threads_are_put_back(number):
    before = torch.get_num_threads()
    with machine.threads(number):
        assert torch.get_num_threads() == (number or before)
    assert torch.get_num_threads() == before


def test_seeds_are_put_back():
    before = torch.get_rng_state()
    with machine.seeded(5):
        drawn = torch.rand(3)
        with machine.seeded(6):
            torch.rand(3)
        rest = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(torch.cat([drawn, rest]), torch.cat([torch.rand(3), torch.rand(3)]))


def test_what_is_set_is_put_back_after_an_error():
    threads, state = torch.get_num_threads(), torch.get_rng_state()

    def fail():
        with machine.threads(threads + 1), machine.seeded(1):
            torch.rand(1)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_accelerator_s_seed_is_put_back():
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state()
    with machine.seeded(5, device):
        drawn = torch.rand(3, device=device)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.cuda.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3, device=device))


def test_the_environment_of_a_result():
    facts = machine.environment(machine.CPU)
    assert facts["threads"] == torch.get_num_threads()
    assert facts["torch"] == torch.__version__
    assert all(isinstance(facts[name], str) for name in ("command", "commit", "device", "python"))
