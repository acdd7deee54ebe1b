"""The CPU backends on oneDNN: plain NHWC arrays of float32, or of bfloat16 where the processor multiplies that."""

from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi.backends import onednn_builders as builders
from owt_mpi.backends.blocked_sgd import blocked_momentum_sgd
from owt_mpi.backends.checks import check_dtypes, check_lrn, check_momentum_sgd, check_shape
from owt_mpi.backends.half import HalfBackend
from owt_mpi.backends.host import HostBackend
from owt_mpi.backends.onednn_api import DIFF_DST, DIFF_SRC, DST, SRC, WORKSPACE, Library, find_library
from owt_mpi.backends.onednn_builders import Lrn
from owt_mpi.backends.onednn_operations import OneDnnOperations
from owt_mpi.backends.reference import ReferenceBackend


class OneDnnBackend(OneDnnOperations, HostBackend):
    """Backend on oneDNN in float32. Workspaces are in the library's layout, but for an LRN that NumPy computes."""

    name = "onednn"

    def __init__(self, path: Path | None = None) -> None:
        """Load the library at `path`, or where find_library finds it. OSError if that fails."""
        self._numpy = ReferenceBackend()
        super().__init__(Library(path or find_library()), np.dtype(np.float32), self._numpy)

    def lrn(self, x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> tuple[np.ndarray, np.ndarray]:
        """See Backend. NumPy computes it where `_lrn_kernel_is_sound` says that the library should not."""
        check_dtypes("lrn", self.dtypes, x=x)
        check_lrn("lrn", x.shape, size)
        if not self._lrn_kernel_is_sound(size, beta):
            return self._numpy.lrn(x, size, alpha, beta, k)
        y = self._empty(x.shape)
        geometry = Lrn(x.shape, size, alpha, beta, k)
        workspace = self._empty_workspace(builders.lrn, geometry)
        self._run(builders.lrn, geometry, {SRC: x, DST: y, WORKSPACE: workspace})
        return y, workspace

    def lrn_grad(
        self, gy: np.ndarray, x: np.ndarray, workspace: np.ndarray, size: int, alpha: float, beta: float, k: float
    ) -> np.ndarray:
        """See Backend."""
        check_dtypes("lrn_grad", self.dtypes, gy=gy, x=x)
        check_lrn("lrn_grad", x.shape, size)
        check_shape("lrn_grad", "gy", gy, x.shape)
        if not self._lrn_kernel_is_sound(size, beta):
            return self._numpy.lrn_grad(gy, x, workspace, size, alpha, beta, k)
        gx = self._empty(x.shape)
        arrays = {SRC: x, DIFF_DST: gy, WORKSPACE: workspace, DIFF_SRC: gx}
        self._run(builders.lrn_grad, Lrn(x.shape, size, alpha, beta, k), arrays)
        return gx

    def momentum_sgd(
        self,
        w: np.ndarray,
        v: np.ndarray,
        g: np.ndarray,
        lr: float,
        momentum: float,
        weight_decay: float,
        scale: float = 1.0,
        copy: np.ndarray | None = None,
        skip: np.ndarray | None = None,
    ) -> None:
        """See Backend."""
        check_dtypes("momentum_sgd", self.dtypes, w=w, v=v)
        check_momentum_sgd(w, v, g, copy)
        if skip is None or not skip[0]:
            blocked_momentum_sgd(w, v, g, lr, momentum, weight_decay, scale, copy)

    def _lrn_kernel_is_sound(self, size: int, beta: float) -> bool:
        """Return whether oneDNN's LRN is right and fast, as found by trial of version 3.2 against naive loops.

        With AVX-512 its gradient crashes at size 1, and is wrong from size 7 on for channel counts that are not
        multiples of 16. With another beta, or without AVX-512, it is right but slower than NumPy.
        """
        return size in {3, 5} and beta in {0.75, 1.0} and self.library.has_avx512


class OneDnnBfloat16Backend(OneDnnOperations, HalfBackend):
    """Backend on oneDNN in bfloat16, by the library of `inner`, which computes LRN and what is small, in float32."""

    def __init__(self, inner: OneDnnBackend, bfloat16: np.dtype[Any]) -> None:
        HalfBackend.__init__(self, inner)
        OneDnnOperations.__init__(self, inner.library, bfloat16, HalfBackend(inner))

    def momentum_sgd(
        self,
        w: np.ndarray,
        v: np.ndarray,
        g: np.ndarray,
        lr: float,
        momentum: float,
        weight_decay: float,
        scale: float = 1.0,
        copy: np.ndarray | None = None,
        skip: np.ndarray | None = None,
    ) -> None:
        """See Backend. oneDNN rounds in half of NumPy's time."""
        check_momentum_sgd(w, v, g, copy)
        self._inner.momentum_sgd(w, v, g, lr, momentum, weight_decay, scale, skip=skip)
        if copy is not None and w.size and (skip is None or not skip[0]):
            self._run(builders.rounding, w.size, {SRC: w, DST: copy})
