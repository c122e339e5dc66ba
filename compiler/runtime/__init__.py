"""Runtime: run a compiled shared object on numpy or torch arrays.

Importing this package imports neither TVM nor torch; making an `Executor` imports TVM.
"""

from compiler.runtime.check import check_inputs, dtype_name
from compiler.runtime.executor import Executor
from compiler.runtime.threads import available_threads

__all__ = ["Executor", "available_threads", "check_inputs", "dtype_name"]
