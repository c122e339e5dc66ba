"""The kernel suite on every x86 feature level that this machine can run."""

from __future__ import annotations

import pytest

from tests.conformance.kernel_suite import KernelSuite

pytestmark = pytest.mark.compile


class TestHost(KernelSuite):
    target = "x86"


class TestGenericAvx2(KernelSuite):
    target = "x86/generic-avx2"


@pytest.mark.slow
class TestCascadeLake(KernelSuite):
    target = "x86/cascadelake"


@pytest.mark.slow
class TestSapphireRapids(KernelSuite):
    target = "x86/sapphirerapids"
