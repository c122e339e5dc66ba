"""Errors of the pipeline: one hierarchy, each with its stage, target and a hint.

Exit codes of the command line: 1 internal or unspecified, 2 wrong usage, 3 target,
4 model, 5 inputs, 6 bundle, 7 files and disk, 8 verification or a required check failed,
9 an accelerator does not answer or refuses.
"""

from __future__ import annotations

import shlex

from targets.errors import (
    TargetError,
    TargetNotAvailableError,
    TilewrightError,
    UnknownTargetError,
)


class CompileError(TilewrightError):
    """A stage of the pipeline could not do its work.

    Args:
        message: What is wrong.
        stage: Name of the stage, one of `compiler.stages.STAGES`.
        target: Name of the target compiled for, if one was chosen already.
        where: Module path, file or input that is at fault.
        hint: What the user can do.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: str,
        target: str | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.stage = stage
        self.target = target
        at = stage if target is None else f"{stage} [{target}]"
        super().__init__(message, where=at if where is None else f"{at}: {where}", hint=hint)


class ModelError(CompileError):
    """The model is empty, holds NaN weights, cannot be read or does not export."""

    exit_code = 4


class UnsupportedOperatorError(ModelError):
    """The model uses operators that cannot be imported; all of them are named at once."""


class NotTunedError(CompileError):
    """Less of the model runs on tuning records than was required.

    Args:
        message: How much does, and which kernels do not, with reasons.
        target: Name of the target compiled for.
        arguments: Arguments of ``tilewright tune`` after the model that would tune the rest.
        share: Share of the FLOPs of kernels that can be tuned that runs on records, 0 to 1.
        misses: Names of the kernels without a record, most FLOPs first.
        model: The model as the command line names it.
    """

    exit_code = 8

    def __init__(
        self,
        message: str,
        *,
        target: str,
        arguments: tuple[str, ...],
        share: float,
        misses: tuple[str, ...],
        model: str = "MODEL",
    ) -> None:
        self.arguments = arguments
        self.share = share
        self.misses = misses
        command = shlex.join(["tilewright", "tune", model, *arguments])
        super().__init__(
            message,
            stage="lower",
            target=target,
            hint=f'tune it: `{command}`, or compile with tune="30m" (--tune 30m)',
        )

    def named(self, model: str, *options: str) -> NotTunedError:
        """The same error with the model in the hint's command as the user gave it.

        Args:
            model: As on the command line.
            options: Further arguments, such as its inputs.
        """
        return NotTunedError(
            self.message,
            target=self.target or "",
            arguments=(*options, *self.arguments),
            share=self.share,
            misses=self.misses,
            model=model,
        )


class PlanError(TilewrightError):
    """A compression plan is damaged, contradicts itself or belongs to another model."""

    exit_code = 4


class CalibrationError(TilewrightError):
    """Calibration data are missing, do not fit the model, or give no ranges."""

    exit_code = 5


class TrainingError(TilewrightError):
    """A model cannot be trained for a plan, or its training diverged or has no data."""

    exit_code = 5


class InputError(TilewrightError):
    """Inputs do not fit the model: number, names, shapes or dtypes."""

    exit_code = 5


class BundleError(TilewrightError):
    """A bundle is damaged, truncated, foreign, newer than this release or for another CPU."""

    exit_code = 6


class FileError(TilewrightError):
    """A file cannot be written or read: permissions, a full disk, a missing folder."""

    exit_code = 7


class DeployError(TilewrightError):
    """A model cannot be made ready for a device."""

    exit_code = 9


class EmulationError(TilewrightError):
    """Code cannot be run in emulation, or its cost cannot be estimated."""

    exit_code = 9


class VerificationError(TilewrightError):
    """A self-test or a required check failed."""

    exit_code = 8


class DeviceError(TilewrightError):
    """An accelerator cannot be opened, has too little memory, or refuses a program."""

    exit_code = 9


class DeviceTimeoutError(DeviceError):
    """An accelerator did not answer in time."""


__all__ = [
    "BundleError",
    "CalibrationError",
    "CompileError",
    "DeployError",
    "DeviceError",
    "DeviceTimeoutError",
    "EmulationError",
    "FileError",
    "InputError",
    "ModelError",
    "NotTunedError",
    "PlanError",
    "TargetError",
    "TargetNotAvailableError",
    "TilewrightError",
    "TrainingError",
    "UnknownTargetError",
    "UnsupportedOperatorError",
    "VerificationError",
]
