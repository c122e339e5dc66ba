"""How fast AMX kernels are: estimated anywhere, measured where the processor has AMX."""
