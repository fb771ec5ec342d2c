"""Models of the type of GPT-2, as `transformers` names their config and their weights.

They are our `gpt` with biases and GPT-2's approximation of the GELU: the same function.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sympformer.errors import InputError, shown
from sympformer.model import ModelConfig

_ACTIVATIONS = {"gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh", "gelu": "gelu"}
_NEEDED: Mapping[str, Any] = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
"""What our layers are; also what a config means that does not say."""
_SIZES = {"vocab_size": 50257, "n_positions": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768}
_NAMES = (
    (r"^transformer\.", ""),
    (r"^wte\.", "inputs.usual.tokens."),
    (r"^wpe\.", "inputs.usual.positions."),
    (r"^ln_f\.", "norm."),
    (r"^h\.(\d+)\.ln_1\.", r"blocks.\1.attention.norm."),
    (r"^h\.(\d+)\.attn\.c_attn\.", r"blocks.\1.attention.oracle.qkv."),
    (r"^h\.(\d+)\.attn\.c_proj\.", r"blocks.\1.attention.oracle.out."),
    (r"^h\.(\d+)\.ln_2\.", r"blocks.\1.mlp.norm."),
    (r"^h\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.oracle.expand."),
    (r"^h\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.oracle.contract."),
)
_NO_WEIGHTS = re.compile(r"(^|\.)(lm_head\.weight|attn\.(masked_)?bias)$")
"""The head, which is the table of tokens, and masks that old files hold."""


def config(about: Mapping[str, Any]) -> ModelConfig:
    """Our config of the same architecture.

    Args:
        about: what `config.json` says.

    Raises:
        InputError: a variant of GPT-2 that our layers are not.
    """
    for name, needed in _NEEDED.items():
        if (value := about.get(name, needed)) != needed:
            raise InputError(
                f"{name} is {shown(value)}, and only models with {shown(needed)} are known here"
            )
    kind = about.get("activation_function", "gelu_new")
    if kind not in _ACTIVATIONS:
        raise InputError(
            f"activation_function is {shown(kind)}, and what is known here is "
            f"{', '.join(_ACTIVATIONS)}"
        )
    sizes = {name: about.get(name, default) for name, default in _SIZES.items()}
    return ModelConfig(
        block_size=sizes.pop("n_positions"),
        mlp=_ACTIVATIONS[kind],
        mlp_width=about.get("n_inner") or 0,
        bias=True,
        **sizes,
    )


def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names of the weights; the matrices of the blocks are transposed.

    What has no place in our model keeps its name, by which it is refused.
    """
    found = {}
    for name, tensor in tensors.items():
        if _NO_WEIGHTS.search(name):
            continue
        ours = name
        for pattern, becomes in _NAMES:
            ours = re.sub(pattern, becomes, ours)
        inside = ours.startswith("blocks.") and tensor.ndim == 2
        found[ours] = tensor.mT if inside else tensor
    return found
