"""How well estimated cycles rank kernels, where the truth can be measured: on this machine."""
