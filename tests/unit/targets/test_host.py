"""The host's description, from other machines' system files and from this one's."""

import json
import platform
from pathlib import Path

import pytest

from targets import (
    TargetError,
    cpu_name,
    get_target,
    host_features,
    list_targets,
    missing_features,
    parse_target,
)
from targets import host as host_module
from targets.cpuinfo import CpuFacts, read_cpu
from targets.host import CPU_FEATURES, describe_host, host_target, is_x86
from targets.measure import measure_copy_bandwidth, measure_x86_clock_hz

on_x86 = pytest.mark.skipif(not is_x86(), reason="the host of this test is no x86")

V3 = "sse2 pni ssse3 sse4_1 sse4_2 cx16 lahf_lm popcnt movbe abm bmi1 bmi2 avx f16c fma avx2"
SKYLAKE = f"{V3} aes pclmulqdq adx avx512f avx512bw avx512cd avx512dq avx512vl"
ICELAKE = (
    f"{SKYLAKE} avx512ifma avx512vbmi avx512_vbmi2 avx512_bitalg avx512_vnni "
    "avx512_vpopcntdq gfni sha_ni vaes vpclmulqdq"
)
SPR_AVX = f"{ICELAKE} avx512_bf16 avx512_fp16 avx_vnni"


def cpuinfo(
    flags: str,
    *,
    vendor: str = "GenuineIntel",
    name: str = "",
    family: int = 6,
    model: int = 1,
    sockets: int = 1,
    cores: int = 2,
    threads: int = 2,
) -> str:
    """The text of /proc/cpuinfo on such a machine."""
    blocks = []
    for i in range(sockets * cores * threads):
        socket, core = divmod(i % (sockets * cores), cores)
        blocks.append(
            f"processor\t: {i}\nvendor_id\t: {vendor}\ncpu family\t: {family}\n"
            f"model\t\t: {model}\nmodel name\t: {name}\ncpu MHz\t\t: 2000.000\n"
            f"physical id\t: {socket}\nsiblings\t: {cores * threads}\ncore id\t\t: {core}\n"
            f"cpu cores\t: {cores}\nflags\t\t: fpu {flags}\n"
        )
    return "\n".join(blocks) + "\n"


def machine(root: Path, text: str, *, cpufreq_khz: int | None = None) -> CpuFacts:
    """A machine with this cpuinfo, 4 GiB of memory, and three levels of cache."""
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(text)
    (root / "proc/meminfo").write_text("MemTotal:        4194304 kB\nMemFree: 1 kB\n")
    cpu = root / "sys/devices/system/cpu/cpu0"
    caches = [
        (1, "Data", "48K", 12, "0,4"),
        (1, "Instruction", "32K", 8, "0,4"),
        (2, "Unified", "2048K", 16, "0,4"),
        (3, "Unified", "105M", 15, "0-7"),
    ]
    for i, (level, kind, size, ways, shared) in enumerate(caches):
        folder = cpu / f"cache/index{i}"
        folder.mkdir(parents=True)
        for key, value in {
            "level": level, "type": kind, "size": size, "ways_of_associativity": ways,
            "coherency_line_size": 64, "shared_cpu_list": shared,
        }.items():  # fmt: skip
            (folder / key).write_text(f"{value}\n")
    if cpufreq_khz:
        (cpu / "cpufreq").mkdir()
        (cpu / "cpufreq/cpuinfo_max_freq").write_text(f"{cpufreq_khz}\n")
    return read_cpu(root)


def test_sapphire_rapids(tmp_path: Path) -> None:
    flags = f"{SPR_AVX} amx_tile amx_int8 amx_bf16"
    name = "Intel(R) Xeon(R) Platinum 8480+"
    spec = describe_host(machine(tmp_path, cpuinfo(flags, name=name, sockets=1, cores=4)))
    assert spec.tvm["mcpu"] == "sapphirerapids"
    assert "mattr" not in spec.tvm
    assert spec.has("amx-int8", "amx-bf16", "amx-tile", "avx512vnni")
    assert name in spec.title
    assert spec.cores == 4
    assert spec.peak_ops_per_cycle["int8"] == 2048
    assert spec.peak_ops_per_cycle["float32"] == 64
    assert (spec.vector_bits, spec.vector_datapath_bits) == (512, 0)
    l1, l2, l3 = spec.caches
    assert (l1.size_bytes, l1.ways, l1.shared_by_cores) == (48 << 10, 12, 1)
    assert (l2.size_bytes, l2.shared_by_cores) == (2 << 20, 1)
    assert (l3.size_bytes, l3.shared_by_cores) == (105 << 20, 4)
    assert spec.memory_bytes == 4 << 30


def test_sapphire_rapids_without_amx_gets_no_amx(tmp_path: Path) -> None:
    """A hypervisor that hides AMX: LLVM's sapphirerapids would use what is not there."""
    spec = describe_host(machine(tmp_path, cpuinfo(SPR_AVX)))
    assert spec.tvm["mcpu"] == "icelake-server"
    assert set(spec.tvm["mattr"]) == {"+avx512bf16", "+avx512fp16", "+avxvnni"}
    assert not any(f.startswith("amx") for f in spec.features)
    assert spec.peak_ops_per_cycle["int8"] == 256


def test_zen4(tmp_path: Path) -> None:
    text = cpuinfo(f"{ICELAKE} avx512_bf16 sse4a", vendor="AuthenticAMD", family=25, model=17,
                   name="AMD EPYC", threads=1)  # fmt: skip
    spec = describe_host(machine(tmp_path, text))
    assert spec.tvm["mcpu"] == "znver4"
    assert "AMD EPYC (Zen 4)" in spec.title
    assert (spec.vector_bits, spec.vector_datapath_bits) == (512, 256)
    assert spec.peak_ops_per_cycle["float32"] == 32
    assert spec.peak_ops_per_cycle["int8"] == 128
    assert spec.cores == 2


@pytest.mark.parametrize(
    ("flags", "vendor", "mcpu", "mattr"),
    [
        (f"{SKYLAKE} avx512_vnni", "GenuineIntel", "cascadelake", None),
        (SKYLAKE, "GenuineIntel", "skylake-avx512", None),
        (ICELAKE, "GenuineIntel", "icelake-server", None),
        (f"{V3} pclmulqdq aes", "GenuineIntel", "haswell", ["+aes"]),
        (f"{V3} pclmulqdq avx_vnni", "GenuineIntel", "haswell", ["+avxvnni"]),
        (V3, "GenuineIntel", "x86-64-v3", None),
        (f"{V3} sse4a aes pclmulqdq adx sha_ni vaes vpclmulqdq", "AuthenticAMD", "znver3", None),
        (f"{SKYLAKE} avx512_vnni", "CentaurHauls", "skylake-avx512", ["+avx512vnni"]),
        ("sse2 pni ssse3 sse4_1 sse4_2 cx16 lahf_lm popcnt", "GenuineIntel", "x86-64-v2", None),
        ("sse2 pni", "GenuineIntel", "x86-64", ["+sse3"]),
    ],
)
def test_chosen_cpu(
    tmp_path: Path, flags: str, vendor: str, mcpu: str, mattr: list[str] | None
) -> None:
    spec = describe_host(machine(tmp_path, cpuinfo(flags, vendor=vendor)))
    assert spec.tvm["mcpu"] == mcpu
    assert spec.tvm_dict().get("mattr") == mattr
    # Never more than the machine has, whatever was chosen.
    assert CPU_FEATURES[mcpu][1] | {m[1:] for m in mattr or ()} == spec.features


@pytest.mark.parametrize(
    ("family", "model", "bits"), [(0x17, 0x01, 128), (0x17, 0x31, 0), (0x18, 0x01, 128)]
)
def test_zen1_has_halved_units_and_zen2_has_not(
    tmp_path: Path, family: int, model: int, bits: int
) -> None:
    text = cpuinfo(f"{V3} sse4a", vendor="AuthenticAMD", family=family, model=model)
    assert describe_host(machine(tmp_path, text)).vector_datapath_bits == bits


def test_clock_and_its_source(tmp_path: Path) -> None:
    virtual = machine(tmp_path / "virtual", cpuinfo(V3))
    real = machine(tmp_path / "real", cpuinfo(V3), cpufreq_khz=3_800_000)
    spec = describe_host(real, measured_clock_hz=3.7e9, measured_bandwidth=2e10)
    assert (spec.clock_hz, spec.memory_bandwidth_bytes_per_s) == (3.7e9, 2e10)
    assert spec.extra["clock_source"].startswith("measured")
    assert spec.extra["memory_bandwidth_source"].startswith("measured")
    spec = describe_host(real)
    assert spec.clock_hz == 3.8e9
    assert spec.extra["clock_source"].startswith("reported")
    assert spec.extra["memory_bandwidth_source"].startswith("assumed")
    assert describe_host(virtual).clock_hz == 2.0e9


@pytest.mark.parametrize("text", ["", "nonsense", "processor\t: x\nflags\t\t:\ncpu MHz\t: ?\n"])
def test_a_system_that_tells_nothing_gets_the_baseline(tmp_path: Path, text: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    spec = describe_host(read_cpu(tmp_path))
    assert spec.tvm["mcpu"] == "x86-64"
    assert spec.features == {"sse", "sse2"}
    assert "baseline" in spec.status
    assert spec.extra["clock_source"].startswith("assumed")
    assert spec.caches
    assert parse_target(json.loads(json.dumps(spec.to_dict())), where="again") == spec


def test_no_files_at_all(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path)
    assert cpu.features == frozenset()
    assert cpu.cores == 0
    assert describe_host(cpu).cores >= 1


@on_x86
def test_this_machine() -> None:
    spec = host_target()
    assert spec.name == "x86/host"
    assert spec.features == host_features()
    assert missing_features(spec) == ()
    assert cpu_name() in spec.title
    assert parse_target(json.loads(json.dumps(spec.to_dict())), where="again") == spec


@on_x86
def test_missing_features_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "host_features", lambda: CPU_FEATURES["cascadelake"][1])
    spr = get_target("x86/sapphirerapids")
    assert {"amx-int8", "avx512bf16"} <= set(missing_features(spr))
    assert missing_features(get_target("x86/generic-avx2")) == ()


def test_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    host_target.cache_clear()
    with pytest.raises(TargetError, match="no 64-bit x86 but 'aarch64'"):
        get_target("x86")
    assert host_features() == frozenset()
    assert missing_features(get_target("x86/generic-avx2"))
    assert cpu_name()
    assert "x86/host" not in {s.name for s in list_targets()}


@on_x86
def test_measurements_are_possible_figures() -> None:
    clock = measure_x86_clock_hz(loops=20_000)
    assert clock is None or 1e8 < clock < 1e10
    bandwidth = measure_copy_bandwidth(1 << 20)
    assert bandwidth is not None
    assert 1e7 < bandwidth < 1e13


def test_no_memory_to_measure_with() -> None:
    assert measure_copy_bandwidth(1 << 62) is None
