"""The root of Tilewright's error hierarchy.

It lives in the lowest layer, so that every layer can raise an error that the
command line and `compile()` show in the same way.
"""

from __future__ import annotations


class TilewrightError(Exception):
    """What was wrong, where, and what to do about it.

    Args:
        message: What is wrong, in one sentence, with the offending value.
        where: The place it was found at: a stage, a file, a module path, an input's name.
        hint: What the user can do about it.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = where
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        text = self.message if self.where is None else f"{self.where}: {self.message}"
        return text if self.hint is None else f"{text}\n  hint: {self.hint}"


class TargetError(TilewrightError):
    """A target's description is unknown, damaged or impossible."""

    exit_code = 3


class UnknownTargetError(TargetError):
    """No target has this name; the message lists near matches."""


class TargetNotAvailableError(TargetError):
    """The target is described, but its back end is not there yet."""
