"""Build: from scheduled TIR to a shared object."""

from compiler.build.build import build

__all__ = ["build"]
