"""Tools for people who work on Tilewright; they are not part of the installed package."""
