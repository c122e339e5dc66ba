"""Rule-based schedules for CPUs, with no search."""
