"""The peers under measurement, and a virtual environment for each, made when first needed."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parent
ENVIRONMENTS = PEERS.parent / ".envs"

# torch goes in first and alone, so that pip takes the build that fits the machine; numpy and scikit-learn are those
# of constraints.txt, so that all trainers run on the same arithmetic.
COMMON = (("torch==2.13.0",), ("numpy==2.4.6", "scikit-learn==1.9.1"))


@dataclass(frozen=True)
class Environment:
    """Calls of `pip install`, in order; an empty tuple means the Python that runs the driver."""

    name: str
    steps: tuple[tuple[str, ...], ...]

    @property
    def python(self) -> Path:
        """The interpreter."""
        return ENVIRONMENTS / self.name / "bin" / "python" if self.steps else Path(sys.executable)

    def make(self) -> None:
        """Create the environment and install into it, unless an earlier call did."""
        done = ENVIRONMENTS / self.name / "installed"
        if not self.steps or (done.exists() and done.read_text() == repr(self.steps)):
            return
        venv.create(ENVIRONMENTS / self.name, with_pip=True, clear=True)
        for step in self.steps:
            command = [str(self.python), "-m", "pip", "install", "--quiet", *step]
            subprocess.run(command, check=True, stdout=sys.stderr)
        done.write_text(repr(self.steps))

    def packages(self) -> dict[str, str]:
        """Installed packages and their versions."""
        command = [str(self.python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return dict(line.split("==", 1) for line in listed.splitlines() if "==" in line)


@dataclass(frozen=True)
class Peer:
    """How one column of the table is measured."""

    title: str
    environment: Environment
    runner: str
    variant: str = ""


OWN = Environment("clickherd", ())
DEEPCTR_TORCH = Environment(
    "deepctr-torch",
    # requests: imported, but not among the requirements it declares
    (*COMMON, ("--no-deps", "deepctr-torch==0.3.0"), ("tqdm==4.70.1", "requests==2.34.2")),
)
FUXICTR = Environment(
    "fuxictr",
    # polars 2 breaks its preprocessing, which the encoded rows do not need; its loaders import Ray in any case
    (
        *COMMON,
        ("--no-deps", "fuxictr==2.3.10"),
        (
            "pandas==3.1.1",
            "pyyaml==6.0.3",
            "h5py==3.16.0",
            "tqdm==4.70.1",
            "pyarrow==26.0.1",
            "polars==2.1.0",
        ),
        ("pydantic==2.14.3", "ray[data]==2.60.0"),
    ),
)

KNOWN = {
    "clickherd": Peer("clickherd", OWN, "run_clickherd.py", "default"),
    "clickherd-cowclip": Peer("clickherd, CowClip recipe", OWN, "run_clickherd.py", "cowclip"),
    "clickherd-adam": Peer("clickherd, plain Adam", OWN, "run_clickherd.py", "adam"),
    "deepctr-torch": Peer("DeepCTR-Torch 0.3.0", DEEPCTR_TORCH, "run_deepctr_torch.py"),
    "fuxictr": Peer("FuxiCTR 2.3.10", FUXICTR, "run_fuxictr.py", "npz"),
    "fuxictr-ray": Peer("FuxiCTR 2.3.10, Parquet loader", FUXICTR, "run_fuxictr.py", "parquet"),
}
