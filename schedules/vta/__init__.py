"""Lowering to VTA: layers, how each can be computed, and the emitter of programs."""
