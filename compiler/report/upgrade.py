"""Reports of older schema versions as documents of the newest one, before they are decoded.

A damaged document passes through as it is: decoding names what is wrong with it.
"""

from __future__ import annotations

from typing import Any


def upgrade(body: dict[str, Any], version: int) -> dict[str, Any]:
    """The fields of a report of schema `version` as those of the newest schema.

    Args:
        body: The document without ``schema`` and ``version``; it is not changed.
        version: Its schema version, from 1.
    """
    if version < 2:
        body = _from_1(body)
    # Version 3 adds devices that are not this machine; what it adds may be left out.
    return body


def _from_1(body: dict[str, Any]) -> dict[str, Any]:
    """Version 2 says where schedules come from; of version 1 only the fallbacks are known."""
    kernels = body.get("kernels")
    if not isinstance(kernels, list) or not all(isinstance(row, dict) for row in kernels):
        return body
    rows = [
        {
            "source": "fallback" if row.get("fallback") is True else "unknown",
            "tier": "",
            "record": "",
            "choice": None,
            "miss": "",
            **row,
        }
        for row in kernels
    ]
    return {
        "precision": "float32",
        "coverage": _coverage(rows, body),
        **body,
        "kernels": rows,
    }


def _coverage(rows: list[dict[str, Any]], body: dict[str, Any]) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["source"], []).append(row)
    total = sum(_value(row.get("flops")) for row in rows)
    found = [
        _row(
            source,
            len(members),
            100 * sum(_value(row.get("flops")) for row in members) / total if total else 0.0,
            sum(_value(row.get("share")) for row in members),
        )
        for source in ("fallback", "unknown")
        if (members := groups.get(source))
    ]
    overhead = _value(body.get("gap_share")) + _value(body.get("interruptions_share"))
    return [*found, _row("overhead", 0, 0.0, overhead)]


def _row(source: str, kernels: int, flops_share: float, share: float) -> dict[str, Any]:
    return {
        "source": source,
        "tier": "",
        "kernels": kernels,
        "flops_share": {"value": flops_share, "unit": "%", "label": "estimated"},
        "share": {"value": share, "unit": "%", "label": "measured"},
    }


def _value(figure: Any) -> float:
    value = figure.get("value") if isinstance(figure, dict) else None
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else 0.0


__all__ = ["upgrade"]
