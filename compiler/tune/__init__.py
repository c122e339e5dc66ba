"""Searches for faster kernels and keeps what it finds as records.

`compiler.tune.session.tune` is the run, `compiler.tune.options.Tune` its options.
"""

from compiler.tune.options import Tune, TuneOptionError
from compiler.tune.result import TaskStatus, TimeSplit, TuneResult

__all__ = ["TaskStatus", "TimeSplit", "Tune", "TuneOptionError", "TuneResult"]
