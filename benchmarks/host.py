"""What a figure was measured on: processor, memory, versions, load."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from clickherd.machine import cpu_model

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"


def describe(packages: tuple[str, ...]) -> dict[str, Any]:
    """The machine, the moment, and the versions of the named packages (those that are installed)."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "vector_extensions": vector_extensions(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages if installed(name)},
        "clickherd_commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "load_average_at_start": list(os.getloadavg()),
    }


def command() -> list[str]:
    """The command that runs, to be repeated elsewhere: of absolute paths the last part only."""
    script, *arguments = sys.argv
    shown = [Path(argument).name if argument.startswith("/") else argument for argument in arguments]
    return ["python", f"benchmarks/{Path(script).name}", *shown]


def installed(package: str) -> bool:
    """Whether this interpreter has the package."""
    return any(metadata.distributions(name=package))


def vector_extensions() -> list[str]:
    """The instruction sets for arithmetic on vectors and matrices that the processor announces."""
    info = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    names = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    return [name for name in names if flags and name in flags.group(1).split()]


def commit() -> str:
    """The commit that is measured, marked when the working tree differs from it."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"


def slug() -> str:
    """A short name for result files: the processor and the number of cores."""
    words = re.sub(r"\((?:R|TM)\)|CPU|Processor|@.*", " ", cpu_model())
    return "-".join(re.findall(r"[a-z0-9.]+", words.lower())) + f"-{len(os.sched_getaffinity(0))}c"
