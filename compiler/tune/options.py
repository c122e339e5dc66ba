"""What a tuning run may cost, and what it works on."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from targets.errors import TilewrightError

_DEFAULT_TRIALS = 2000
_MAX_TRIALS = 1_000_000
_UNITS_MINUTES = {"s": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:s|min|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h)")
_ADDRESS = re.compile(r"[\w.\-\[\]:]+:\d{1,5}")


class TuneOptionError(TilewrightError, ValueError):
    """An option of a tuning run has no sense."""

    exit_code = 2


@dataclass(frozen=True)
class Tune:
    """Options of a tuning run.

    Attributes:
        trials: Candidates to measure at most; None for no limit but `minutes`.
        minutes: Minutes to take at most; None for no limit but `trials`.
        records: Folder of the records that are used and written; None for the user's own.
        seed: Of all random choices of the search.
        tasks: A pattern (``*``, ``?``, ``[...]``) that the operator, the name or the workload
            of a task must match, in any letter case; several separated by commas; None for
            all tasks.
        batch: Candidates of one task that are built and measured together.
        workers: Processes that build candidates; None for the number that the machine suits.
        resume: Whether candidates that an earlier run measured on this machine count as
            measured; if not, everything is measured anew.
        tracker: Address ``host:port`` of a TVM RPC tracker; candidates run on its devices.
        device: Boards to run candidates on, by their names among `tilewright devices` or as
            ``user@host``, separated by commas. With `tracker`: the key of its devices.
        dask: Address of a Dask scheduler whose workers build.

    Raises:
        TuneOptionError: A value has no sense; nothing is limited; `tracker` is given without
            `device`.
    """

    trials: int | None = _DEFAULT_TRIALS
    minutes: float | None = None
    records: str | Path | None = None
    seed: int = 0
    tasks: str | None = None
    batch: int = 16
    workers: int | None = None
    resume: bool = True
    tracker: str | None = None
    device: str | None = None
    dask: str | None = None

    def __post_init__(self) -> None:
        _whole("trials", self.trials, 1, _MAX_TRIALS, optional=True)
        _whole("seed", self.seed, 0, 2**31 - 1)
        _whole("batch", self.batch, 1, 1024)
        _whole("workers", self.workers, 1, 1024, optional=True)
        minutes: Any = self.minutes
        if minutes is not None and (
            isinstance(minutes, bool)
            or not isinstance(minutes, int | float)
            or not math.isfinite(minutes)
            or minutes <= 0
        ):
            raise TuneOptionError(
                f"minutes must be a number above 0, not {minutes!r}",
                hint="leave it out for no limit of time",
            )
        if self.trials is None and minutes is None:
            raise TuneOptionError(
                "neither trials nor minutes limit the search",
                hint="give one of them, for example minutes=30",
            )
        if self.tracker is not None and self.device is None:
            raise TuneOptionError(
                "a tracker lends devices by their key, and none is named",
                hint="give device='key', too",
            )
        for name in ("tracker", "device", "dask", "tasks"):
            value: Any = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise TuneOptionError(f"{name} must be a text, not {value!r}")
        if self.tracker is not None and not _ADDRESS.fullmatch(self.tracker):
            raise TuneOptionError(
                f"tracker must be an address like 127.0.0.1:9190, not {self.tracker!r}"
            )
        records: Any = self.records
        if records is not None and (not isinstance(records, str | Path) or not str(records)):
            raise TuneOptionError(f"records must be the path of a folder, not {records!r}")
        resume: Any = self.resume
        if not isinstance(resume, bool):
            raise TuneOptionError(f"resume must be True or False, not {resume!r}")

    @classmethod
    def parse(cls, value: Tune | str | bool | None) -> Tune | None:
        """Options in one of their short forms; None for no search.

        Args:
            value: Options; ``True`` for the defaults; ``False`` or None for no search; a text
                of a duration (``"30m"``, ``"1h30m"``, ``"90s"``), a number of trials
                (``"2000"``), or both, separated by a comma. Durations alone leave the trials
                unlimited, trials alone the time.

        Raises:
            TuneOptionError: It is none of these.
        """
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if isinstance(value, Tune):
            return value
        if not isinstance(value, str):
            raise TuneOptionError(
                f"tune must be options, a text or a truth value, not {value!r}",
                hint='for example tune=Tune(minutes=30), tune="30m" or tune=True',
            )
        trials: int | None = None
        minutes: float | None = None
        for part in value.lower().replace(" ", "").split(","):
            if part.isdecimal() and trials is None:
                trials = int(part)
            elif _DURATION.fullmatch(part) and minutes is None:
                minutes = sum(
                    float(number) * _UNITS_MINUTES[unit]
                    for number, unit in _DURATION_PART.findall(part)
                )
            else:
                raise TuneOptionError(
                    f"tune={value!r} is no duration and no number of trials",
                    hint='write "30m", "2000" or "30m,2000"',
                )
        return cls(trials=trials, minutes=minutes)

    def selects(self, operator: str, name: str, workload: str) -> bool:
        """Whether the run works on a task of this operator, name and workload."""
        if self.tasks is None:
            return True
        patterns = [p for p in self.tasks.lower().replace(" ", "").split(",") if p]
        texts = [text.lower().replace(" ", "") for text in (operator, name, workload)]
        return any(fnmatchcase(text, p) for p in patterns for text in texts)

    def __str__(self) -> str:
        given = (
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"Tune({', '.join(given)})"


def _whole(name: str, value: Any, least: int, most: int, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise TuneOptionError(
            f"{name} must be a whole number from {least} to {most}, not {value!r}"
        )


__all__ = ["Tune", "TuneOptionError"]
