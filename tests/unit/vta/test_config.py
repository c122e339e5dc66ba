"""Configurations: what follows from them, and which cannot be."""

from __future__ import annotations

import pytest

from targets import TargetError, get_target, list_targets, parse_target
from targets.vta import VtaConfig, vta_config


@pytest.mark.parametrize("spec", list_targets("vta"), ids=lambda s: s.name)
def test_targets_describe_the_published_configuration(spec) -> None:
    config = vta_config(spec)
    assert config.shape() == VtaConfig().shape()
    assert config.name == spec.name
    assert config.clock_hz == spec.clock_hz
    assert 2 * config.macs_per_cycle == spec.peak_ops_per_cycle["int8"]
    assert (config.inp_bytes, config.wgt_bytes, config.acc_bytes, config.out_bytes) == (
        16, 256, 64, 16,
    )  # fmt: skip
    assert (config.uop_index_bits, config.inp_index_bits) == (13, 11)
    assert (config.wgt_index_bits, config.acc_index_bits) == (10, 11)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"block": 12}, "block is 12, which is no power of two"),
        ({"batch": 0}, "batch is 0, which is no power of two"),
        ({"batch": 1.0}, "batch must be a whole number, not 1.0"),
        ({"inp_buffer_bytes": 3000}, "inp_buffer_bytes is 3000, which is no power of two"),
        ({"wgt_buffer_bytes": 128}, "wgt_buffer_bytes is 128, too small for one weight tile"),
        ({"acc_buffer_bytes": 32}, "too small for one accumulator tile of 64"),
        ({"inp_buffer_bytes": 8}, "too small for one input tile of 16"),
        ({"uop_buffer_bytes": 2, "uop_depth": 0}, "too small for one micro-op of 4"),
        ({"wgt_buffer_bytes": 256}, "room for a single weight tile"),
        ({"inp_bits": 4}, "inp_bits is 4, which is not supported"),
        ({"acc_bits": 16}, "acc_bits is 16"),
        ({"bus_bits": 16}, "bus_bits is 16"),
        ({"clock_hz": 0.0}, "clock_hz is 0"),
        ({"uop_buffer_bytes": 1 << 16}, "GEMM's fields up to iter_in would take 65 bits"),
        ({"wgt_buffer_bytes": 1 << 19}, "a micro-op would take 33 bits"),
        ({"inp_buffer_bytes": 1 << 21}, "instructions can address 65536"),
        ({"inp_buffer_bytes": 1 << 17, "acc_buffer_bytes": 1 << 17, "wgt_buffer_bytes": 1 << 16},
         "ALU's second word would take 68 bits"),
        ({"uop_depth": 16384}, "uop_depth is 16384, more than the 8192"),
    ],
)  # fmt: skip
def test_impossible(values: dict[str, int], says: str) -> None:
    with pytest.raises(TargetError, match=says) as caught:
        VtaConfig(**values)  # type: ignore[arg-type]
    assert caught.value.where == "VTA configuration vta"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"log_blok": 4}, "VTA's configuration has no 'log_blok'"),
        ({"log_block": 4, "block": 16}, "block is given twice"),
        ({"log_block": -1}, "log_block must be a whole number from 0 to 40"),
        ({"block": 17}, "block is 17, which is no power of two"),
        ({"log_wgt_buff_size": 7}, "too small for one weight tile"),
        ({"instruction_bits": 64}, "VTA's instructions have 128"),
    ],
)
def test_a_target_file_is_checked_when_it_is_read(extra: dict[str, int], says: str) -> None:
    data = {**get_target("vta/pynq").to_dict(), "name": "vta/mine", "extra": extra}
    with pytest.raises(TargetError, match=says) as caught:
        parse_target(data, where="mine.toml")
    assert "mine.toml" in str(caught.value) or "vta/mine" in str(caught.value)


def test_an_own_configuration() -> None:
    data = {**get_target("vta/pynq").to_dict(), "name": "vta/mine", "extra": {"block": 32}}
    config = vta_config(parse_target(data, where="mine.toml"))
    assert (config.wgt_bytes, config.wgt_index_bits) == (1024, 8)
    assert VtaConfig.from_dict(config.to_dict(), where="dict") == config


def test_other_families_are_refused() -> None:
    with pytest.raises(TargetError, match="arm/rpi4 is no VTA"):
        vta_config(get_target("arm/rpi4"))
