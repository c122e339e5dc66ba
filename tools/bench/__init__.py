"""Interleaved latency comparison of Tilewright with other runtimes.

>>> python -m tools.bench                            # all nets, all peers, docs/benchmarks/
>>> python -m tools.bench --quick --nets resnet18    # ours beside PyTorch eager, a table only
"""
