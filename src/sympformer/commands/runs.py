"""The command about the runs that are there."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tyro.conf import Positional

from sympformer.train.listing import listed, table


@dataclass(frozen=True)
class Runs:
    """List the runs below a folder: state, step, losses, and the command that goes on."""

    folder: Positional[Path] = Path("runs")
    """Where they are; folders in it are looked through, too."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """List them."""
        runs = listed(self.folder)
        if self.json:
            print(json.dumps([asdict(run) | {"folder": str(run.folder)} for run in runs], indent=2))
        else:
            table(runs, self.folder).print()
        return 0
