"""What the backends share whose arrays are NumPy's: nothing to copy and nothing to wait for."""

from types import ModuleType

import numpy as np

from owt_mpi.backends import threads


class HostBackend:
    """The part of the Backend protocol that is the same for every backend on the CPU."""

    xp: ModuleType = np

    def from_host(self, array: np.ndarray) -> np.ndarray:
        """Return `array` itself."""
        return array

    def to_host(self, array: np.ndarray) -> np.ndarray:
        """Return `array` itself."""
        return array

    def synchronize(self) -> None:
        """Return at once: operations are done when they return."""

    def set_num_threads(self, num_threads: int) -> None:
        """Use `num_threads` threads in NumPy's matmul (process-wide) and in OpenMP (this calling thread)."""
        threads.set_num_threads(num_threads)

    def exp_and_row_sum(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See Backend."""
        y = np.exp(x)
        return y, y.sum(axis=1, keepdims=True)
