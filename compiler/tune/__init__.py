"""Searches for faster kernels and keeps what it finds as records."""
