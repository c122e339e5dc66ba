"""A number with its unit and how it was come by."""

from __future__ import annotations

from dataclasses import dataclass

#: How a figure was come by. A figure computed from others carries the weakest of their labels.
LABELS = ("measured", "counted", "emulated", "simulated", "estimated")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its unit and how it was come by.

    Attributes:
        value: The number; NaN and infinities are allowed (an error of a broken net).
        unit: ``ms``, ``B``, ``FLOP``, ``GFLOPS``, ``%``, ``dB``, ``calls``, ``instructions``,
            ``cycles`` or ``""`` for a plain number.
        label: One of `LABELS`.
    """

    value: float
    unit: str
    label: str

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ValueError(f"label must be one of {', '.join(LABELS)}, not {self.label!r}")

    @classmethod
    def measured(cls, value: float, unit: str) -> Figure:
        """A figure that was measured on the device itself."""
        return cls(float(value), unit, "measured")

    @classmethod
    def counted(cls, value: float, unit: str) -> Figure:
        """A figure that was counted exactly while another processor was emulated."""
        return cls(float(value), unit, "counted")

    @classmethod
    def estimated(cls, value: float, unit: str) -> Figure:
        """A figure computed from shapes, the memory plan or the target's data sheet."""
        return cls(float(value), unit, "estimated")

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}".rstrip()


__all__ = ["LABELS", "Figure"]
