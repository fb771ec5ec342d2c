"""Models as Hugging Face's: what `transformers` loads, generates with, trains and evaluates.

`pip install 'sympformer[hf]'`. After `import sympformer.hf`, the automatic classes know the kind
"sympformer"; a folder that `export` wrote brings its own two lines for those who trust its code.
"""

from sympformer.hf.require import require_transformers

require_transformers()

from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from sympformer.hf.cache import SympFormerCache  # noqa: E402
from sympformer.hf.config import SympFormerConfig  # noqa: E402
from sympformer.hf.export import export, import_model  # noqa: E402
from sympformer.hf.model import SympFormerForCausalLM, SympFormerOutput  # noqa: E402

AutoConfig.register(SympFormerConfig.model_type, SympFormerConfig, exist_ok=True)
AutoModelForCausalLM.register(SympFormerConfig, SympFormerForCausalLM, exist_ok=True)

__all__ = [
    "SympFormerCache",
    "SympFormerConfig",
    "SympFormerForCausalLM",
    "SympFormerOutput",
    "export",
    "import_model",
]
