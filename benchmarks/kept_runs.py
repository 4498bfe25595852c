"""A result file of many runs, written anew after each: a run that it holds is not repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import host


class KeptRuns:
    """The runs so far, in `path`, and the calls that made them, each with its machine and command."""

    def __init__(self, path: Path, packages: tuple[str, ...]) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"calls": [], "runs": []}
        if "command" in self.content:  # of a file that knew the last call only
            last = {name: self.content.pop(name) for name in ("machine", "command")}
            self.content = {"calls": [last], **self.content}
        self.call = {"machine": host.describe(packages), "command": host.command()}
        self.runs: list[dict[str, Any]] = self.content["runs"]

    def run(self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The run that is known by `key`, made if it is not there."""
        for one in self.runs:
            if all(one[name] == value for name, value in key.items()):
                return one
        self.runs.append({**key, **compute()})
        if self.call not in self.content["calls"]:
            self.content["calls"].append(self.call)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        print(json.dumps(self.runs[-1]), flush=True)
        return self.runs[-1]

    def write(self, body: str) -> None:
        """Write the page that goes with the file: what was run on which machines, and the table."""
        head = "\n".join(
            f"- `{' '.join(call['command'])}`, {of['cpu']}, {of['cores']} cores, {of['date']}"
            for call in self.content["calls"]
            for of in [call["machine"]]
        )
        self.path.with_suffix(".md").write_text(f"{head}\n\n{body}")
