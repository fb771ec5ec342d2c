"""Names of torch that are not public, each with what happens in a torch that lacks it.

No other module reaches for such names. Those of the compiler are imported when they are used: that
takes a second, and decides for good whether Triton is interpreted.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from sympformer.errors import InputError


def _find(path: str) -> Any:
    try:
        return attrgetter(path)(torch)
    except AttributeError:
        return None


_linear_pointwise = _find("ops.mkldnn._linear_pointwise")
_transforms = _find("_C._functorch.get_dynamic_layer_stack_depth")
_mapped = _find("_C._functorch.is_legacy_batchedtensor")
_told = _transforms is not None and hasattr(forward_ad, "_current_level")
has_onednn_product = _linear_pointwise is not None
"""Whether `onednn_product` is more than `a @ bᵀ`."""


def onednn_product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ bᵀ` of `(m, k)` and `(n, k)` in float32 on a processor, by oneDNN; not differentiable.

    Without the operator it is torch's own product.
    """
    if not has_onednn_product:
        return a @ b.mT
    return _linear_pointwise(a, b, None, "none", [], "")


def transformed(*tensors: Tensor) -> bool:
    """Whether torch differentiates or maps what runs now in ways that operators must know of.

    That is inside a transform of `torch.func` and inside a level of forward-mode differentiation,
    for any tensors. Where torch does not tell, it is seen in the tensors themselves: those of a
    transform own no memory, those of forward mode have a tangent. Compiled code is made anew for a
    transform that is around a part of it.

    Raises:
        InputError: in compiled code that is differentiated in forward mode: it has no tangents.
    """
    if _told:
        forward = forward_ad._current_level >= 0
        if forward and torch.compiler.is_compiling():
            raise InputError("compiled code has no forward mode: differentiate it uncompiled")
        return forward or _transforms() > 0
    return not torch.compiler.is_compiling() and any(_is_wrapped(t) for t in tensors)


def _is_wrapped(t: Tensor) -> bool:
    try:
        t.data_ptr()
    except RuntimeError:
        return True
    return forward_ad.unpack_dual(t).tangent is not None


def mapped(gradient: Tensor) -> bool:
    """Whether this is one of many gradients that torch pulls back at once, outside `torch.func`.

    That is `is_grads_batched` of `torch.autograd.grad`, and what is built on it.
    """
    if _mapped is None:
        return _is_wrapped(gradient)
    return _mapped(gradient)


def made_once(row: Tensor) -> Tensor:
    """`row`; without this the compiler makes it anew in each turn of a loop over it.

    The operator changes nothing. `import_made_once` registers it; without it, the row is made in
    the loop.
    """
    if not hasattr(torch.ops.prims, "inductor_force_stride_order"):
        return row
    return torch.ops.prims.inductor_force_stride_order(row, row.stride())


def import_made_once() -> None:
    """Register the operator of `made_once`, in a torch that has it."""
    with suppress(ImportError):
        importlib.import_module("torch._inductor.inductor_prims")


def register_container(
    kind: type, flatten: Callable[[Any], tuple[list[Any], Any]], build: Callable[..., Any]
) -> None:
    """Let torch find the tensors in a class of outputs, as data parallelism and its like do.

    Args:
        kind: the class.
        flatten: from one of its objects to the tensors, and all else.
        build: the way back.
    """
    register = _find("utils._pytree.register_pytree_node")
    if register is not None:
        register(kind, flatten, build, serialized_type_name=f"sympformer.{kind.__name__}")


def compiler_options(wanted: dict[str, Any]) -> dict[str, Any]:
    """Those of the wanted options that torch's compiler knows; it refuses any other."""
    known = importlib.import_module("torch._inductor").list_options()
    return {name: value for name, value in wanted.items() if name in known}


def require_in_program(holds: Any) -> None:
    """Let a program that is exported refuse numbers for which a condition does not hold.

    What follows may rely on it; a torch that lacks this names the condition, and does not export.
    """
    check = _find("_check")
    if check is not None:
        check(holds)


def compile_ahead(program: Any, file: Any, options: dict[str, Any], note: dict[str, str]) -> None:
    """Compile an exported program into a file that runs without Python, with a note in it."""
    module = importlib.import_module("torch._inductor")
    settings = {**compiler_options(options), "aot_inductor.metadata": note}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch, of torch
        module.aoti_compile_and_package(program, package_path=str(file), inductor_configs=settings)


def compiler_failure() -> type[Exception]:
    """What the compiler raises where it lacks something of this machine, or what that is derived
    from.
    """
    try:
        return importlib.import_module("torch._dynamo.exc").BackendCompilerFailed
    except (ImportError, AttributeError):
        return RuntimeError


def call_uncompiled_if(condition: Callable[[], bool], module: nn.Module) -> None:
    """Make a compiled module ask at each call whether to run as it is.

    In a torch whose modules keep their compiled form elsewhere, it does not ask.
    """
    compiled, plain = (getattr(module, n, None) for n in ("_compiled_call_impl", "_call_impl"))
    if compiled is not None and plain is not None:
        module._compiled_call_impl = lambda *args, **options: (plain if condition() else compiled)(
            *args, **options
        )


def compiler_is_loaded() -> bool:
    """Whether anything in this process can have been compiled."""
    return "torch._dynamo" in sys.modules


def hooks_are_seen() -> AbstractContextManager | None:
    """Inside, compiled code notices hooks that come after it; None where torch cannot do that."""
    return _patch("torch._dynamo.config", skip_nnmodule_hook_guards=False)


def passes_are_kept() -> AbstractContextManager:
    """Inside, a compiled pass may be differentiated more than once.

    Without the setting there is nothing to switch off, or torch says what is wrong itself.
    """
    return _patch("torch._functorch.config", donated_buffer=False) or nullcontext()


def dispatch_mode() -> type[Any]:
    """The class of what is asked in place of every operation inside it; torch fails without."""
    return importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode


def leaves(tree: Any) -> list[Any]:
    """What nested containers hold; torch fails without."""
    return importlib.import_module("torch.utils._pytree").tree_leaves(tree)


def shapes_only() -> AbstractContextManager:
    """Inside, new tensors have shapes but no numbers, and what is made of them is not computed.

    A torch that does not know of this computes it.
    """
    try:
        mode = importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode
    except (ImportError, AttributeError):
        return nullcontext()
    return mode(allow_non_fake_inputs=True)


def _patch(config: str, **settings: Any) -> AbstractContextManager | None:
    try:
        module = importlib.import_module(config)
    except ImportError:
        return None
    if not all(hasattr(module, name) for name in settings):
        return None
    return module.patch(**settings)


def called_while_compiling(function: Callable[[], bool]) -> Callable[[], bool]:
    """Let the compiler call a function and believe its answer, instead of compiling it.

    A torch that does not know of this compiles it, or says why it cannot.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def compiler_folder() -> str:
    """Where torch's compiler keeps what it has made.

    Raises:
        InputError: there is none: then torch loads no compiler, and runs no operator of one's own.
    """
    try:
        return importlib.import_module("torch._inductor.runtime.cache_dir_utils").cache_dir()
    except OSError as error:
        raise InputError(
            f"torch has no folder for compiled code ({error}): set TORCHINDUCTOR_CACHE_DIR to one "
            "that can be written to"
        ) from error


def build_library(source: str) -> str:
    """Compile C++ without torch's headers, with the compiler and the options that torch has.

    Raises:
        Exception: of any kind, where that fails.
    """
    builder = importlib.import_module("torch._inductor.cpp_builder")
    vectors = importlib.import_module("torch._inductor.cpu_vec_isa")
    options = builder.CppTorchDeviceOptions(vec_isa=vectors.invalid_vec_isa, device_type="cpu")
    folder, _, name = source.rpartition("/")
    build = builder.CppBuilder(
        name=name.partition(".")[0], sources=source, BuildOption=options, output_dir=folder
    )
    build.build()
    return build.get_target_file_path()
