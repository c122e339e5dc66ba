"""Lower: from a Relax graph to scheduled TIR, in the order that `pipeline` lists."""

from compiler.lower.pipeline import lower

__all__ = ["lower"]
