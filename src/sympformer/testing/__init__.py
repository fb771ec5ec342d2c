"""What a scheme, an attention or a model must hold, as tests for those who write their own.

Each check raises an `AssertionError` of one line that says what is wrong, and returns nothing. The
caller's random state is left as it is.
"""

from sympformer.testing.models import check_model
from sympformer.testing.oracles import check_oracle
from sympformer.testing.schemes import check_scheme

__all__ = ["check_model", "check_oracle", "check_scheme"]
