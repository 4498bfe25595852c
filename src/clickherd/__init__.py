"""clickherd: click logs in, a calibrated click-through-rate model out, trained at huge batches with CowClip."""

import os
from typing import TYPE_CHECKING, Any

# Threads that wait by spinning steal the core that others (our own loops, a neighbour's process) need; on a
# busy machine that costs a factor of five and more. It has to be said before torch loads its OpenMP runtime.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
__all__ = ["CTRClassifier", "__version__", "load"]

if TYPE_CHECKING:
    from clickherd.estimator import CTRClassifier
    from clickherd.loaded import load


def __getattr__(name: str) -> Any:
    """Public names load when used, so that `import clickherd` and `clickherd --help` stay instant."""
    if name == "CTRClassifier":
        from clickherd.estimator import CTRClassifier

        return CTRClassifier
    if name == "load":
        from clickherd.loaded import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
