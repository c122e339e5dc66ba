"""Mixed precision: which layer computes in what, chosen by measured sensitivity and latency."""

from __future__ import annotations

from compiler.mixed.search import Budget, Found, Judge, Point, search_precisions

__all__ = ["Budget", "Found", "Judge", "Point", "search_precisions"]
