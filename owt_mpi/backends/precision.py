"""What `--precision` means: the type of weights and activations in operations, and the type of what adds up.

Half types are float16 and bfloat16. NumPy and CuPy know bfloat16 through the package ml_dtypes.
"""

from typing import Any, Literal

import numpy as np

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


def _half_dtypes() -> tuple[np.dtype[Any], ...]:
    """Return float16, and bfloat16 where ml_dtypes is installed."""
    try:
        import ml_dtypes
    except ImportError:
        return (np.dtype(np.float16),)
    return np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)


HALF_DTYPES = _half_dtypes()


def is_half(dtype: Any) -> bool:
    """Return whether numbers of `dtype` have 16 bits, so that what adds up is kept in float32."""
    return np.dtype(dtype) in HALF_DTYPES


def exact_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the type of master weights, momentum and sums where operations compute in `dtype`: float32 for halves."""
    return np.dtype(np.float32) if is_half(dtype) else np.dtype(dtype)


def compute_dtype(precision: Precision, dtype: str) -> np.dtype[Any]:
    """Return what operations compute in, given `--precision` and `--dtype`. ValueError if ml_dtypes is missing."""
    if precision == "fp16":
        return np.dtype(np.float16)
    if precision == "bf16":
        if len(HALF_DTYPES) == 1:
            raise ValueError(
                "--precision bf16 needs the package ml_dtypes, NumPy's bfloat16, which is not installed; get it with "
                "pip install 'owt_mpi[bf16]', or choose --precision fp16"
            )
        return HALF_DTYPES[1]
    return np.dtype(dtype)
