"""Which record serves: tiers, the order inside one, and why none does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schedules.records import (
    Match,
    Measurement,
    Miss,
    Record,
    RecordStore,
    default_stores,
    find,
    neighbours,
    record_selector,
    refusal_by,
    user_records_folder,
)
from schedules.records.features import relevant_features
from schedules.records.match import shape_distance
from schedules.records.ranking import by_machine
from schedules.space import Decision, Space
from schedules.workload import Workload
from targets import get_target
from tests.unit.records.samples import DEFAULT, SAPPHIRE, conv, cpu, dense, record

ZEN4 = get_target("x86/zen4")
SPR = get_target("x86/sapphirerapids")
XEON = cpu("Intel(R) Xeon(R)", SAPPHIRE)
INT8 = conv(dtypes=("uint8", "int8", "int32"))
BF16 = conv(dtypes=("bfloat16", "bfloat16", "float32"))


def store_of(tmp_path: Path, *records: Record) -> RecordStore:
    store = RecordStore(tmp_path / "records")
    for one in records:
        store.add(one)
    return store


def host(name: str, cpu_id: str, target: str = "x86/zen4") -> Any:
    spec = get_target(target)
    return replace(spec, name="x86/host", extra={"cpu": name, "cpu_ids": [cpu_id]})


@pytest.mark.parametrize(
    ("spec", "one", "tier"),
    [
        (ZEN4, record(), "same CPU"),
        (host("AMD EPYC", "AuthenticAMD-25-17"), record(), "same CPU"),
        # A hypervisor's bare name does not tell generations apart.
        (host("AMD EPYC", "AuthenticAMD-25-1"), record(), "same features"),
        (host("AMD EPYC 9654", "AuthenticAMD-25-17"), record(), "same features"),
        (ZEN4, record(cpu=XEON), "same features"),
        (get_target("x86/generic-avx2"), record(target="x86/generic-avx2"), "same features"),
        # float32 has no use for AMX or VNNI.
        (SPR, record(), "same features"),
        (SPR, record(target="x86/skylake-avx512", cpu=XEON), "same CPU"),
        (SPR, record(INT8, target=SPR, cpu=XEON), "same CPU"),
        (SPR, record(BF16, target=SPR, cpu=XEON), "same CPU"),
    ],
)
def test_tiers(tmp_path: Path, spec: Any, one: Record, tier: str) -> None:
    found = find(one.workload, spec, [store_of(tmp_path, one)])
    assert found == Match(one, tier)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workload", "spec", "records", "why"),
    [
        (conv(), ZEN4, [], "no record for this workload"),
        (conv(), ZEN4, [record(dense())], "no record for this workload"),
        (
            conv(epilogue=("relu",)),
            ZEN4,
            [record()],
            "no record for this workload",
        ),
        (
            INT8,
            SPR,
            [record(INT8, target="x86/cascadelake")],
            "1 record, for other features: lacks amx-int8, amx-tile, avxvnni",
        ),
        (
            conv(),
            get_target("x86/generic-avx2"),
            [record(ns=n) for n in (1e5, 2e5)],
            (
                "2 records, all for other features: uses avx512dq, avx512f, avx512vl; "
                "vectors of 512 bits, not 256"
            ),
        ),
        (conv(), ZEN4, [record(threads=2)], "1 record, measured with 2 threads, not 1"),
        (
            conv(),
            get_target("arm/rpi4"),
            [record()],
            "1 record, for another family of targets (x86)",
        ),
        (
            conv(),
            ZEN4,
            [record(threads=2), record(ns=2e5, threads=2), record(target="x86/haswell")],
            (
                "3 records, none fits: 2 measured with 2 threads, not 1 | 1 for other features: "
                "lacks avx512dq, avx512f, avx512vl; vectors of 256 bits, not 512"
            ),
        ),
    ],
)
def test_a_miss_says_why(
    tmp_path: Path, workload: Workload, spec: Any, records: list[Record], why: str
) -> None:
    assert find(workload, spec, [store_of(tmp_path, *records)]) == Miss(why)


def test_an_estimate_of_a_kernel_that_never_ran_is_never_built_from(tmp_path: Path) -> None:
    guess = replace(record(), measurement=Measurement("estimated", (), 5.0), check=None)
    found = find(conv(), ZEN4, [store_of(tmp_path, guess)])
    assert found == Miss("1 record, estimated, not measured")
    assert neighbours(conv(), ZEN4, [store_of(tmp_path, guess)]) == []


def test_an_estimate_serves_where_nothing_was_measured(tmp_path: Path) -> None:
    guess = replace(record(), measurement=Measurement("estimated", (), 5.0))
    store = store_of(tmp_path, guess)
    assert find(conv(), ZEN4, [store]) == Match(guess, "estimated")
    # Another width of vectors.
    assert isinstance(find(conv(), get_target("x86/haswell"), [store]), Miss)
    assert [n.tier for n in neighbours(conv(), ZEN4, [store])] == ["estimated"]


@pytest.mark.parametrize("on", [cpu(), XEON])
def test_what_was_measured_goes_before_any_estimate(tmp_path: Path, on: Any) -> None:
    guess = replace(record(), measurement=Measurement("estimated", (), 0.5))
    slow = record(ns=1e6, cpu=on)
    found = find(conv(), ZEN4, [store_of(tmp_path, guess, slow)])
    assert isinstance(found, Match)
    assert found.record == slow
    assert found.tier in ("same CPU", "same features")
    machines = by_machine([guess, slow])
    assert sorted(machine.label for machine in machines) == ["estimated", "measured"]


def test_the_family_is_good_for_a_warm_start_only(tmp_path: Path) -> None:
    one = record(target="x86/haswell")
    store = store_of(tmp_path, one)
    assert isinstance(find(conv(), ZEN4, [store]), Miss)
    assert find(conv(), ZEN4, [store], warm_start=True) == Match(one, "same family")


def test_the_better_tier_goes_before_the_faster_record(tmp_path: Path) -> None:
    fast, near = record(ns=10_000.0, cpu=XEON), record(ns=90_000.0)
    assert find(conv(), ZEN4, [store_of(tmp_path, fast, near)]) == Match(near, "same CPU")


def test_inside_a_tier_the_likest_machine_goes_first(tmp_path: Path) -> None:
    spec = host("AMD EPYC 9654", "AuthenticAMD-25-17")
    zen4 = record(ns=50_000.0)
    zen5 = record(ns=40_000.0, cpu=cpu("AMD EPYC", "AuthenticAMD-26-2"))
    intel = record(ns=30_000.0, cpu=XEON, date="2026-12-01T00:00:00Z")
    store = store_of(tmp_path, zen4, zen5, intel)
    assert find(conv(), spec, [store]) == Match(zen4, "same features")
    store.prune(keep=1)
    store._delete([zen4])
    assert find(conv(), spec, [store]) == Match(zen5, "same features")


def test_all_stores_are_looked_at(tmp_path: Path) -> None:
    slow = store_of(tmp_path / "a", record(ns=90_000.0))
    fast = store_of(tmp_path / "b", record(ns=80_000.0))
    found = find(conv(), ZEN4, [slow, fast])
    assert isinstance(found, Match)
    assert found.record.median_ns == 80_000.0


def test_threads(tmp_path: Path) -> None:
    one, two = record(threads=1), record(threads=2)
    store = store_of(tmp_path, one, two)
    assert find(conv(), ZEN4, [store], threads=2) == Match(two, "same CPU")


def test_relevant_features() -> None:
    assert "amx-int8" not in relevant_features(conv(), SPR)
    assert "amx-int8" in relevant_features(INT8, SPR)
    assert "amx-bf16" in relevant_features(BF16, SPR)
    assert "aes" not in relevant_features(INT8, SPR)
    strange = conv(dtypes=("int4", "int4", "int32"))
    assert relevant_features(strange, SPR) == SPR.features


SPACE = Space("direct", (Decision("tile", ([4, 16], [6, 32])), Decision("unroll", (1, 2))), DEFAULT)


def offered(_workload: Workload, _spec: Any) -> list[Space]:
    return [SPACE, Space("im2col", (), {"algorithm": "im2col"})]


def test_the_selector_gives_a_choice(tmp_path: Path) -> None:
    choice = {"algorithm": "direct", "tile": [6, 32], "unroll": 2}
    one = record(choice=choice)
    select = record_selector([store_of(tmp_path, one)], spaces=offered)
    selection = select(conv(), ZEN4)
    assert selection.choice == choice
    assert (selection.tier, selection.record, selection.why) == ("same CPU", one.id, "")
    missed = select(dense(), ZEN4)
    assert (missed.choice, missed.record) == (None, "")
    assert missed.why == "no record for this workload"
    assert record_selector([])(conv(), ZEN4).why == "no record store was given"


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ({"algorithm": "winograd"}, "the algorithm 'winograd' is none of direct, im2col"),
        ({"algorithm": "direct", "tile": [6, 32]}, "missing or unknown decisions: unroll"),
        ({"algorithm": "direct", "tile": [7, 32], "unroll": 1}, "tile cannot be [7, 32]"),
        ({"algorithm": "direct", "tile": [6, 32], "unroll": True}, "unroll cannot be True"),
        ({"algorithm": "direct", "tile": [6.0, 32], "unroll": 1}, "tile cannot be [6.0, 32]"),
        ({"algorithm": "im2col", "code": "import os"}, "missing or unknown decisions: code"),
    ],
)
def test_a_choice_that_is_not_offered(tmp_path: Path, choice: dict[str, Any], why: str) -> None:
    store = store_of(tmp_path, record(choice=choice))
    selection = record_selector([store], spaces=offered)(conv(), ZEN4)
    assert selection.choice is None
    assert selection.why == f"1 record, with a choice that this release does not offer: {why}"
    assert refusal_by(offered(conv(), ZEN4), choice) == why


def test_nothing_is_offered() -> None:
    assert refusal_by([], {"algorithm": "direct"}) == (
        "the algorithm 'direct' is none of those for this workload"
    )


def test_the_next_record_serves_if_the_best_is_not_offered(tmp_path: Path) -> None:
    gone = record(ns=10_000.0, choice={"algorithm": "winograd"})
    good = record(ns=20_000.0, choice={"algorithm": "im2col"})
    worse = record(ns=30_000.0, choice={"algorithm": "im2col"})
    select = record_selector([store_of(tmp_path, gone, good, worse)], spaces=offered)
    assert select(conv(), ZEN4).record == good.id


def test_neighbours_are_the_nearest_shapes(tmp_path: Path) -> None:
    same = record()
    double = record(conv(128))
    far = record(conv(512))
    strided = record(
        conv(attributes={**conv().attributes, "strides": [2, 2]}, output=(1, 28, 28, 64))
    )
    store = store_of(tmp_path, same, double, far, strided, record(dense()))
    found = neighbours(conv(), ZEN4, [store])
    assert [n.record for n in found] == [same, double, strided, far]
    assert found[0].distance == 0.0
    assert found[1].distance == 3.0  # channels in and out of the weight, and of the output
    assert [n.record for n in neighbours(conv(), ZEN4, [store], limit=2)] == [same, double]


def test_neighbours_of_other_targets_come_later(tmp_path: Path) -> None:
    here, there = record(conv(128)), record(conv(128), cpu=XEON)
    old = record(conv(128), target="x86/haswell")
    arm = record(conv(128), target="arm/rpi5")
    found = neighbours(conv(), ZEN4, [store_of(tmp_path, old, there, here, arm)])
    assert [(n.record, n.tier) for n in found] == [
        (here, "same CPU"),
        (there, "same features"),
        (old, "same family"),
    ]


def test_only_the_best_of_a_workload_is_a_neighbour(tmp_path: Path) -> None:
    best = record(conv(128), ns=10_000.0)
    others = [record(conv(128), ns=ns) for ns in (20_000.0, 30_000.0)]
    store = store_of(tmp_path, best, *others)
    assert [n.record for n in neighbours(conv(), ZEN4, [store])] == [best]


def test_distances() -> None:
    assert shape_distance(conv(), conv()) == 0.0
    assert shape_distance(conv(), conv(epilogue=())) == 0.25
    assert shape_distance(conv(), BF16) == 6.0
    one_by_one = conv(weight=(64, 64, 1, 1))
    assert shape_distance(conv(), one_by_one) > shape_distance(conv(), conv(128))
    dynamic = conv(data=("batch", 56, 56, 64), output=("batch", 56, 56, 64))
    assert shape_distance(conv(), dynamic) == 1.0
    batched = replace(dense(), output=(8, 1, 1000))
    assert shape_distance(dense(), batched) == 4.0


def test_where_records_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_records_folder() == tmp_path / "tilewright" / "records"
    user, *shipped = default_stores()
    assert user.folder == user_records_folder()
    assert not user.read_only
    assert all(store.read_only for store in shipped)
    assert default_stores(tmp_path / "mine")[0].folder == tmp_path / "mine"
    assert not (tmp_path / "tilewright").exists(), "looking makes no folder"
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_records_folder() == tmp_path / "home/.local/share/tilewright/records"


def test_shipped_records_are_whole() -> None:
    """Every record that comes with this release reads, and nothing else lies among them."""
    for store in default_stores()[1:]:
        assert store.verify().problems == ()
        for one in store:
            assert one.provenance.spec.family == store.folder.name


def test_the_templates_own_choices_are_offered(tmp_path: Path) -> None:
    """A record of what is built without a search serves; a value beside its options does not."""
    from schedules.cpu.templates import default_choice

    choice = default_choice(conv(), ZEN4)
    store = store_of(tmp_path, record(choice=choice))
    selection = record_selector([store])(conv(), ZEN4)
    assert selection.choice == choice
    assert selection.tier == "same CPU"
    wrong = {**choice, "algorithm": "no such"}
    other = store_of(tmp_path / "other", record(choice=wrong))
    assert "'no such' is none of" in record_selector([other])(conv(), ZEN4).why


def test_integer_kernels_know_what_float32_took(tmp_path: Path) -> None:
    """The least of the operator's records in float32 on this CPU, whatever is fused behind it."""
    floats = conv(epilogue=())
    integers = replace(floats, dtypes=("uint8", "int8", "int32"), epilogue=("requantize",))
    choice = {"algorithm": "direct", "tile": [6, 32], "unroll": 2}
    store = store_of(
        tmp_path,
        record(integers, ns=70_000.0, choice=choice),
        record(replace(floats, epilogue=("add",)), ns=90_000.0, choice=choice),
        record(replace(floats, epilogue=("add", "clip")), ns=60_000.0, choice=choice),
        record(floats, ns=10_000.0, threads=2),
    )
    selection = record_selector([store], spaces=offered)(integers, ZEN4)
    assert (selection.median_ns, selection.float_ns) == (70_000.0, 60_000.0)
    plain = record_selector([store], spaces=offered)(replace(floats, epilogue=("add",)), ZEN4)
    assert (plain.median_ns, plain.float_ns) == (90_000.0, None)
