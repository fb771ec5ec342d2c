"""The commands: each is its options, and what is done with them."""

from sympformer.commands.bench import Bench
from sympformer.commands.data import Data
from sympformer.commands.estimate import Estimate
from sympformer.commands.evaluate import Eval
from sympformer.commands.export import Export
from sympformer.commands.export_program import ExportProgram
from sympformer.commands.imported import Import
from sympformer.commands.lab import Lab
from sympformer.commands.models import Audit, Presets
from sympformer.commands.runs import Runs
from sympformer.commands.study import Compare, Report
from sympformer.commands.train import ExportWeights, Generate, Train

COMMANDS = {
    "presets": Presets,
    "train": Train,
    "compare": Compare,
    "eval": Eval,
    "generate": Generate,
    "export-weights": ExportWeights,
    "audit": Audit,
    "export": Export,
    "import": Import,
    "export-program": ExportProgram,
    "report": Report,
    "runs": Runs,
    "lab": Lab,
    "data": Data,
    "bench": Bench,
    "estimate": Estimate,
}
