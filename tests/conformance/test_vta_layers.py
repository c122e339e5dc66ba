"""Random layers on VTA: the bits of the NumPy reference, and no rule of the hardware broken.

`python -m tools.vta_conformance` runs as many as one likes and counts them.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.examples import some_of
from tests.support.vta_cases import CONFIGS, PUBLISHED, check

FEW = settings(
    max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@FEW
@given(source=st.randoms(use_true_random=False))
def test_random_regions(source):
    check(source, PUBLISHED)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_random_regions_of_other_configurations(config):
    for seed in range(some_of(3, 1)):
        check(random.Random(seed), config)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_regions(seed):
    """Two thousand layers in all, like the tool's."""
    for n in range(42):
        place = 42 * seed + n
        check(random.Random(place), CONFIGS[place % len(CONFIGS)])
