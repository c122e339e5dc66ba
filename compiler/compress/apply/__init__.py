"""A plan, applied: a float32 Relax graph becomes one of integer operators and packed weights.

`precisions` says which function builds which operator in which precision, `weighted` and
`tensors` hold these functions, `quantizer` walks the graph, `facts` has what they need to know
about operators.
"""

from compiler.compress.apply.facts import MOVES, TABLES, average_window, clip_limits
from compiler.compress.apply.precisions import apply_plan
from compiler.compress.apply.quantizer import Applied, Constants

__all__ = ["MOVES", "TABLES", "Applied", "Constants", "apply_plan", "average_window", "clip_limits"]
