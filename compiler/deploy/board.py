"""Boards that are reached by SSH: what they are, and putting a deployment on them."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.deploy.folder import MODEL
from compiler.deploy.runner import PROGRAM, Tell
from compiler.errors import DeployError, DeviceError
from targets.cpuinfo import LINUX_TO_LLVM

_ADDRESS = re.compile(r"(?:(?P<user>[\w.\-]+)@)?(?P<host>[\w.\-]+)(?::(?P<folder>[\w./~\-]+))?")
#: Never ask for a password: a program that waits for one looks like one that hangs.
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
#: Notices within 15 s that a board has gone.
_KEEP_ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
_SECONDS = 600
#: What a full disk makes programs say.
_FULL = ("No space left on device", "Disk quota exceeded")
#: LLVM's feature names and Linux's names where they differ.
LINUX_FEATURES = {
    "neon": ("asimd", "neon"), "fp-armv8": ("fp", "vfpv4"), "crc": ("crc32",), "aes": ("aes",),
    "sha2": ("sha2",), "dotprod": ("asimddp",), "i8mm": ("i8mm",), "fullfp16": ("asimdhp",),
    "bf16": ("bf16",), "sve": ("sve",), "lse": ("atomics",), "rdm": ("asimdrdm",),
    "rcpc": ("lrcpc",), "vfp4": ("vfpv4",), "thumb2": ("thumb",),
}  # fmt: skip
_CPU_LINES = (
    "vendor_id", "cpu family", "model", "model name",
    "CPU implementer", "CPU architecture", "CPU part",
)  # fmt: skip
_PROBE = """
echo machine=$(uname -m); echo kernel=$(uname -r); echo cores=$(nproc)
echo memory_kib=$(awk '/MemTotal/{print $2}' /proc/meminfo)
echo features=$(awk -F: '/^(Features|flags)/{print $2; exit}' /proc/cpuinfo)
echo cpu=$(awk -F: '{gsub(/[ \t]+$/, "", $1)} $1 ~ /^(CPU_LINES)$/ && !seen[$1]++ {
  printf "%s:%s;", $1, $2}' /proc/cpuinfo)
echo model=$(tr -d '\\0' < /proc/device-tree/model 2>/dev/null)
echo governor=$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)
echo khz=$(cat /sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq 2>/dev/null)
mkdir -p FOLDER 2>/dev/null; echo free_kib=$(df -Pk FOLDER 2>/dev/null | awk 'NR==2{print $4}')
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a board says of itself.

    Attributes:
        machine: As ``uname -m`` prints it.
        kernel: Linux's release.
        model: The board's name, empty where the system has none.
        cores: Processors.
        memory_bytes: Main memory.
        free_bytes: Free space where deployments go.
        clock_hz: Highest clock; 0 where the system does not say.
        governor: How the clock is chosen; empty where the system does not say.
        features: Linux's names of the processor's features.
        cpu: Linux's lines about the processor, by their names.
    """

    machine: str
    kernel: str
    model: str
    cores: int
    memory_bytes: int
    free_bytes: int
    clock_hz: float
    governor: str
    features: frozenset[str] = field(default_factory=frozenset)
    cpu: Mapping[str, str] = field(default_factory=dict)

    def lacks(self, features: Any) -> tuple[str, ...]:
        """LLVM's features of these that the board does not have, sorted."""
        has = {n for f in self.features for n in (f, *LINUX_TO_LLVM.get(f, ()))}
        return tuple(
            sorted(
                name
                for name in features
                if not any(linux in has for linux in LINUX_FEATURES.get(name, (name,)))
            )
        )


@dataclass(frozen=True, slots=True)
class Board:
    """A board at an address.

    Attributes:
        host: Its name, with the user's in front: ``pi@board``.
        folder: Where deployments go, relative to the user's home.
    """

    host: str
    folder: str = "tilewright"

    @classmethod
    def parse(cls, address: str) -> Board:
        """Read ``[user@]host[:folder]``.

        Raises:
            DeployError: It is no address.
        """
        match = _ADDRESS.fullmatch(address)
        if match is None or match["host"].startswith("-"):
            raise DeployError(
                f"{address!r} is no address of a board",
                where="board",
                hint="give user@host, or user@host:folder",
            )
        host = f"{match['user']}@{match['host']}" if match["user"] else match["host"]
        return cls(host, match["folder"] or "tilewright")

    def words(self, command: str, forward: tuple[int, int] | None = None) -> list[str]:
        """The words that run a shell command there.

        Args:
            command: For its shell.
            forward: A port of this machine's loopback, and the one of the board's that it is
                to lead to for as long as the command runs.

        Raises:
            DeployError: There is no ssh program here.
        """
        program = shutil.which("ssh")
        if program is None:
            raise DeployError(
                "there is no ssh program", where=self.host, hint="install OpenSSH's client"
            )
        options = [*_OPTIONS, *_KEEP_ALIVE]
        if forward is not None:
            here, there = forward
            options += ["-o", "ExitOnForwardFailure=yes"]
            options += ["-L", f"127.0.0.1:{here}:127.0.0.1:{there}"]
        return [program, *options, self.host, command]

    def run(self, command: str, data: bytes = b"", seconds: float = _SECONDS) -> str:
        """Run a shell command there.

        Args:
            command: For its shell.
            data: Goes to its standard input.
            seconds: Longest time.

        Returns:
            What it printed.

        Raises:
            DeviceError: No connection, or the command failed.
            DeployError: There is no ssh program here.
        """
        words = self.words(command)
        try:
            done = subprocess.run(
                words, input=data, capture_output=True, timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DeviceError(
                f"it did not answer within {seconds:.0f} s",
                where=self.host,
                hint="check the board and its network, then try again",
            ) from error
        except OSError as error:
            raise DeployError(f"ssh failed: {error}", where=self.host) from error
        if done.returncode != 0:
            raise self.failure(done.returncode, done.stderr, command)
        return done.stdout.decode("utf-8", "replace")

    def failure(self, status: int, said: bytes, command: str) -> DeviceError:
        """Why a command did not do there.

        Args:
            status: Of the ssh program.
            said: On its standard error.
            command: What it was to run.
        """
        lines = [v.strip() for v in said.decode("utf-8", "replace").splitlines() if v.strip()]
        reason = (lines or [f"status {status}"])[-1][:300]
        if any(text in reason for text in _FULL):
            return DeviceError(
                f"there is no room on it: {reason}",
                where=f"{self.host}:{self.folder}",
                hint="free some space there, or name another folder: user@host:FOLDER",
            )
        if status != 255:  # ssh's own status for a failed connection
            return DeviceError(
                f"a command failed there: {reason}", where=self.host, hint=f"it was: {command[:80]}"
            )
        if "denied" in reason or "verification failed" in reason:
            return DeviceError(
                f"it refuses the connection: {reason}",
                where=self.host,
                hint=f"make `ssh {self.host}` work without a password first: ssh-copy-id "
                f"{self.host}",
            )
        return DeviceError(
            f"it cannot be reached: {reason}",
            where=self.host,
            hint="check its name, that it is on, and that `ssh` reaches it",
        )

    def probe(self) -> Facts:
        """Ask the board what it is.

        Raises:
            DeviceError: It cannot be reached, or answers nonsense.
        """
        probe = _PROBE.replace("CPU_LINES", "|".join(_CPU_LINES))
        text = self.run(probe.replace("FOLDER", shlex.quote(self.folder)))
        found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        try:
            return Facts(
                machine=found["machine"],
                kernel=found.get("kernel", ""),
                model=found.get("model", "").strip(),
                cores=int(found["cores"]),
                memory_bytes=int(found["memory_kib"]) * 1024,
                free_bytes=int(found.get("free_kib") or 0) * 1024,
                clock_hz=float(found.get("khz") or 0) * 1e3,
                governor=found.get("governor", ""),
                features=frozenset(found.get("features", "").split()),
                cpu=_cpu_lines(found.get("cpu", "")),
            )
        except (KeyError, ValueError) as error:
            raise DeviceError(
                f"its answer cannot be understood: {text[:200]!r}",
                where=self.host,
                hint="a board with Linux and a POSIX shell is needed",
            ) from error


def _cpu_lines(text: str) -> dict[str, str]:
    pairs = (part.partition(":") for part in text.split(";") if ":" in part)
    return {name.strip(): value.strip() for name, _, value in pairs}


def deploy_to_board(folder: Path, board: Board, tell: Tell | None = None) -> dict[str, Any]:
    """Copy a deployment to a board and run its self-test there.

    Args:
        folder: The deployment.
        board: Where to.
        tell: Called with each step.

    Returns:
        What the runner printed of its self-test: ``error``, ``tolerance``, ``same_bits``,
        ``passed``.

    Raises:
        DeviceError: The board cannot be reached, has another machine, lacks features, memory
            or space, or the self-test fails there. What was there stays until the new
            deployment is complete.
        DeployError: The folder is no deployment.
    """
    say = tell or (lambda _text: None)
    facts = read_model(folder)
    say(f"asking {board.host}")
    there = board.probe()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    check_board(there, facts, size, board.host)
    target = f"{board.folder}/{facts['name']}"
    say(f"copying {size / 1e6:.1f} MB to {board.host}:{target}")
    new, final = shlex.quote(f"{target}.new"), shlex.quote(target)
    board.run(
        f"rm -rf {new} && mkdir -p {new} && tar -xf - -C {new}",
        archive({str(path.relative_to(folder)): path for path in files}),
    )
    say("self-test")
    answer = board.run(f"cd {new} && ./{PROGRAM} . --selftest --json || [ $? = 5 ]")
    try:
        result: dict[str, Any] = json.loads(answer)["selftest"]
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(
            f"the runner's answer cannot be understood: {answer[:200]!r}", where=board.host
        ) from error
    if not result["passed"]:
        raise DeviceError(
            f"the self-test failed there: error {result['error']:g}, and "
            f"{result['tolerance']:g} is accepted",
            where=f"{board.host}:{target}.new",
            hint="this is a fault of Tilewright's or of the board; please report it",
        )
    board.run(f"rm -rf {final} && mv {new} {final}")
    return {**result, "folder": f"{board.host}:{target}"}


def time_on_board(
    board: Board,
    name: str,
    *,
    repeat: int,
    warmup: int,
    threads: int | None = None,
    profile: bool = False,
) -> dict[str, Any]:
    """Time a model that was deployed to a board.

    Args:
        board: Where it is.
        name: The model's.
        repeat: Inferences that are timed.
        warmup: Inferences before them.
        threads: Threads to run on; None for as many as it was compiled for.
        profile: Time every kernel, too, in as many more inferences.

    Returns:
        ``runs``, ``median_ms``, ``min_ms``, ``p90_ms`` and ``peak_memory_kib``, measured there;
        of a profile also ``run_ms`` and, for each call in order, name and median in ``kernels``.

    Raises:
        DeviceError: The board cannot be reached, or the model fails.
    """
    words = f"--bench {repeat} --warmup {warmup} --json"
    words += f" --threads {threads}" if threads else ""
    words += " --profile" if profile else ""
    folder = shlex.quote(f"{board.folder}/{name}")
    answer = board.run(f"cd {folder} && ./{PROGRAM} . {words}")
    try:
        result: dict[str, Any] = json.loads(answer)
        float(result["median_ms"])
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(
            f"the runner's answer cannot be understood: {answer[:200]!r}", where=board.host
        ) from error
    return result


def read_model(folder: Path) -> dict[str, Any]:
    """The facts that a deployment holds of its model.

    Raises:
        DeployError: It is no deployment.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        facts["name"], facts["machine"], facts["required_features"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeployError(
            "it is no deployment",
            where=str(folder),
            hint="make one: tilewright deploy net.tw --to FOLDER",
        ) from error
    return facts


def check_board(there: Facts, facts: dict[str, Any], size: int, where: str) -> None:
    """Refuse a board that a model cannot run on.

    Raises:
        DeviceError: Says why.
    """
    if there.machine != facts["machine"]:
        raise DeviceError(
            f"it is a {there.machine}, and the model was compiled for {facts['machine']}",
            where=where,
            hint="compile the model for this board",
        )
    if lacking := there.lacks(facts["required_features"]):
        raise DeviceError(
            f"its processor lacks {', '.join(lacking)}, which code for {facts['target']} may use",
            where=where,
            hint="compile for an older core, such as arm/rpi4 or arm/cortex-a53",
        )
    loaded = size + int(facts.get("prepared_bytes", 0))
    for what, has, takes in (
        ("space", there.free_bytes, size),
        ("memory", there.memory_bytes, loaded),
    ):
        if has < takes * 11 // 10:
            raise DeviceError(
                f"it has {has / 1e6:.0f} MB of {what}, and the deployment takes "
                f"{takes / 1e6:.0f} MB",
                where=where,
                hint="free some, or quantize the model (--quantize int8)",
            )


def archive(files: Mapping[str, Path]) -> bytes:
    """Files for ``tar -x``, by their names there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for name, path in files.items():
            packed.add(path, arcname=name, recursive=False)
    return buffer.getvalue()


__all__ = [
    "LINUX_FEATURES",
    "Board",
    "Facts",
    "archive",
    "check_board",
    "deploy_to_board",
    "read_model",
    "time_on_board",
]
