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
ARITHMETIC = ("numpy==2.4.6", "scikit-learn==1.9.1")
COMMON = (("torch==2.13.0",), ARITHMETIC)


class InstallError(Exception):
    """An environment cannot be made here."""


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
        """Create the environment and install into it, unless an earlier call did.

        Raises:
            InstallError: pip could not install it.
        """
        done = ENVIRONMENTS / self.name / "installed"
        if not self.steps or (done.exists() and done.read_text() == repr(self.steps)):
            return
        venv.create(ENVIRONMENTS / self.name, with_pip=True, clear=True)
        for step in self.steps:
            command = [str(self.python), "-m", "pip", "install", "--quiet", *step]
            answer = subprocess.run(command, check=False, capture_output=True, text=True)
            if answer.returncode != 0:
                errors = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")]
                raise InstallError(f"pip install {' '.join(step)}: {' '.join(errors) or 'failed'}")
        done.write_text(repr(self.steps))

    def packages(self) -> dict[str, str]:
        """Installed packages and their versions."""
        command = [str(self.python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return dict(line.split("==", 1) for line in listed.splitlines() if "==" in line)


MODELS = {"deepfm": "DeepFM", "dcnv2": "DCN-v2", "wide_deep": "Wide & Deep"}  # a name → how it is written


@dataclass(frozen=True)
class Peer:
    """How one line of the table is measured."""

    title: str
    environment: Environment
    runner: str
    variant: str = ""
    batched: bool = True  # whether it learns a network batch by batch, at a batch size that one asks for

    def lacks(self, model: str) -> str:
        """Why it has no place beside that network; empty where it has one."""
        return "" if self.batched or model == "deepfm" else f"has no {MODELS[model]}, and stands beside DeepFM already"


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
# clickherd's networks import numba; for benchmarks/parity, where both libraries run side by side
FUXICTR_WITH_CLICKHERD = Environment("fuxictr-with-clickherd", (*FUXICTR.steps, ("numba==0.68.1",)))

TORCHREC = Environment(
    "torchrec",
    (
        *COMMON,
        # FBGEMM 1.9 does not load with this torch; without dependencies, as TorchRec asks for the CUDA build of FBGEMM
        ("--no-deps", "fbgemm-gpu-cpu==1.8.0", "torchrec==1.8.0"),
        ("tensordict==0.15.3", "pyre-extensions==0.0.32", "torchmetrics==1.0.3", "tqdm==4.70.1"),
    ),
)
TORCH_RECHUB = Environment(
    "torch-rechub", (*COMMON, ("--no-deps", "torch-rechub==0.9.0"), ("pandas==3.1.1", "tqdm==4.70.1"))
)
LARGE_BATCH_CTR = Environment("large-batch-ctr", (ARITHMETIC, ("tensorflow-cpu==2.21.0", "tf-keras==2.21.0")))
LIGHTGBM = Environment("lightgbm", (ARITHMETIC, ("lightgbm==4.7.0",)))
# without dependencies, as it asks for NVIDIA's communication library
XGBOOST = Environment("xgboost", (ARITHMETIC, ("--no-deps", "xgboost==3.2.0")))
CATBOOST = Environment("catboost", (ARITHMETIC, ("catboost==1.2.10", "pandas==3.1.1")))
VOWPAL_WABBIT = Environment("vowpal-wabbit", (ARITHMETIC, ("vowpalwabbit==9.11.9",)))

# for benchmarks/outrank.py; xxhash 4 takes bytes only, which it does not give
OUTRANK = Environment("outrank", (("outrank==0.97.5", "xxhash==3.5.0", "numba==0.68.1", "numpy==2.4.6"),))

KNOWN = {
    "clickherd": Peer("clickherd", OWN, "run_clickherd.py", "default"),
    "clickherd-bf16": Peer("clickherd, bf16 products", OWN, "run_clickherd.py", "bf16"),
    "clickherd-touched": Peer("clickherd, touched rows only", OWN, "run_clickherd.py", "touched"),
    "clickherd-cowclip": Peer("clickherd, CowClip recipe", OWN, "run_clickherd.py", "cowclip"),
    "clickherd-adam": Peer("clickherd, plain Adam", OWN, "run_clickherd.py", "adam"),
    "fbgemm": Peer("FBGEMM 1.8.0 table-batched embedding, torch net", TORCHREC, "run_torchrec.py", "fbgemm"),
    "torchrec": Peer("TorchRec 1.8.0 on FBGEMM 1.8.0, torch net", TORCHREC, "run_torchrec.py", "torchrec"),
    "deepctr-torch": Peer("DeepCTR-Torch 0.3.0", DEEPCTR_TORCH, "run_deepctr_torch.py"),
    "fuxictr": Peer("FuxiCTR 2.3.10", FUXICTR, "run_fuxictr.py", "npz"),
    "fuxictr-ray": Peer("FuxiCTR 2.3.10, Parquet loader", FUXICTR, "run_fuxictr.py", "parquet"),
    "torch-rechub": Peer("torch-rechub 0.9.0", TORCH_RECHUB, "run_torch_rechub.py"),
    "large-batch-ctr": Peer(
        "LargeBatchCTR, port to TensorFlow 2.21.0", LARGE_BATCH_CTR, "run_large_batch_ctr.py", "published"
    ),
    "large-batch-ctr-plain": Peer(
        "LargeBatchCTR, port, plain rates", LARGE_BATCH_CTR, "run_large_batch_ctr.py", "plain"
    ),
    "lightgbm": Peer("LightGBM 4.7.0, native categories", LIGHTGBM, "run_lightgbm.py", "native", batched=False),
    "lightgbm-ordinal": Peer("LightGBM 4.7.0, ids as numbers", LIGHTGBM, "run_lightgbm.py", "ordinal", batched=False),
    "xgboost": Peer("XGBoost 3.2.0, native categories", XGBOOST, "run_xgboost.py", "native", batched=False),
    "xgboost-ordinal": Peer("XGBoost 3.2.0, ids as numbers", XGBOOST, "run_xgboost.py", "ordinal", batched=False),
    "catboost": Peer("CatBoost 1.2.10, native categories", CATBOOST, "run_catboost.py", "native", batched=False),
    "vowpal-wabbit": Peer(
        "Vowpal Wabbit 9.11.9, linear", VOWPAL_WABBIT, "run_vowpal_wabbit.py", "linear", batched=False
    ),
    "vowpal-wabbit-pairs": Peer(
        "Vowpal Wabbit 9.11.9, pairs of fields", VOWPAL_WABBIT, "run_vowpal_wabbit.py", "pairs", batched=False
    ),
}
# What makes ids of raw rows, for benchmarks/encoding.py; any environment with pandas and scikit-learn does for pandas
ENCODERS = {
    "clickherd": Peer("clickherd", OWN, "encode_clickherd.py"),
    "pandas": Peer("pandas, with the steps of LargeBatchCTR", TORCH_RECHUB, "encode_pandas.py"),
    "fuxictr": Peer("FuxiCTR 2.3.10", FUXICTR, "encode_fuxictr.py"),
}
VARIANTS = ("clickherd-bf16", "clickherd-touched", "clickherd-cowclip", "clickherd-adam", "fuxictr-ray")
DEFAULT = [name for name in KNOWN if name not in VARIANTS]
