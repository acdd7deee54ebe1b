"""What `python -m owt_mpi.bench` is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from owt_mpi.backends.precision import Precision
from owt_mpi.parallel_options import check_cudnn

Part = Literal["conformance", "convolutions", "step", "schemes"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class BenchOptions:
    """What is measured."""

    model: str = "alexnet-owt"
    """The network: one that `python -m owt_mpi.train` knows, or your own as FILE.py:FUNCTION."""
    crop: int = 224
    """Side of the images."""
    classes: int = 1000
    """Number of classes."""
    batch: int = 128
    """Images a rank trains on in a step."""
    gpu: bool = False
    """Measure a GPU, or end with an error where there is none: --backend cuda."""
    backend: Literal["auto", "cuda", "onednn", "reference"] = "auto"
    """What computes."""
    precision: tuple[Precision, ...] = ("fp32",)
    """What to compute in, one after the other: some of fp32, tf32 (a GPU alone), bf16, fp16; see python -m
    owt_mpi.train --help. Without a GPU fp16 is NumPy's, which says what is right and not how fast."""
    measure: tuple[Part, ...] = PARTS
    """What to measure: some of conformance, convolutions, step, schemes. All but the last are of the first rank, while
    the others wait."""
    ranks: tuple[int, ...] = ()
    """Numbers of ranks to measure the schemes on, of those that were started; none given: all of them."""
    virtual_ranks: int = 0
    """Ranks as threads of this one process, which share a GPU; 0: ranks are MPI's."""
    transport: Literal["auto", "mpi", "staged", "nccl"] = "auto"
    """How arrays of a GPU move between ranks; see python -m owt_mpi.train --help."""
    repeats: int = 10
    """Steps, and runs of a convolution, that are counted; each is preceded by some that are not."""
    threads: int = 0
    """CPU threads a rank computes with; 0: the node's cores divided by its ranks."""
    cudnn_autotune: bool = False
    """Run all of cuDNN's plans for a convolution when it is first met, and take the fastest."""
    deterministic: bool = False
    """Take no algorithm of cuDNN whose sums may come in another order in another run."""
    workspace_mib: float = 0.0
    """The most memory that one of cuDNN's convolutions may work in; 0: a sixteenth of the GPU's."""
    json: str = ""
    """Also write everything to this file as JSON."""
    markdown: bool = False
    """Print a section for docs/gpu-results.md."""

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        least = {"crop": 1, "classes": 2, "batch": 1, "virtual_ranks": 0, "repeats": 1, "threads": 0}
        for name, at_least in least.items():
            if getattr(self, name) < at_least:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, but must be at least {at_least}"
                )
        if self.gpu and self.backend not in ("auto", "cuda"):
            raise ValueError(f"--gpu and --backend {self.backend} contradict one another; leave one of the two out")
        if any(ranks < 2 for ranks in self.ranks):
            raise ValueError(f"--ranks are {self.ranks}, but a scheme needs 2 ranks or more; --measure step has one")
        if not self.measure:
            raise ValueError(f"--measure names nothing; give some of {', '.join(PARTS)}")
        if not self.precision or len(set(self.precision)) < len(self.precision):
            raise ValueError(
                f"--precision is {' '.join(self.precision) or 'empty'}; give some of fp32, tf32, bf16, fp16, each once"
            )
        check_cudnn(self.cudnn_autotune, self.deterministic, self.workspace_mib)
        if self.json and not Path(self.json).resolve().parent.is_dir():
            raise ValueError(f"--json {self.json}: there is no folder {Path(self.json).resolve().parent}")
