"""What a run was made on, and its raw results."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from common.places import HERE, MIB, say
from common.processes import Sample, Workplace

PEER_PACKAGES = {"mergekit", "torch", "transformers", "safetensors", "numpy"}


def output_of(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def peer_versions(mergekit: str) -> dict[str, str]:
    listed = output_of(str(Path(mergekit).parent / "pip"), "list", "--format", "json") or "[]"
    return {entry["name"]: entry["version"] for entry in json.loads(listed) if entry["name"] in PEER_PACKAGES}


def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def file_system(path: Path) -> str:
    """Type of the file system that holds `path`."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [(point, kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1]


def facts(place: Workplace, suture: str | None, mergekit: str | None) -> dict[str, Any]:
    memory_kib = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(int(memory_kib[1]) / MIB, 1) if memory_kib else None,
            "kernel": platform.release(),
            "file_system": file_system(place.root),
            "load_at_start": os.getloadavg()[0],
        },
        "versions": {
            "commit": output_of("git", "describe", "--always", "--dirty"),
            "suture": output_of(suture, "--version") if suture else None,
            "python": platform.python_version(),
            "peers": peer_versions(mergekit) if mergekit else None,
        },
    }


@dataclass(frozen=True)
class Results:
    """The raw results; the whole file is replaced at every save, so that a stopped run loses one case at most."""

    path: Path
    document: dict[str, Any]

    @classmethod
    def start(cls, folder: Path, name: str, document: dict[str, Any]) -> Results:
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / f"{datetime.now().strftime('%Y-%m-%d-%H%M%S')}-{name}.json", document)

    def save(self, rows: Sequence[Any], samples: Sequence[Sample], complete: bool = False) -> None:
        self.document["complete"] = complete
        self.document["rows"] = [asdict(row) for row in rows]
        self.document["samples"] = [asdict(sample) for sample in samples]
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.document, indent=1) + "\n")
        part.replace(self.path)
        if complete:
            say(f"raw results: {self.path}")
