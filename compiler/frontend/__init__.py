"""Frontend: PyTorch models to Relax, and models named on the command line."""

from compiler.frontend.importer import import_model

__all__ = ["import_model"]
