"""Checks that CI runs beside the public checkers."""
