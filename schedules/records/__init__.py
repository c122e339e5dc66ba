"""Tuning records: choices that were measured, kept as data, and found again for a target."""

from schedules.records.errors import RecordError, RecordWarning, StoreError
from schedules.records.match import Match, Miss, Neighbour, Tier, find, neighbours
from schedules.records.record import (
    Baseline,
    Check,
    Cpu,
    Measurement,
    Provenance,
    Record,
    choice_of,
    target_facts,
)
from schedules.records.selector import (
    default_stores,
    record_selector,
    refusal_by,
    user_records_folder,
)
from schedules.records.store import Merged, Problem, RecordStore, Verified

__all__ = [
    "Baseline",
    "Check",
    "Cpu",
    "Match",
    "Measurement",
    "Merged",
    "Miss",
    "Neighbour",
    "Problem",
    "Provenance",
    "Record",
    "RecordError",
    "RecordStore",
    "RecordWarning",
    "StoreError",
    "Tier",
    "Verified",
    "choice_of",
    "default_stores",
    "find",
    "neighbours",
    "record_selector",
    "refusal_by",
    "target_facts",
    "user_records_folder",
]
