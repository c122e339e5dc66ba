"""Compares code for ARM with references, on emulated processors."""
