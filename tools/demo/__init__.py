"""The demonstration behind `make demo`: EfficientNet-Lite0 with its trained ImageNet weights.

>>> python -m tools.demo
"""
