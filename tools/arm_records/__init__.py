"""Tuning records of the six benchmark networks for ARM processors that are not here."""
