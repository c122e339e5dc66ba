"""Compression: plans as data, calibration that makes them, and passes that apply them.

Light modules only are named here: `compiler.compress.plan` imports neither TVM nor torch.
"""
