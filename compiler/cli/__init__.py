"""The command line: `tilewright compile | run | report | targets | inspect`."""

from compiler.cli.app import main

__all__ = ["main"]
