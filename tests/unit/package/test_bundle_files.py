"""Writing a bundle and reading it back gives the same; everything foreign is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.errors import BundleError, FileError
from compiler.package import Bundle, archive, read_bundle, read_contents
from compiler.package import manifest as manifest_module
from compiler.package.archive import write_zip
from compiler.package.manifest import (
    GOLDEN,
    LIBRARY,
    MANIFEST,
    PARAMETERS,
    REPORT,
    Member,
    dump_manifest,
)
from compiler.package.store import dump_tensors
from compiler.stages import Prepared, TensorSpec

Make = Callable[..., Bundle]


def refused(path: Path) -> str:
    """The message that reading `path` is refused with."""
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    assert caught.value.hint
    assert str(path) in str(caught.value)
    return str(caught.value)


def write(path: Path, members: dict[str, bytes]) -> Path:
    with path.open("w+b") as file:
        write_zip(file, members)
    return path


def rewrite(bundle: Bundle, path: Path, **changed: bytes) -> Path:
    """A bundle with other bytes for some members, hashes and seal in order."""
    members = {name: data for name, data in bundle.members().items() if name != MANIFEST}
    members.update(changed)
    described = {name: Member.of(data) for name, data in members.items()}
    return write(path, {MANIFEST: dump_manifest(bundle.manifest, described), **members})


@pytest.mark.parametrize("folder", [False, True])
def test_round_trip(bundle: Bundle, tmp_path: Path, folder: bool) -> None:
    path = bundle.save(tmp_path / "net.tw", folder=folder)
    texts: list[str] = []

    def keep(text: str) -> Any:
        texts.append(text)

    again = read_bundle(path, read_report=keep)
    assert again.manifest == bundle.manifest
    assert list(again.parameters) == ["weight", "bias", "scale"]
    for name, array in bundle.parameters.items():
        assert again.parameters[name].dtype == array.dtype
        np.testing.assert_array_equal(again.parameters[name], array)
    np.testing.assert_array_equal(again.golden.outputs[0], bundle.golden.outputs[0])
    assert texts == ['{"figures": [1, 2]}']
    assert again.members().keys() == bundle.members().keys() - {REPORT}
    assert path.is_dir() == folder


def test_the_same_bundle_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    first, second = bundle.save(tmp_path / "1.tw"), bundle.save(tmp_path / "2.tw")
    assert first.read_bytes() == second.read_bytes()


def test_a_plain_zip_tool_can_read_it(zip_path: Path) -> None:
    with zipfile.ZipFile(zip_path) as plain:
        assert plain.testzip() is None
        manifest = json.loads(plain.read(MANIFEST))
    assert manifest["schema"] == 3
    assert manifest["manifest"]["target"]["name"] == "x86/generic-avx2"


def test_an_unpacked_zip_is_a_folder_bundle(bundle: Bundle, zip_path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(zip_path) as plain:
        plain.extractall(tmp_path / "unpacked")
    assert read_bundle(tmp_path / "unpacked").manifest == bundle.manifest


def test_bfloat16_and_odd_strides_survive(make: Make, tmp_path: Path) -> None:
    import ml_dtypes

    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    specs = (
        TensorSpec("turned", (4, 3), "float32"),
        TensorSpec("brain", (3, 4), "bfloat16"),
        TensorSpec("none", (0, 2), "uint8"),
        TensorSpec("yes", (), "bool"),
    )
    made = make(parameters=specs)
    bundle = Bundle(
        made.manifest,
        made._library,
        {
            "turned": values.T,
            "brain": values.astype(ml_dtypes.bfloat16),
            "none": np.empty((0, 2), np.uint8),
            "yes": np.array(True),
        },
        made.golden,
    )
    again = read_bundle(bundle.save(tmp_path / "net.tw"))
    np.testing.assert_array_equal(again.parameters["turned"], values.T)
    np.testing.assert_array_equal(again.parameters["brain"].astype(np.float32), values)
    assert again.parameters["none"].shape == (0, 2)
    assert again.parameters["yes"].shape == ()


# --- what it is at all


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file") as caught:
        read_bundle(tmp_path / "none.tw")
    assert "nothing by this name" in str(caught.value)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "net.tw").touch()
    assert "is empty" in refused(tmp_path / "net.tw")


def test_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "net.tw").write_bytes(b"\x80\x02}q\x00." * 100)
    assert "neither a zip file nor a folder" in refused(tmp_path / "net.tw")


def test_a_foreign_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.tw", "w") as other:
        other.writestr("data.pkl", b"...")
    assert "no manifest.json" in refused(tmp_path / "net.tw")


def test_a_foreign_manifest(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.tw", "w") as other:
        other.writestr(MANIFEST, '{"name": "a web page"}')
    assert "no manifest of a Tilewright bundle" in refused(tmp_path / "net.tw")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    assert "no manifest.json" in refused(tmp_path / "net")


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9, 0.999])
def test_truncated(zip_path: Path, keep: float) -> None:
    data = zip_path.read_bytes()
    zip_path.write_bytes(data[: int(len(data) * keep)])
    assert "truncated" in refused(zip_path)


# --- schema


def test_a_newer_schema(folder_path: Path) -> None:
    document = json.loads((folder_path / MANIFEST).read_bytes())
    document["schema"] = 7
    document["something_new"] = True
    (folder_path / MANIFEST).write_text(json.dumps(document))
    text = refused(folder_path)
    assert "schema version 7, this release reads up to 3" in text
    assert "update Tilewright" in text


def test_an_older_schema_does_not_know_where_schedules_come_from(folder_path: Path) -> None:
    document = json.loads((folder_path / MANIFEST).read_bytes())
    document["schema"] = 1
    for name in ("source", "tier", "record", "choice", "miss", "calls"):
        del document["manifest"]["kernels"][0][name]
    del document["manifest"]["precision"]
    document["sha256"] = manifest_module._seal(document)
    (folder_path / MANIFEST).write_bytes(manifest_module._canonical(document))
    manifest = read_bundle(folder_path).manifest
    assert manifest.precision == "float32"
    (kernel,) = manifest.kernels
    assert (kernel.source, kernel.record, kernel.choice, kernel.calls) == ("unknown", "", None, 1)


def test_an_older_schema_prepares_nothing(folder_path: Path) -> None:
    document = json.loads((folder_path / MANIFEST).read_bytes())
    document["schema"] = 2
    del document["manifest"]["prepared"]
    document["sha256"] = manifest_module._seal(document)
    (folder_path / MANIFEST).write_bytes(manifest_module._canonical(document))
    again = read_bundle(folder_path)
    assert again.manifest.prepared == ()
    assert again.sizes.keys() == {"parameters", "library"}


def test_what_is_prepared_survives(make: Make, tmp_path: Path) -> None:
    bundle = make()
    item = Prepared("weight", "prepare_weight", (16, 2), "int16")
    bundle.manifest = replace(bundle.manifest, prepared=(item,))
    again = read_bundle(bundle.save(tmp_path / "net.tw"))
    assert again.manifest.prepared == (item,)
    more = 2 * 16 * 2 - bundle.parameters["weight"].nbytes
    assert again.loaded_parameter_bytes == again.parameter_bytes + more
    assert again.sizes["parameters in memory"] == again.loaded_parameter_bytes


def test_where_schedules_come_from_survives(make: Make, tmp_path: Path) -> None:
    (kernel,) = make().manifest.kernels
    choice = {"algorithm": "direct", "tile": [6, 16], "pack": True}
    tuned = replace(
        kernel, source="record", tier="same CPU", record="ab" * 32, choice=choice, calls=3
    )
    missed = replace(kernel, name="other", source="default", miss="no record for this workload")
    path = make(kernels=(tuned, missed)).save(tmp_path / "net.tw")
    assert read_bundle(path).manifest.kernels == (tuned, missed)


@pytest.mark.parametrize("schema", [0, -1, True, "1", None, 1.5])
def test_a_nonsensical_schema(folder_path: Path, schema: object) -> None:
    document = json.loads((folder_path / MANIFEST).read_bytes())
    document["schema"] = schema
    (folder_path / MANIFEST).write_text(json.dumps(document))
    assert "schema version" in refused(folder_path)


@pytest.mark.parametrize(
    "text", ["", "[", "[1]", "null", "[" * 100_000, '{"a": NaN}', '{"a": 1e999}', "\xff"]
)
def test_a_manifest_that_is_no_document(folder_path: Path, text: str) -> None:
    (folder_path / MANIFEST).write_bytes(text.encode("latin-1"))
    assert MANIFEST in refused(folder_path)


def test_a_changed_manifest(folder_path: Path) -> None:
    document = json.loads((folder_path / MANIFEST).read_bytes())
    document["manifest"]["required_features"] = []
    dumped = json.dumps(document, sort_keys=True, separators=(",", ":"))
    (folder_path / MANIFEST).write_text(dumped)
    assert "changed after it was written" in refused(folder_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"outputs": ()}, "no outputs"),
        ({"threads": 0}, "threads"),
        ({"golden_tolerance": -1.0}, "golden_tolerance"),
        ({"golden_source": "elsewhere"}, "unknown source"),
        ({"inputs": (TensorSpec("x", (-1,), "float32"),)}, "negative"),
        ({"inputs": (TensorSpec("", (1,), "float32"),)}, "name is empty"),
        ({"inputs": (TensorSpec("x", (1,), "complex64"),)}, "unknown dtype 'complex64'"),
        ({"inputs": (TensorSpec("x", (1,), "bool"),) * 2}, "twice"),
        ({"parameters": (TensorSpec("w", ("n",), "bool"),)}, "no size"),
        ({"prepared": (Prepared("weights", "f", (1,), "int8"),)}, "no parameter 'weights'"),
        ({"prepared": (Prepared("weight", "f", (1,), "int8"),) * 2}, "twice"),
        ({"prepared": (Prepared("weight", "f o", (1,), "int8"),)}, "no name of a function"),
        ({"prepared": (Prepared("weight", "f", (-1,), "int8"),)}, "negative"),
        ({"prepared": (Prepared("weight", "f", (1,), "int7"),)}, "unknown dtype 'int7'"),
        ({"prepared": (Prepared("weight", "f", (1 << 40,), "int8"),)}, "too large"),
    ],
)
def test_a_manifest_that_makes_no_sense(
    make: Make, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    bundle = make()
    bundle.manifest = replace(bundle.manifest, **changes)
    assert says in refused(rewrite(bundle, tmp_path / "net.tw"))


def test_a_manifest_with_an_unknown_or_missing_field(tmp_path: Path, bundle: Bundle) -> None:
    from compiler.package import manifest as module

    data = bundle.members()
    for change, says in (
        (lambda d: d["manifest"].update(extra=1), "unknown field 'extra'"),
        (lambda d: d["manifest"].pop("name"), "missing field 'name'"),
        (lambda d: d["manifest"].update(threads="two"), "expected int, found str"),
        (lambda d: d["manifest"].update(threads=True), "expected int, found bool"),
        (lambda d: d["manifest"]["inputs"][0].update(shape=[None]), "int or str"),
    ):
        document = json.loads(data[MANIFEST])
        change(document)
        document["sha256"] = module._seal(document)
        path = write(tmp_path / "net.tw", {**data, MANIFEST: module._canonical(document)})
        assert says in refused(path)


# --- members, their names and links


@pytest.mark.parametrize("name", [LIBRARY, PARAMETERS, GOLDEN, REPORT])
def test_a_missing_member(bundle: Bundle, tmp_path: Path, name: str) -> None:
    members = bundle.members()
    del members[name]
    path = write(tmp_path / "net.tw", members)
    assert f"member '{name}' is missing" in refused(path)


def test_a_member_missing_from_manifest_and_zip(bundle: Bundle, tmp_path: Path) -> None:
    members = bundle.members()
    del members[MANIFEST], members[GOLDEN]
    described = {name: Member.of(data) for name, data in members.items()}
    members = {MANIFEST: dump_manifest(bundle.manifest, described), **members}
    assert f"member '{GOLDEN}' is missing" in refused(write(tmp_path / "net.tw", members))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../evil.so", "leads out of the bundle"),
        ("a/../../evil.so", "leads out of the bundle"),
        ("..\\evil.so", "leads out of the bundle"),
        ("/etc/passwd", "absolute path"),
        ("C:\\evil.so", "absolute path"),
        ("folder/module.so", "lies in a folder"),
        ("evil.so", "not declared"),
    ],
)
def test_a_member_that_does_not_belong(
    bundle: Bundle, tmp_path: Path, name: str, says: str
) -> None:
    path = write(tmp_path / "net.tw", {**bundle.members(), name: b"evil"})
    assert says in refused(path)
    assert not (tmp_path / "evil.so").exists()
    assert not (tmp_path.parent / "evil.so").exists()


def test_a_declared_member_of_no_known_name(bundle: Bundle, tmp_path: Path) -> None:
    assert "unknown member 'evil.so'" in refused(
        rewrite(bundle, tmp_path / "net.tw", **{"evil.so": b"evil"})
    )


def test_a_member_that_stands_there_twice(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "net.tw"
    with zipfile.ZipFile(path, "w") as doubled:
        for name, data in bundle.members().items():
            doubled.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            doubled.writestr(LIBRARY, b"another")
    assert f"member '{LIBRARY}' stands there twice" in refused(path)


def test_a_link_in_a_zip(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "net.tw"
    with zipfile.ZipFile(path, "w") as linked:
        for name, data in bundle.members().items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name == LIBRARY else 0o100644) << 16
            linked.writestr(info, data)
    assert f"member '{LIBRARY}' is a link" in refused(path)


def test_a_link_in_a_folder(folder_path: Path, tmp_path: Path) -> None:
    (folder_path / LIBRARY).rename(tmp_path / "elsewhere.so")
    (folder_path / LIBRARY).symlink_to(tmp_path / "elsewhere.so")
    assert f"member '{LIBRARY}' is a link" in refused(folder_path)


def test_something_else_in_a_folder(folder_path: Path) -> None:
    os.mkfifo(folder_path / "pipe")
    assert "member 'pipe' is no file" in refused(folder_path)
    (folder_path / "pipe").unlink()
    (folder_path / "sub").mkdir()
    assert "member 'sub' is no file" in refused(folder_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(bundle: Bundle, tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "net.tw", "w", method) as other:
        for name, data in bundle.members().items():
            other.writestr(name, data)
    assert "compressed in a way" in refused(tmp_path / "net.tw")


# --- sizes


def bomb(name: str, size: int, bundle: Bundle, path: Path) -> Path:
    """A bundle of which one member unpacks to `size` zeros, all else in order."""
    members = {**bundle.members(), name: bytes(size)}
    described = {key: Member.of(data) for key, data in members.items() if key != MANIFEST}
    members[MANIFEST] = dump_manifest(bundle.manifest, described)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for key, data in members.items():
            packed.writestr(key, data)
    return path


@pytest.mark.parametrize("name", [LIBRARY, PARAMETERS, GOLDEN, REPORT])
def test_a_bomb_is_not_unpacked(
    bundle: Bundle, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bomb(name, 8 << 20, bundle, tmp_path / "net.tw")
    read = []
    original = archive._Zip.read
    monkeypatch.setattr(
        archive._Zip, "read", lambda s, n, limit: (read.append(n), original(s, n, limit))[1]
    )
    assert "more than 100 times as much" in refused(path)
    assert read == [MANIFEST]


def test_a_manifest_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.tw", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(MANIFEST, b" " * (17 << 20))
    assert "16777216 are the most" in refused(tmp_path / "net.tw")


def test_a_member_over_its_limit(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LIMITS", {**archive.LIMITS, LIBRARY: 10})
    assert "10 are the most" in refused(bundle.save(tmp_path / "net.tw"))


def test_a_size_other_than_declared(folder_path: Path) -> None:
    with (folder_path / LIBRARY).open("ab") as file:
        file.write(b"x")
    assert "but the manifest says" in refused(folder_path)


def test_members_that_share_bytes(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "net.tw"
    with path.open("w+b") as file:
        write_zip(file, bundle.members())
        data = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as read:
        infos = {info.filename: info for info in read.infolist()}
        start = read.start_dir
    # Point the golden pair's entry of the directory at the parameters' bytes.
    at = start
    while data[at : at + 4] == b"PK\x01\x02":
        name_size, extra, comment = (
            int.from_bytes(data[at + o : at + o + 2], "little") for o in (28, 30, 32)
        )
        name = bytes(data[at + 46 : at + 46 + name_size]).decode()
        if name == GOLDEN:
            data[at + 42 : at + 46] = infos[PARAMETERS].header_offset.to_bytes(4, "little")
        at += 46 + name_size + extra + comment
    path.write_bytes(bytes(data))
    assert "overlaps" in refused(path)


# --- hashes


def test_a_changed_member_in_a_folder(folder_path: Path) -> None:
    data = bytearray((folder_path / LIBRARY).read_bytes())
    data[40] ^= 1
    (folder_path / LIBRARY).write_bytes(bytes(data))
    text = refused(folder_path)
    assert LIBRARY in text
    assert "SHA-256" in text


def test_a_zip_packed_by_another_program(bundle: Bundle, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.tw", "w") as other:
        for name, data in bundle.members().items():
            other.writestr(name, data)
    assert "no seal" in refused(tmp_path / "net.tw")


def test_bytes_in_front_or_behind(zip_path: Path) -> None:
    data = zip_path.read_bytes()
    for changed in (b"#!/bin/sh\n" + data, b"PK\x03\x04" + data, data + b"\0"):
        zip_path.write_bytes(changed)
        refused(zip_path)


# --- tensors


def test_parameters_that_are_no_safetensors(bundle: Bundle, tmp_path: Path) -> None:
    path = rewrite(bundle, tmp_path / "net.tw", **{PARAMETERS: b"\x80\x04pickle"})
    assert "no safetensors file" in refused(path)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"weight": np.zeros((2, 4), np.float32)}, "float32[2, 4]"),
        ({"weight": np.zeros((4, 2), np.float64)}, "float64[4, 2]"),
        ({"more": np.zeros(1, np.float32)}, "tensor 'more' is not in the manifest"),
        ({"weight": None}, "tensor 'weight' is missing"),
    ],
)
def test_parameters_other_than_declared(
    bundle: Bundle, tmp_path: Path, tensors: dict[str, Any], says: str
) -> None:
    changed = {k: v for k, v in {**bundle.parameters, **tensors}.items() if v is not None}
    path = rewrite(bundle, tmp_path / "net.tw", **{PARAMETERS: dump_tensors(changed)})
    assert says in refused(path)


def test_a_golden_pair_of_another_model(bundle: Bundle, tmp_path: Path) -> None:
    golden = {"input.0": np.zeros((3, 5), np.float32), "output.0": np.zeros((3, 2), np.float32)}
    path = rewrite(bundle, tmp_path / "net.tw", **{GOLDEN: dump_tensors(golden)})
    assert "input.0" in refused(path)


# --- this machine


def test_another_processor(make: Make, tmp_path: Path) -> None:
    path = make(required_features=("amx-tile-of-tomorrow", "sse2")).save(tmp_path / "net.tw")
    text = refused(path)
    assert "lacks amx-tile-of-tomorrow" in text
    assert "compile the model again" in text
    assert read_contents(path).manifest.required_features[0] == "amx-tile-of-tomorrow"


@pytest.mark.parametrize(("system", "machine"), [("Linux", "aarch64"), ("Darwin", "x86_64")])
def test_another_machine(make: Make, tmp_path: Path, system: str, machine: str) -> None:
    from compiler.package.manifest import Platform

    path = make(platform=Platform(system, machine)).save(tmp_path / "net.tw")
    assert f"compiled for {system} on {machine}" in refused(path)


def test_another_release_of_tvm(make: Make, tmp_path: Path) -> None:
    path = make(toolchain={"tvm": "0.1", "tilewright": "0.0.1"}).save(tmp_path / "net.tw")
    text = refused(path)
    assert "compiled with TVM 0.1" in text
    assert "install Tilewright 0.0.1" in text


@pytest.mark.parametrize("library", [b"", b"MZ" * 50, b"\x7fELF\x02\x01\x01" + bytes(80)])
def test_a_library_for_nothing(bundle: Bundle, tmp_path: Path, library: bytes) -> None:
    path = rewrite(bundle, tmp_path / "net.tw", **{LIBRARY: library})
    assert "no shared object for x86_64" in refused(path)


def test_no_code_is_loaded_by_reading(zip_path: Path) -> None:
    """Not even TVM is; a process that only reads stays small and fast."""
    import subprocess
    import sys

    program = (
        "import sys\nfrom compiler.package import read_bundle\n"
        f"print(read_bundle({str(zip_path)!r}).name)\n"
        "assert not {'tvm', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "tiny\n"), done.stderr


def test_a_copy_of_the_whole_is_fine(zip_path: Path, tmp_path: Path) -> None:
    shutil.copy(zip_path, tmp_path / "copy.tw")
    assert read_bundle(tmp_path / "copy.tw").golden.inputs[0].shape == (3, 4)
