"""Hand a trained model on as a program of torch alone."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from sympformer.exporting import Format, exported, require_file, write_program
from sympformer.shown import visible
from sympformer.train import load_model


@dataclass(frozen=True)
class ExportProgram:
    """Write a trained model as a program that runs without this package (docs/export.md)."""

    run_folder: Positional[Path]
    """Run folder, or a .safetensors in it."""
    file: Positional[Path]
    """Where to write, FILE.pt2 or, as ONNX, FILE.onnx; what is there already is refused."""
    step: bool = False
    """The step of decoding, with its cache, instead of the pass over whole texts."""
    format: Format = "pt2"
    """pt2: torch.export. aoti: compiled ahead for this processor. onnx: needs the extra onnx."""

    def run(self) -> int:
        """Export."""
        require_file(self.file, self.format)
        program = exported(load_model(self.run_folder), "step" if self.step else "forward")
        write_program(program, self.file, self.format)
        print(f"written: {visible(str(self.file))}")
        return 0
