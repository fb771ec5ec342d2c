"""The audit: does any output of a language model depend on a later token?

A model that sees the answer has a low loss and no use. Reading the code is not enough to exclude
it: a force that is the derivative of a masked total energy looks causal and is not (maths.md,
"Causality"). The audit measures, on a float64 copy of a module, or on any function of ids:

- influence: change one token; no earlier output may move;
- gradient: no output may have a gradient with respect to the embedding of a later token;
- prefix: the outputs of a prefix do not move when more tokens follow it;
- cache: decoding with the cache gives the outputs of one full pass;
- chunk: so does a cache that is continued by several tokens at once.

Fresh weights hide leaks (a gate that starts at zero, momentum that is still small), so everything
is repeated with the weights redrawn at several scales. docs/audit.md says how to give it models of
your own.
"""

from sympformer.causality.measure import audit
from sympformer.causality.report import AuditReport, Finding

__all__ = ["AuditReport", "Finding", "audit"]
