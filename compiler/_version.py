"""The one statement of Tilewright's version."""

__version__ = "0.1.0"
