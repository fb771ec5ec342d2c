"""The audit at the end of a run, as its summary holds it."""

from typing import Any

from sympformer.causality import audit
from sympformer.errors import one_line
from sympformer.model import CustomModel, LanguageModel


def audited(model: LanguageModel | CustomModel, length: int) -> dict[str, Any]:
    """What the audit found; of a user's own model also that it could not be made, and why.

    `passed` and `causal` are None then: what was not audited has not passed.
    """
    try:
        return audit(model, length).to_dict()
    except Exception as error:
        if not isinstance(model, CustomModel):
            raise
        return {"passed": None, "causal": None, "verdict": f"NOT AUDITED: {one_line(error)}"}
