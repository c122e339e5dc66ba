"""What a report says of a device that is not the machine it was written on, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass

from .figure import Figure


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where the figures of a model for another machine come from.

    Attributes:
        basis: ``device``: times were measured on one. ``estimate``: instructions were counted in
            emulation, and times are estimated from them. ``peaks``: times are the least that the
            target's data allows, and nothing ran.
        estimator: The model of the processor that gave the cycles; empty without cycles.
        clock: Clock that cycles are turned into time by; assumed.
        instructions: Of one inference, in the model's own code; None if they were not counted.
        cycles: Of one inference; None if they were not estimated.
        time: These cycles at that clock.
        device: What was measured, in words; empty if nothing was.
        peak_memory: Largest resident memory of the whole process there, model, runtime and
            runner; None if nothing was measured.
        missing: What could not be found out, why, and what to do about it; empty if nothing is
            missing.
    """

    basis: str
    estimator: str
    clock: Figure
    instructions: Figure | None
    cycles: Figure | None
    time: Figure | None
    device: str = ""
    peak_memory: Figure | None = None
    missing: str = ""

    @property
    def whence(self) -> str:
        """One line on where the times come from."""
        if self.basis == "device":
            return f"measured on {self.device}"
        if self.basis == "estimate":
            clock = f"{self.clock.value / 1e3:.2f} GHz"
            return f"estimated by {self.estimator} at {clock}; no device was used"
        return "least times that the target's peak rates allow (estimated); nothing ran"


__all__ = ["Elsewhere"]
