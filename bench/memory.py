"""How much memory this process holds, as the system counts it."""

import ctypes
from pathlib import Path

import psutil


def resident() -> int:
    """Bytes that this process holds now, once what is free has been given back; where Linux allows, sets the peak to it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        pass
    return psutil.Process().memory_info().rss


def peak() -> float:
    """Bytes at the peak since `resident`; nan where the system does not say."""
    try:
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    except (OSError, ValueError):
        return float("nan")
    return int(line.split()[1]) * 1024
