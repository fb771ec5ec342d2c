"""Prefix sums and the delta rule token by token, in C++ compiled at first use, on a processor.

A state of a head stays in the nearest cache, and nothing of it is kept for the backward pass
(`scan.cpp`): for narrow heads several times faster than chunks, whose operations are then too small
(docs/speed.md). The operator around it, with its derivatives, is that of the chunks
(`sympformer.attention.chunked`), and so is what runs where nothing can be compiled.
"""

import ctypes
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sympformer.attention.precision import wide
from sympformer.errors import InputError
from sympformer.libraries import load_library
from sympformer.torch_private import called_while_compiling, compiler_folder

LANES, WIDEST, AXES = 8, 256, 4
"""Numbers that are worked on side by side; of the widest heads the state would fill every cache;
axes of a tensor: batch, head, token, width."""
_NAMES = ("q", "k", "beta", "y", "decay", "read", "errors", "d_read", "d_errors")
_GRADIENTS = ("d_q", "d_k", "d_beta", "d_y", "d_decay")


class _Rows(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "head", "token")),
    )


class _Scan(ctypes.Structure):
    _fields_ = (
        *((n, ctypes.c_int64) for n in ("batch", "heads", "tokens", "width", "value_width")),
        *((n, ctypes.c_int64) for n in ("threads", "factors")),
        *((n, _Rows) for n in (*_NAMES, *_GRADIENTS)),
        *((n, ctypes.c_void_p) for n in ("state", "d_state")),
    )


class _Library:
    """The compiled code, made when it is first asked for; None if it cannot be."""

    code: Any = None
    asked = False
    lock = threading.Lock()


@called_while_compiling
def available() -> bool:
    """Whether this machine can compile C++. It says so, once, if not.

    Raises:
        InputError: torch runs no operator of one's own here: chunks could not run either.
    """
    with _Library.lock:  # a thread that comes while another compiles waits for it
        if not _Library.asked:
            _Library.code = _load()
            _Library.asked = True
        return _Library.code is not None


def _load() -> Any:
    folder = compiler_folder()
    try:
        return load_library(Path(__file__).with_suffix(".cpp"), Path(folder)).sympformer_scan
    except Exception as error:  # of torch, of the compiler, of a folder: all mean the same
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            "linear attention runs in plain torch, several times slower, as no C++ can be "
            f"compiled here ({reason[0]}): install g++ or clang",
            stacklevel=2,
        )
        return None


def suits(k: Tensor, y: Tensor) -> bool:
    """Whether keys `(..., n, d)` and values `(..., n, e)` are of a kind that this is made for."""
    d, e = k.shape[-1], y.shape[-1]
    if k.device.type != "cpu" or not (k.is_floating_point() and y.is_floating_point()):
        return False
    if k.ndim > AXES or d % LANES or e % LANES or max(d, e) > WIDEST:
        return False
    return k.numel() > 0 and y.numel() > 0 and k.shape[-2] > 1 and available()


def forward(
    given: Mapping[str, Tensor | None], state: Tensor, read: Tensor, errors: Tensor
) -> None:
    """Fill what is read and the errors, if they are not empty.

    Args:
        given: `q, k, beta, y, g`, as in `chunked`.
        state: before the first token, `(..., d, e)`.
        read: `(..., n, e)`.
        errors: `(..., n, e)`.
    """
    call = _Call(given, state)
    call.result("read", read)
    call.result("errors", errors)
    call.run(backward=False)


def backward(
    given: Mapping[str, Tensor | None],
    state: Tensor,
    errors: Tensor,
    d_read: Tensor | None,
    d_errors: Tensor | None,
    gradients: Mapping[str, Tensor],
) -> Tensor:
    """Fill the gradients of what is given, by the same names; return that of the state."""
    call = _Call(given, state)
    if given["beta"] is not None:
        call.argument("errors", errors)
    call.argument("d_read", d_read)
    call.argument("d_errors", d_errors)
    for name, gradient in gradients.items():
        call.result("d_" + ("decay" if name == "g" else name), gradient)
    d_state = torch.empty_like(call.state)
    call.scan.d_state = d_state.data_ptr()
    call.run(backward=True)
    return d_state.view(state.shape)


class _Call:
    """The arguments of one call; tensors of another kind are copied to and from one that fits."""

    def __init__(self, given: Mapping[str, Tensor | None], state: Tensor):
        k, y, g = given["k"], given["y"], given["g"]
        assert k is not None
        assert y is not None
        dtypes = [t.dtype for t in (*given.values(), state) if t is not None]
        self.dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        self.kept: list[Tensor] = []
        self.copied: list[tuple[Tensor, Tensor]] = []
        self.scan = _Scan()
        batch, heads, n = _four(k).shape[:3]
        sizes = (batch, heads, n, k.shape[-1], y.shape[-1], torch.get_num_threads())
        for (name, *_), size in zip(_Scan._fields_, sizes, strict=False):
            setattr(self.scan, name, size)
        self.scan.factors = 0 if g is None else g.shape[-1]
        for name in ("q", "k", "beta", "y"):
            self.argument(name, given[name])
        self.argument("decay", None if g is None else wide(g).exp())
        self.state = state.to(self.dtype).contiguous()
        self.scan.state = self.state.data_ptr()

    def argument(self, name: str, x: Tensor | None) -> None:
        if x is not None:
            x = _four(x).to(self.dtype)
            self._point(name, x if _has_whole_rows(x) else x.contiguous())

    def result(self, name: str, x: Tensor) -> None:
        if x.numel():
            fits = x.dtype == self.dtype and _has_whole_rows(x)
            made = x if fits else torch.empty(x.shape, dtype=self.dtype)
            if not fits:
                self.copied.append((x, made))
            self._point(name, _four(made))

    def run(self, backward: bool) -> None:
        if not available():
            raise InputError(
                "a graph that was made where C++ can be compiled runs where it cannot: make it "
                "anew here, or install g++ or clang"
            )
        width = torch.finfo(self.dtype).bits // 8
        sizes = ctypes.c_int64(width), ctypes.c_int64(int(backward))
        if not _Library.code(ctypes.byref(self.scan), *sizes):
            raise MemoryError("no memory for the states of linear attention")
        for x, made in self.copied:
            x.copy_(made)

    def _point(self, name: str, x: Tensor) -> None:
        self.kept.append(x)  # until the call is over
        strides = (stride * x.element_size() for stride in x.stride()[:3])
        setattr(self.scan, name, _Rows(x.data_ptr(), *strides))


def _four(x: Tensor) -> Tensor:
    """With axes of batch and head, if it has none."""
    return x.view((1,) * (AXES - x.ndim) + x.shape)


def _has_whole_rows(x: Tensor) -> bool:
    return x.shape[-1] == 1 or x.stride(-1) == 1
