"""A precision for each layer on Fashion-MNIST: the curve that docs/mixed-precision.md shows.

>>> python -m tools.mixed_precision --max-drop 0.0005
"""
