"""Sizes and speed of networks with compressed weights, beside our own float32."""
