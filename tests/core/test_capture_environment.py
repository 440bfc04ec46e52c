"""The environment as it is captured here, and what is said about two that differ."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import venv
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.events import EnvironmentCaptured
from ledger.objects import ObjectStore
from ledger.read.environment import differences
from ledger.record.capture.environment import capture_environment

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore((tmp_path / "objects").as_uri(), scratch=tmp_path / "scratch")


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


# --- capturing


def test_this_interpreter_and_machine(objects: ObjectStore) -> None:
    found = capture_environment([], {}, objects)
    assert found.failures == {}
    assert found.python["version"] == platform.python_version()
    assert found.packages["pydantic-core"] == version("pydantic_core")
    assert found.system["kernel"] == platform.release()
    assert found.cpu["usable"] == found.determinism["default_threads"] == len(os.sched_getaffinity(0))
    assert found.cpu["model"]
    assert found.system["memory_bytes"] > 10**8


def test_the_lock_is_an_object(objects: ObjectStore) -> None:
    found = capture_environment([], {}, objects)
    assert found.lock is not None
    lines = objects.get_bytes(found.lock).decode().splitlines()
    assert lines == sorted(lines, key=lambda line: line + "\n")
    assert f"pytest=={version('pytest')}" in lines
    assert dict(line.split("==") for line in lines) == found.packages


def test_variables_that_matter_and_no_secret(objects: ObjectStore) -> None:
    environ = {
        "OMP_NUM_THREADS": "3",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TORCH_HOME": "/x",
        "LC_ALL": "C",
        "HF_TOKEN": "hf_secretsecretsecret",
        "NVIDIA_API_KEY": "nv-secret-1",
        "TORCH_EXTRA": "with nv-secret-1 inside",
        "NCCL_URL": "http://me:hunter22@host/",
        "SHELL": "/bin/sh",
    }
    found = capture_environment([], {}, objects, environ=environ)
    assert found.variables == {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "LC_ALL": "C",
        "NCCL_URL": "http://[withheld]@host/",
        "NVIDIA_API_KEY": "[withheld]",
        "OMP_NUM_THREADS": "3",
        "TORCH_EXTRA": "with [withheld] inside",
        "TORCH_HOME": "/x",
    }
    assert found.determinism["OMP_NUM_THREADS"] == "3"
    assert "LC_ALL" not in found.determinism
    assert "secret" not in found.model_dump_json()


def test_packages_are_those_of_the_commands_interpreter(objects: ObjectStore, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    info = next((tmp_path / "env").glob("lib/python*/site-packages")) / "Only_There-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Only_There\nVersion: 1.5\n")
    python = tmp_path / "env/bin/python"
    script = executable(tmp_path / "tool", f"#!{python}\n")
    through_env = executable(tmp_path / "other", "#!/usr/bin/env python\n")
    environ = {"PATH": str(python.parent)}
    for command in ([str(python), "x.py"], ["python", "x.py"], [str(script)], ["./other"], [str(through_env)]):
        found = capture_environment([], {}, objects, command=command, directory=tmp_path, environ=environ)
        assert found.packages == {"only-there": "1.5"}, command
        assert found.python["prefix"] == str(tmp_path / "env")
        assert found.failures == {}


@pytest.mark.parametrize("command", [[sys.executable, "x.py"], ["sh", "x.sh"], ["no-such-command"], []])
def test_otherwise_they_are_our_own(objects: ObjectStore, command: list[str]) -> None:
    assert capture_environment([], {}, objects, command=command).packages["pytest"] == version("pytest")


def test_packages_beside_the_installation_count(objects: ObjectStore, tmp_path: Path) -> None:
    info = tmp_path / "extra/Extra-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Extra\nVersion: 2.0\n")
    found = capture_environment([], {}, objects, directory=tmp_path, environ={"PYTHONPATH": "extra"})
    assert found.packages["extra"] == "2.0"


def test_an_interpreter_that_cannot_be_asked_is_told(objects: ObjectStore, tmp_path: Path) -> None:
    broken = executable(tmp_path / "python3", "#!/bin/sh\necho no library >&2\nexit 3\n")
    found = capture_environment([], {}, objects, command=[str(broken)])
    assert "could not be asked: no library" in found.failures["interpreter"]
    assert found.packages["pytest"]


def test_accelerators_as_nvidia_smi_tells_them(objects: ObjectStore, tmp_path: Path) -> None:
    executable(
        tmp_path / "nvidia-smi",
        "#!/bin/sh\necho '0, NVIDIA H100 80GB HBM3, GPU-1, 550.54.15, 81559, 9.0'\n"
        "echo '1, NVIDIA GB10, GPU-2, 550.54.15, [N/A], 12.1'\n",
    )
    found = capture_environment([], {}, objects, environ={"PATH": str(tmp_path)})
    first, second = found.accelerators
    assert first == {
        "kind": "cuda",
        "index": 0,
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": "GPU-1",
        "driver": "550.54.15",
        "memory_bytes": 81559 * 2**20,
        "compute_capability": "9.0",
    }
    assert second["memory_bytes"] is None


@pytest.mark.parametrize("script", ["echo driver mismatch; exit 9", "echo 'only, two'"])
def test_a_failing_nvidia_smi_is_told(objects: ObjectStore, tmp_path: Path, script: str) -> None:
    executable(tmp_path / "nvidia-smi", f"#!/bin/sh\n{script}\n")
    found = capture_environment([], {}, objects, environ={"PATH": str(tmp_path)})
    assert found.accelerators == ()
    assert "accelerators" in found.failures


def test_plugins_add_sections_and_a_bad_one_costs_no_other(objects: ObjectStore) -> None:
    sections = [
        {"libraries": {"nccl": "2.21"}, "determinism": {"deterministic": True}},
        {"nonsense": {"a": 1}},
        {"packages": {"x": object()}},
        {"libraries": {"bad": object()}},
        {"accelerators": [{"kind": "tpu"}], "packages": {"conda-thing": "1"}},
    ]
    found = capture_environment(sections, {"broken": "ImportError: x"}, objects)
    assert found.libraries == {"nccl": "2.21"}
    assert found.determinism["deterministic"] is True
    assert "default_threads" in found.determinism
    assert found.accelerators[-1] == {"kind": "tpu"}
    assert found.packages["conda-thing"] == "1"
    assert found.packages["pytest"]
    assert found.failures["broken"] == "ImportError: x"
    assert len(found.failures) == 4


def test_a_failure_goes_on_record_without_its_secrets(objects: ObjectStore) -> None:
    failures = {"broken": "cannot log in to https://me:hunter2secret@host with hunter3secret99"}
    told = capture_environment([], failures, objects, environ={"MY_API_KEY": "hunter3secret99"}).failures["broken"]
    assert told.startswith("cannot log in to https://")
    assert "hunter" not in told


def test_the_probe_runs_under_any_python_that_is_here(objects: ObjectStore) -> None:
    system = "/usr/bin/python3"
    if not os.path.exists(system):
        pytest.skip("no other Python here")
    told = subprocess.run(
        [system, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True
    )
    found = capture_environment([], {}, objects, command=[system])
    assert found.failures == {}
    assert found.python["version"] == told.stdout.strip()


# --- differences

BASE = EnvironmentCaptured(
    python={"version": "3.11.7", "implementation": "CPython", "prefix": "/a"},
    packages={"torch": "2.13.0", "numpy": "2.4.6", "zeta": "1", "click": "8.5.1"},
    lock="0" * 64,
    system={"os": "Debian 12", "kernel": "6.1", "libc": "glibc 2.36", "memory_bytes": 16},
    cpu={"model": "EPYC", "flags": ["avx2", "avx512f"], "usable": 2},
    accelerators=({"name": "H100", "uuid": "1", "driver": "550"}, {"name": "H100", "uuid": "2", "driver": "550"}),
    libraries={"torch": {"version": "2.13.0", "build": "a\nb"}, "nccl": "2.21"},
    determinism={"threads": 2, "deterministic_algorithms": True, "variables": {"MKL_CBWR": "AVX2"}},
    variables={"OMP_NUM_THREADS": "2", "LANG": "C"},
)


def test_nothing_differs_from_itself_nor_from_another_host_or_serial_number() -> None:
    assert differences(BASE, BASE) == []
    elsewhere = BASE.model_copy(
        update={
            "python": {**BASE.python, "prefix": "/b"},
            "accelerators": tuple({**d, "uuid": "x"} for d in BASE.accelerators),
            "lock": hashlib.sha256().hexdigest(),
        }
    )
    assert differences(BASE, elsewhere) == []


def test_most_important_first() -> None:
    other = EnvironmentCaptured(
        python={"version": "3.12.1", "implementation": "CPython"},
        packages={"torch": "2.14.0", "numpy": "2.4.7", "alpha": "1", "click": "8.5.2"},
        system={"os": "Ubuntu", "kernel": "6.1", "libc": "glibc 2.36", "memory_bytes": 16},
        cpu={"model": "Xeon", "flags": ["avx2", "amx_tile"], "usable": 2},
        accelerators=({"name": "H100", "driver": "560"},),
        libraries={"torch": {"version": "2.14.0", "build": "a\nc"}, "nccl": "2.22"},
        determinism={"threads": 1, "deterministic_algorithms": False, "variables": {}},
        variables={"LANG": "C", "TZ": "UTC", "ATEN_CPU_CAPABILITY": "default"},
    )
    assert differences(BASE, other) == [
        "threads 2 → 1",
        "deterministic algorithms True → False",
        "ATEN_CPU_CAPABILITY not set → default",
        "MKL_CBWR AVX2 → not set",
        "OMP_NUM_THREADS 2 → not set",
        "torch 2.13.0 → 2.14.0",
        "numpy 2.4.6 → 2.4.7",
        "nccl 2.21 → 2.22",
        "torch.build differs",
        "python 3.11.7 → 3.12.1",
        "cpu model EPYC → Xeon",
        "cpu flags -avx512f +amx_tile",
        "accelerators 2 x H100 → H100",
        "accelerator driver 550 → 560",
        "alpha not installed → 1",
        "click 8.5.1 → 8.5.2",
        "zeta 1 → not installed",
        "TZ not set → UTC",
        "system os Debian 12 → Ubuntu",
    ]


def test_what_only_a_training_process_can_see_is_no_difference_before_it_runs() -> None:
    before_it_runs = BASE.model_copy(update={"determinism": {"default_threads": 2}, "libraries": {}})
    assert differences(BASE, before_it_runs) == []


def test_a_variable_is_told_once() -> None:
    there = BASE.model_copy(
        update={
            "variables": {**BASE.variables, "MKL_CBWR": "AVX2"},
            "determinism": {**BASE.determinism, "MKL_CBWR": "AVX2"},
        }
    )
    here = BASE.model_copy(
        update={
            "variables": {**BASE.variables, "MKL_CBWR": "SSE"},
            "determinism": {**BASE.determinism, "MKL_CBWR": "SSE", "variables": {"MKL_CBWR": "SSE"}},
        }
    )
    assert differences(there, here) == ["MKL_CBWR AVX2 → SSE"]


VERSIONS = st.dictionaries(st.sampled_from(["torch", "numpy", "a", "b", "nvidia-x"]), st.sampled_from(["1", "2"]))


@given(VERSIONS, VERSIONS)
def test_each_package_that_differs_is_told_exactly_once(before: dict[str, str], after: dict[str, str]) -> None:
    told = differences(EnvironmentCaptured(packages=before), EnvironmentCaptured(packages=after))
    expected = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)} if before and after else set()
    assert sorted(line.split()[0] for line in told) == sorted(expected)
