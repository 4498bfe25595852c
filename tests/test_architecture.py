"""Imports go one way, and a command loads only what it needs.

kernels < layers < models, kernels < optim < train, data < train, everything < cli.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import clickherd

SOURCE = Path(clickherd.__file__).parent

# Part (a module or package right under clickherd) → what of clickherd it may import, beside itself. A part that is not
# named here stands above training (runs, estimator, report, …) and may import everything but the command line and the
# extra `creative`, which no click model needs.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "settings": ("errors",),
    "threads": (),
    "metrics": ("errors",),
    "checkpoint": ("errors",),
    "data": ("errors", "settings", "metrics", "threads"),
    "kernels": ("errors", "threads"),
    "layers": ("kernels",),
    "models": ("errors", "layers"),
    "compact": ("errors", "settings", "data", "kernels", "layers", "models"),
    "optim": ("settings", "kernels", "layers"),
    "calibration": ("errors", "checkpoint"),
    "config": ("errors", "calibration", "settings", "compact.config", "data.config", "optim.config", "models"),
    "network": ("errors", "calibration", "compact", "data", "kernels", "layers", "models", "threads", "workers"),
    "evaluate": ("errors", "metrics", "data", "network"),
    "masking": ("errors", "data", "kernels"),
    "device_store": ("data", "kernels", "network"),
    "graphs": ("network",),
    "workers": (),
    "runtime": ("errors", "kernels", "threads"),
    "start": ("checkpoint",),
    "int8_average": ("compact", "network", "optim"),
    "mup": ("errors", "settings", "compact", "config", "layers", "models", "network"),
    "learner": (
        "errors",
        "int8_average",
        "mup",
        "config",
        "network",
        "masking",
        "device_store",
        "graphs",
        "optim",
        "runtime",
        "threads",
        "workers",
    ),
    "observer": ("optim",),
    "training_state": (),
    "train": (
        "errors",
        "checkpoint",
        "config",
        "data",
        "mup",
        "optim",
        "network",
        "evaluate",
        "device_store",
        "learner",
        "observer",
        "start",
        "training_state",
    ),
    "creative": ("errors", "settings", "checkpoint", "config", "data", "machine", "report", "runtime", "workers"),
}
COMMAND_LINE = (
    "__main__",
    "cli",
    "cli_compress",
    "cli_creative",
    "cli_data",
    "cli_scale",
    "cli_select",
    "cli_shared",
    "cli_tune",
    "cli_widths",
)

# Library → the parts that never import it, not even inside a function.
NEVER: dict[str, tuple[str, ...]] = {
    "torch": ("errors", "settings", "threads", "metrics", "data"),
    "sklearn": tuple(MAY_IMPORT),
    "matplotlib": tuple(part for part in MAY_IMPORT if part != "creative"),
    "diffusers": tuple(part for part in MAY_IMPORT if part != "creative"),
    "transformers": tuple(part for part in MAY_IMPORT if part != "creative"),
}


def offences(modules: Mapping[str, str], sources: Mapping[str, str]) -> list[str]:
    """What breaks the tables. `modules` are all of clickherd with their files, `sources` the texts to look at."""
    return [
        f"{modules[name]}:{line}: imports {target}, which {part_of(name)!r} may not"
        for name, source in sources.items()
        for line, target in imports(source, name, modules)
        if not allowed(part_of(name), target)
    ]


def imports(source: str, importer: str, modules: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of a module's text, those inside functions and for type checkers too."""
    package = importer.split(".") if modules[importer].endswith("__init__.py") else importer.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # a module, as in `from clickherd import metrics`, or a name within one
                name = f"{origin}.{alias.name}"
                yield node.lineno, name if name in modules else origin


def part_of(module: str) -> str:
    """`clickherd.data.schema` → `data`; `clickherd` itself → the empty text."""
    return module.partition(".")[2].partition(".")[0]


def allowed(part: str, target: str) -> bool:
    library = target.partition(".")[0]
    if library != "clickherd":
        return part not in NEVER.get(library, ())
    other = part_of(target)
    if other in ("", part) or part in COMMAND_LINE:
        return True
    if part not in MAY_IMPORT:
        return other not in (*COMMAND_LINE, "creative")
    inner = target.removeprefix("clickherd.")
    return any(inner == name or inner.startswith(f"{name}.") for name in MAY_IMPORT[part])


def package_modules() -> dict[str, str]:
    """Every module of clickherd and its file."""
    files = [path.relative_to(SOURCE.parent) for path in SOURCE.rglob("*.py")]
    return {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file.as_posix() for file in files}


def test_imports_go_one_way() -> None:
    modules = package_modules()
    assert {part_of(name) for name in modules} >= {*MAY_IMPORT, *COMMAND_LINE}, "the table names parts that are gone"
    sources = {name: (SOURCE.parent / file).read_text(encoding="utf-8") for name, file in modules.items()}
    found = offences(modules, sources)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        (
            "data.store",
            "def f():\n    from clickherd.kernels import cpu",
            "data/store.py:2: imports clickherd.kernels.cpu",
        ),
        ("data.store", "from clickherd import config", "data/store.py:1: imports clickherd.config"),
        ("data.store", "from ..optim import scaling", "data/store.py:1: imports clickherd.optim.scaling"),
        ("data.store", "import torch.nn", "data/store.py:1: imports torch.nn"),
        ("kernels", "if A:\n    from ..layers import mlp", "kernels/__init__.py:2: imports clickherd.layers.mlp"),
        ("config", "from clickherd.data.store import Store", "config.py:1: imports clickherd.data.store"),
        ("train", "import clickherd.runs", "train.py:1: imports clickherd.runs"),
        ("runs", "from clickherd.cli import main", "runs.py:1: imports clickherd.cli"),
    ],
)
def test_an_import_the_wrong_way_is_told_with_its_place(module: str, source: str, told: str) -> None:
    found = offences(package_modules(), {f"clickherd.{module}": source})
    assert found == [f"clickherd/{told}, which {module.partition('.')[0]!r} may not"]


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Top-level packages that a fresh process has loaded after `code`."""
    tell = "import json, sys\ntry:\n    {code}\nfinally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    command = [sys.executable, "-c", tell.format(code=code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


COMMAND = "from clickherd.cli import main; main()"
WORKING = {"torch", "numba", "numpy", "polars", "pyarrow", "pandas", "scipy", "sklearn", "matplotlib", "jinja2", "yaml"}
WORKING |= {"optuna", "sqlalchemy", "diffusers", "transformers", "PIL"}


def test_import_and_help_load_nothing_that_works_on_data() -> None:
    assert not loaded_by("import clickherd") & {*WORKING, "pydantic", "typer", "rich"}
    verbs = [[verb, "--help"] for verb in ("train", "scale", "tune", "data", "creative")]
    for arguments in (["--help"], ["--version"], *verbs):
        assert not loaded_by(COMMAND, *arguments) & WORKING, arguments  # typer itself loads pydantic


def test_describe_loads_no_torch(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("clicked,site\n" + "1,a\n0,b\n" * 50)
    loaded = loaded_by(COMMAND, "data", "describe", str(tmp_path / "clicks.csv"), "--label", "clicked")
    assert "polars" in loaded
    assert not loaded & {"torch", "sklearn", "matplotlib", "jinja2", "pandas"}


def test_the_data_package_loads_no_torch() -> None:
    names = [name for name in package_modules() if part_of(name) == "data"]
    assert not loaded_by(f"import {', '.join(names)}") & {"torch", "sklearn", "matplotlib"}
