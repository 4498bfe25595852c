"""Errors that a user can act on: what is wrong, where (file, column, row), and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """The user's input is at fault. The command line prints it and exits with code 2.

    The text reads `what (file F, column C, row R). mend`. Rows count data rows from 1; for text files the
    `line` of the file is given instead, because that is what an editor shows.
    """

    def __init__(
        self,
        what: str,
        *,
        file: str | Path | None = None,
        column: str | None = None,
        row: int | None = None,
        line: int | None = None,
        mend: str = "",
    ) -> None:
        self.what, self.file, self.column, self.row, self.line, self.mend = what, file, column, row, line, mend
        places = [
            f"file {file}" if file is not None else "",
            f"column {column!r}" if column is not None else "",
            f"row {row}" if row is not None else "",
            f"line {line}" if line is not None else "",
        ]
        place = ", ".join(p for p in places if p)
        super().__init__(f"{what}{f' ({place})' if place else ''}.{f' {mend}' if mend else ''}")


class DataError(UserError):
    """The data cannot be used as they are."""


class ConfigError(UserError):
    """A setting is unknown or has a value that it cannot take."""


class RunError(UserError):
    """A run folder is missing, already there, or does not hold what is asked of it."""


class Interrupted(Exception):  # noqa: N818  (not a fault: the user asked for it)
    """Training was asked to stop; a checkpoint is on disk in `folder`, the run folder. `command` goes on with it."""

    def __init__(self, folder: Path, command: str | None = None) -> None:
        self.folder = folder
        self.command = command or f"clickherd train --resume {folder}"
        super().__init__(f"interrupted; checkpoint in {folder}")


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A sentence that lists the valid names, the likeliest first. For the `mend` of an error."""
    names = sorted(valid)
    abbreviated = [valid_name for valid_name in names if "_" in valid_name and initials(valid_name) == name]
    close = abbreviated or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Valid names: {', '.join(names)}."


def initials(name: str) -> str:
    """`lr` of `learning_rate`."""
    return "".join(word[:1] for word in name.split("_"))
