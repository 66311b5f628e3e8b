"""How much memory the processes of this machine can still have, within the limits of their containers and jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
# Version 2 and version 1: the controller's folder, the files with the limit and the use, and in memory.stat the cache
# of files that nothing has looked at lately, which counts as used and is given up first.
VERSIONS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory() -> int:
    """Bytes that can still be had by all processes of the machine together; 0 where nothing can be told."""
    limits = [room for folder in own_groups() for version in VERSIONS if (room := room_of(folder, version)) is not None]
    available = named_number(MEMINFO, "MemAvailable:")
    if available is not None:
        limits.append(available * 1024)
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(0, min(limits, default=0))


def own_groups() -> Iterator[Path]:
    """Folders of the control groups that this process may be in, below each version's: limits of those above count."""
    yield Path()
    text = read(OWN_GROUPS) or ""
    for line in text.splitlines():  # such as 0::/user.slice/job.scope
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            relative = Path(path.lstrip("/"))
            yield from (place for place in (relative, *relative.parents) if place != Path())


def room_of(group: Path, version: tuple[str, str, str, str]) -> int | None:
    """Bytes that a control group may still use; None: it has no limit, or is none."""
    controller, limit, usage, cache = version
    folder = GROUPS / controller / group
    most, used = (read(folder / name) for name in (limit, usage))
    if most is None or used is None or not most.strip().isdigit():
        return None
    return int(most) - int(used) + (named_number(folder / "memory.stat", cache) or 0)


def named_number(path: Path, name: str) -> int | None:
    """The number in the line of a file that starts with a word; None: there is none."""
    for line in (read(path) or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return None


def read(path: Path) -> str | None:
    """The content; None where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return None
