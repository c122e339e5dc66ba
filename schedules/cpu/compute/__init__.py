"""Tensor expressions whose form suits the schedule rules: packed, blocked, row by row."""
