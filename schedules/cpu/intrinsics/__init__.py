"""Tensor intrinsics: what one machine instruction computes, and how to call it."""
