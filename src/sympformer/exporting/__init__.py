"""Models as programs of torch alone: `torch.export`, AOTInductor, ONNX."""

from sympformer.exporting.program import What, exported
from sympformer.exporting.write import FORMATS, Format, about, require_file, write_program

__all__ = ["FORMATS", "Format", "What", "about", "exported", "require_file", "write_program"]
