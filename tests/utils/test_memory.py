"""Free memory: what the machine has, or what the limit of a container or job leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolo_lite.utils import memory


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """1000 kB are available; the process is in the group job/step of version 2."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    write(tmp_path / "meminfo", "MemTotal: 4000 kB\nMemAvailable: 1000 kB\n")
    write(tmp_path / "own", "0::/job/step\n")
    return tmp_path / "groups"


@pytest.mark.parametrize("group", ["", "job", "job/step"])
def test_the_tightest_limit_above_the_process_counts(machine: Path, group: str) -> None:
    write(machine / "job" / "memory.max", "max\n")
    write(machine / group / "memory.max", "5000\n")
    write(machine / group / "memory.current", "3000\n")
    write(machine / "other" / "memory.max", "1\n")
    write(machine / "other" / "memory.current", "0\n")
    assert memory.free_memory() == 2000
    write(machine / group / "memory.stat", "anon 1\ninactive_file 500\n")
    assert memory.free_memory() == 2500  # files that the kernel keeps are given up first


def test_the_first_version_of_control_groups(machine: Path) -> None:
    write(machine.parent / "own", "5:cpu,cpuacct:/elsewhere\n4:memory:/job\n")
    write(machine / "memory" / "job" / "memory.limit_in_bytes", "700\n")
    write(machine / "memory" / "job" / "memory.usage_in_bytes", "900\n")
    assert memory.free_memory() == 0


def test_without_a_limit(machine: Path) -> None:
    assert memory.free_memory() == 1_024_000
