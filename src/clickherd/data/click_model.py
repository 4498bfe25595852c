"""The click model behind the built-in log: its fields, its equation, and the compiled code that draws rows from it.

    logit p = b + Σ_f α_f(x_f, τ) + Σ_j g_j(t_j) + Σ_j t_j·s_j(x_f(j)) + Σ_G Σ_{f<g ∈ G} ⟨u_f(x_f), u_g(x_g)⟩

x_f is the text id of categorical field f, t_j the standardised logarithm of numeric column j, τ ∈ [0, 1) the time, G a
group of fields that interact pairwise. docs/data.md spells out every term.

Nothing is drawn from tables: what belongs to a row is a hash of (seed, purpose, row), what belongs to an id is a hash
of (world, purpose, id). Universes of millions of ids cost no memory, and a row does not depend on the chunk it is in.

Shapes: B rows, F = 26 categorical fields, K = 13 numeric columns, G groups of rank D.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from clickherd.errors import UserError

BIAS = -2.25
DRIFT_ANGLE = np.pi / 3  # how far drifting effects turn from the first row to the last
GROUPS = 3  # groups of fields that interact
RANK = 2  # width of the latent vectors u
INHERIT = 0.85  # share of rows in which a child field follows its parent


@dataclass(frozen=True)
class Categorical:
    """A categorical field. Ids are drawn by popularity rank k = 1 … size with P(k) about ∝ k^(−exponent)."""

    size: int  # ids alive at one time
    exponent: float  # of the bounded power law; not 1
    missing: float  # share of rows without a value
    effect: float  # standard deviation of α over ids
    drift: bool = False  # α turns over time
    churn: float = 0.0  # how often, over the whole log, an id is replaced by a new one of the same popularity
    group: int = -1  # whom it interacts with; −1: nobody
    latent: float = 0.0  # standard deviation of each coordinate of u over ids
    parent: int = -1  # the id is a function of field `parent`'s id in most rows; −1: drawn by itself


@dataclass(frozen=True)
class Numeric:
    """A numeric column, x = exp(center + scale·z): rounded down to a count, or to four decimals."""

    center: float
    scale: float
    missing: float
    activity: float  # correlation of z with the row's activity, which all numeric columns share
    linear: float  # g(t) = linear·t + square·(t² − 1) + wave·sin 3t
    square: float
    wave: float
    when_missing: float  # g of a missing value
    slope_field: int = -1  # the field whose id sets the slope s; −1: none
    slope: float = 0.0  # standard deviation of s over ids
    fractional: bool = False


CATEGORICAL = (
    Categorical(1_400, 1.3, 0, 0.20),  # C1
    Categorical(550, 1.3, 0, 0.22),  # C2
    Categorical(10_000_000, 1.4, 0.03, 0.05, churn=1.0),  # C3
    Categorical(2_200_000, 1.4, 0.03, 0.05, churn=0.5),  # C4
    Categorical(300, 1.25, 0, 0.15, group=0, latent=0.50),  # C5
    Categorical(24, 0.9, 0.12, 0.15, group=1, latent=0.66),  # C6
    Categorical(12_500, 1.45, 0, 0.12, churn=0.5),  # C7
    Categorical(630, 1.3, 0, 0.15, group=2, latent=0.48),  # C8
    Categorical(4, 0.8, 0, 0.25),  # C9
    Categorical(90_000, 1.4, 0, 0.06, churn=1.0),  # C10
    Categorical(5_600, 1.4, 0, 0.12, drift=True),  # C11
    Categorical(8_000_000, 1.4, 0.03, 0.05, churn=1.5),  # C12
    Categorical(3_200, 1.3, 0, 0.08, parent=10),  # C13
    Categorical(27, 0.9, 0, 0.25, group=0, latent=0.55),  # C14
    Categorical(15_000, 1.45, 0, 0.08, churn=0.5),  # C15
    Categorical(5_500_000, 1.4, 0.03, 0.05, churn=1.0),  # C16
    Categorical(10, 0.8, 0, 0.25, group=2, latent=0.57),  # C17
    Categorical(5_600, 1.4, 0, 0.10),  # C18
    Categorical(2_200, 1.35, 0.42, 0.15, drift=True),  # C19
    Categorical(4, 0.6, 0.42, 0.20),  # C20
    Categorical(7_000_000, 1.4, 0.03, 0.05, parent=2),  # C21
    Categorical(18, 0.9, 0.42, 0.15, group=0, latent=0.55),  # C22
    Categorical(15, 0.9, 0, 0.25, group=2, latent=0.57),  # C23
    Categorical(280_000, 1.4, 0.03, 0.05, churn=1.0),  # C24
    Categorical(105, 1.1, 0.22, 0.20, group=1, latent=0.60),  # C25
    Categorical(140_000, 1.4, 0.42, 0.05),  # C26
)

NUMERIC = (
    Numeric(0.5, 1.3, 0.45, 0.6, 0.30, 0.05, 0.00, -0.10),  # I1
    Numeric(2.5, 2.0, 0.00, 0.1, 0.05, 0.15, 0.10, 0.00),  # I2
    Numeric(1.8, 1.4, 0.21, 0.2, 0.15, -0.05, 0.00, 0.05),  # I3
    Numeric(1.5, 1.0, 0.22, 0.3, 0.05, 0.00, 0.20, 0.00, 4, 0.15),  # I4
    Numeric(7.5, 2.2, 0.03, -0.5, -0.20, 0.00, 0.15, -0.20),  # I5
    Numeric(3.4, 1.5, 0.22, -0.3, -0.15, -0.10, 0.00, -0.10),  # I6
    Numeric(1.0, 1.5, 0.04, 0.5, 0.25, 0.00, 0.00, 0.00, fractional=True),  # I7
    Numeric(2.0, 1.0, 0.00, 0.2, 0.00, 0.20, 0.00, 0.00),  # I8
    Numeric(3.7, 1.4, 0.04, 0.3, 0.05, 0.00, 0.20, 0.00, 13, 0.15),  # I9
    Numeric(-0.3, 0.8, 0.45, 0.6, 0.20, 0.00, 0.00, 0.10),  # I10
    Numeric(0.6, 1.0, 0.04, 0.5, 0.20, -0.05, 0.00, 0.00),  # I11
    Numeric(-1.0, 1.2, 0.76, 0.2, 0.10, 0.00, 0.00, 0.05, fractional=True),  # I12
    Numeric(1.6, 1.1, 0.22, 0.2, 0.05, 0.10, 0.00, 0.00, 5, 0.15),  # I13
)

_TYPES = {"int": np.int64, "float": np.float64, "bool": np.bool_}


def _table(kind: type[Categorical] | type[Numeric], rows: tuple[Any, ...]) -> npt.NDArray[np.void]:
    """The parameters as a structured array, which compiled code can read."""
    dtype = np.dtype([(field.name, _TYPES[str(field.type)]) for field in fields(kind)])
    return np.array([astuple(row) for row in rows], dtype)


NUMERIC_TABLE = _table(Numeric, NUMERIC)


def categorical_table(categorical: tuple[Categorical, ...]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.float64]]:
    """The parameters of F categorical fields, shape (F,), and what `_rank` wants of their power laws, shape (F,)."""
    table = _table(Categorical, categorical)
    return table, (table["size"] + 1.0) ** (1.0 - table["exponent"]) - 1.0


# Purposes of hashes. Each categorical field and numeric column has 16 of its own.
_LABEL, _ACTIVITY, _JITTER = 0, 1, 2
_OF_CATEGORICAL, _OF_NUMERIC, _STRIDE = 16, 16 + 16 * 26, 16
_DRAW, _PHASE, _ID, _EFFECT, _TURN, _CHILD, _SLOPE, _LATENT = 0, 1, 2, 3, 4, 5, 6, 8  # _LATENT + RANK ≤ 16
_VALUE, _ABSENT = 0, 1
MISSING_ID = 1 << 32  # stands for x of a missing value; text ids have 32 bits
_DECIMALS = 1e4

_jit = numba.njit(cache=True, nogil=True)


@_jit
def _mix(value: Any) -> Any:
    """SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@_jit
def _hash(key: Any, item: Any) -> Any:
    """Item number `item` of the SplitMix64 stream that starts at `key`."""
    return _mix(key + (np.uint64(item) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


@_jit
def _uniform(bits: Any) -> float:
    """In [0, 1), from the upper 53 bits."""
    return float(bits >> np.uint64(11)) * 2.0**-53


@_jit
def _normal(bits: Any) -> float:
    """Mean 0, variance 1, nearly normal: the scaled sum of the hash's four 16-bit parts. It needs no logarithm."""
    total = 0.0
    for shift in (0, 16, 32, 48):
        total += float((bits >> np.uint64(shift)) & np.uint64(0xFFFF))
    return float((total / 65535.0 - 2.0) * np.sqrt(3.0))


@_jit
def _rank(u: float, size: int, exponent: float, span: float) -> int:
    """The inverse CDF of the power law on [1, size + 1), rounded down; span = (size + 1)^(1 − exponent) − 1."""
    return min(int((1.0 + u * span) ** (1.0 / (1.0 - exponent))), size)


@_jit
def fill(
    first: int,  # the number of the first row
    rows: int,  # of the whole log
    span: int,  # of time, in microseconds
    row_keys: npt.NDArray[np.uint64],  # one per purpose, for what is drawn per row
    id_keys: npt.NDArray[np.uint64],  # one per purpose, for what belongs to ids
    categorical: npt.NDArray[np.void],
    numeric: npt.NDArray[np.void],
    power_span_F: npt.NDArray[np.float64],
    offset_B: npt.NDArray[np.int64],  # out: microseconds since the log's start
    ids_FB: npt.NDArray[np.int64],  # out: 32-bit ids, or MISSING_ID
    numeric_KB: npt.NDArray[np.float64],  # out: NaN where missing
    probability_B: npt.NDArray[np.float64],  # out
    label_B: npt.NDArray[np.int8],  # out
) -> None:
    """B rows of F categorical fields and K numeric columns."""
    sum_GD, squares_GD = np.empty((GROUPS, RANK)), np.empty((GROUPS, RANK))
    for row in range(len(offset_B)):
        number = first + row
        offset = int((number + _uniform(_hash(row_keys[_JITTER], number))) / rows * span)
        tau = offset / span
        offset_B[row] = offset
        cosine, sine = np.cos(DRIFT_ANGLE * tau), np.sin(DRIFT_ANGLE * tau)
        logit = BIAS
        sum_GD[:], squares_GD[:] = 0.0, 0.0
        for f in range(len(categorical)):
            field, of_field = categorical[f], _OF_CATEGORICAL + _STRIDE * f
            bits = _hash(row_keys[of_field + _DRAW], number)
            more_bits = _mix(bits)
            if _uniform(more_bits) < field.missing:
                x = MISSING_ID
            else:
                # the lowest 11 bits have no part in _uniform
                if field.parent >= 0 and (more_bits & np.uint64(0x7FF)) < INHERIT * 2048.0:
                    k = int(_hash(id_keys[of_field + _CHILD], ids_FB[field.parent, row]) % np.uint64(field.size)) + 1
                else:
                    k = _rank(_uniform(bits), field.size, field.exponent, power_span_F[f])
                generation = 0
                if field.churn > 0.0:
                    generation = int(field.churn * tau + _uniform(_hash(id_keys[of_field + _PHASE], k)))
                x = int(_hash(_hash(id_keys[of_field + _ID], k), generation) >> np.uint64(32))
            ids_FB[f, row] = x
            effect = _normal(_hash(id_keys[of_field + _EFFECT], x))
            if field.drift:
                effect = effect * cosine + _normal(_hash(id_keys[of_field + _TURN], x)) * sine
            logit += field.effect * effect
            if field.group >= 0:
                for d in range(RANK):
                    u = field.latent * _normal(_hash(id_keys[of_field + _LATENT + d], x))
                    sum_GD[field.group, d] += u
                    squares_GD[field.group, d] += u * u
        for group in range(GROUPS):
            for d in range(RANK):  # Σ_{f<g} u_f·u_g = ((Σ u)² − Σ u²) / 2
                logit += 0.5 * (sum_GD[group, d] ** 2 - squares_GD[group, d])

        activity = _normal(_hash(row_keys[_ACTIVITY], number))
        for j in range(len(numeric)):
            column, of_column = numeric[j], _OF_NUMERIC + _STRIDE * j
            if _uniform(_hash(row_keys[of_column + _ABSENT], number)) < column.missing:
                numeric_KB[j, row] = np.nan
                logit += column.when_missing
                continue
            own = _normal(_hash(row_keys[of_column + _VALUE], number))
            z = column.activity * activity + np.sqrt(1.0 - column.activity**2) * own
            value = np.exp(column.center + column.scale * z)
            value = np.floor(value * _DECIMALS) / _DECIMALS if column.fractional else np.floor(value)
            numeric_KB[j, row] = value
            t = (np.log1p(value) - column.center) / column.scale
            logit += column.linear * t + column.square * (t * t - 1.0) + column.wave * np.sin(3.0 * t)
            if column.slope_field >= 0:
                slope_key = id_keys[_OF_CATEGORICAL + _STRIDE * column.slope_field + _SLOPE]
                logit += t * column.slope * _normal(_hash(slope_key, ids_FB[column.slope_field, row]))

        probability = 1.0 / (1.0 + np.exp(-logit))
        probability_B[row] = probability
        label_B[row] = _uniform(_hash(row_keys[_LABEL], number)) < probability


@_jit
def write_hex(
    ids_B: npt.NDArray[np.int64],
    text: npt.NDArray[np.uint8],  # out: eight hexadecimal digits per present id, one after the other
    ends: npt.NDArray[np.int64],  # out: (B + 1,) where texts begin and end; a missing one is empty
    present: npt.NDArray[np.bool_],  # out: (B,)
) -> None:
    """The ids of a column as text."""
    digits = b"0123456789abcdef"
    end = 0
    ends[0] = 0
    for row in range(len(ids_B)):
        x = ids_B[row]
        present[row] = x != MISSING_ID
        if x != MISSING_ID:
            for place in range(8):
                text[end + place] = digits[(x >> (28 - 4 * place)) & 15]
            end += 8
        ends[row + 1] = end


@_jit
def _derive(seed: Any, salt: Any, keys: npt.NDArray[np.uint64]) -> None:
    start = _hash(_mix(np.uint64(salt)), seed)
    for purpose in range(len(keys)):
        keys[purpose] = _hash(start, purpose)


def derive_keys(seed: int, name: str) -> npt.NDArray[np.uint64]:
    """Independent keys for all purposes. `name` is seed (keys of rows) or world (keys of ids)."""
    if not 0 <= seed < 1 << 64:
        raise UserError(f"{name} = {seed}", mend="Give a whole number from 0 to 2^64 − 1.")
    keys = np.empty(_OF_NUMERIC + _STRIDE * len(NUMERIC), np.uint64)
    _derive(np.uint64(seed), np.uint64(("seed", "world").index(name) + 1), keys)
    return keys
