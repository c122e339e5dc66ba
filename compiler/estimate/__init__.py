"""Figures without the device: instructions counted in emulation, cycles estimated from them.

Emulated wall time says nothing and is never used.
"""

from compiler.estimate.profile import KernelCost, ModelCost, estimate_model

__all__ = ["KernelCost", "ModelCost", "estimate_model"]
