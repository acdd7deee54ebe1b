"""What a training run is told of ranks and devices."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

_MOST_CHUNK_MIB = 256


@dataclass(frozen=True)
class ParallelOptions:
    """Ranks and devices."""

    scheme: Literal["auto", "dp", "a", "b", "c", "d"] = "auto"
    """How the head is spread over ranks. a, b, c: its units are split, and the examples reach its ranks all at once
    (a), from one rank a pass (b), from every rank in every pass (c); d: its inputs are split instead, as in (c) with
    fewer bytes; dp: not spread at all, data parallelism in every layer; auto: what the planner finds fastest on
    --cluster, with its head-group-size unless one is given; without --cluster c, or d where fc-crosstalk is below
    1."""
    cluster: str = ""
    """What the ranks run on, for --scheme auto and to have a step's time predicted: a shipped description, such as
    dgx-a100, or a FILE.toml, such as mpirun -n K python -m owt_mpi.plan --measure FILE.toml makes."""
    senders: int = 0
    """For schemes b and c: how many ranks send in a pass, between 1 (b) and all (c); 0: as the scheme says."""
    head_group_size: int = 0
    """Split the head over groups of that many ranks, each group with a copy; 0: over all ranks."""
    head_update: str = "per-iteration"
    """When the head learns: per-iteration, per-pass (the paper's variable batch size) or every-N-passes; epochs may
    differ: per-pass,31:per-iteration."""
    virtual_ranks: int = 0
    """Train as that many ranks would, as threads of this one process; 0: ranks are MPI's."""
    trunk_sync: Literal["all-reduce", "sharded"] = "all-reduce"
    """How ranks that hold the same weights (the trunk's; a head's copies) keep them the same. all-reduce: every rank
    gets the summed gradients and updates all weights; sharded (the paper's): each rank gets the sum for 1/K of them,
    updates it, with momentum for that part alone, and sends it to all."""
    wire_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Type in which these gradients cross; they are added up as computed. auto: as computed, nothing is rounded;
    bfloat16 keeps 3 digits; float16 keeps 4 of what is between 6e-5 and 65504, and is infinite above."""
    recompute: Literal["none", "trunk"] = "none"
    """trunk: keep less of the trunk's activations and compute the others again in the backward pass, for the same
    weights to the bit, a forward pass more time and less memory."""
    bucket_mib: float = 4.0
    """Gradients are summed over ranks in pieces of that size, while the backward pass runs."""
    transport: Literal["auto", "mpi", "staged", "nccl"] = "auto"
    """How arrays of a GPU move. mpi: given to MPI as they are (CUDA-aware MPI); staged: in chunks through memory of
    the host; nccl: by NCCL; auto: nccl where it is installed, else mpi where it takes them, else staged. Arrays of the
    host are MPI's in any case."""
    gpu_aware_mpi: Literal["auto", "yes", "no"] = "auto"
    """Whether MPI takes arrays of a GPU; auto: as OWT_MPI_GPU_AWARE (1 or 0) says, else as the library says of itself.
    One element is tried at the start, which ends the run where yes is wrong."""
    staging_chunk_mib: float = 4.0
    """Size of the chunks of transport staged."""
    node_sums: Literal["flat", "leaders", "sharded"] = "flat"
    """How sums over ranks on several nodes are made. flat: in one go; leaders: in each node, then by one rank of each,
    then in each node again; sharded: the same for as many shards as a node has ranks, each by a rank of its own."""
    backend: Literal["auto", "cuda", "onednn", "reference"] = "auto"
    """What computes: CuPy and cuDNN, oneDNN, or plain NumPy; auto takes the first that works."""
    cudnn_autotune: bool = False
    """Run all of cuDNN's plans for a convolution when it is first met, and take the fastest."""
    deterministic: bool = False
    """Take no algorithm of cuDNN whose sums may come in another order in another run. All else repeats in any case:
    products, kernels and the CPU's backends have none such."""
    workspace_mib: float = 0.0
    """The most memory that one of cuDNN's convolutions may work in; 0: a sixteenth of the GPU's."""
    cuda_graph: bool = False
    """Record the trunk's kernels in CUDA graphs, in the second step, and start these from then on: less for the host to
    do, where it cannot keep up with the GPU. Changes nothing on the CPU."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of weights and momentum, and of activations with --precision fp32; float64 runs on the reference backend."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """What operations compute in: dtype (fp32); on a GPU, products of numbers rounded to 10 bits (tf32); or 16 bits,
    sums in float32, from float32 master weights (bf16, or fp16 with scaled losses). 16 bits cross between ranks."""
    threads: int = 0
    """CPU threads a rank computes with; 0: the node's cores divided by its ranks."""
    stall_seconds: float = 60.0
    """Say what a rank waits for, and on whom, once it has waited that long; 0: keep no watch and never abort."""
    stall_abort_seconds: float = 1800.0
    """End the job when a rank has waited that long; 0: never."""
    check_collectives: bool = False
    """Compare the ranks' collectives before each: slow, and names the ranks that differ where a run hangs or fails."""


def check_parallel(options: ParallelOptions) -> None:
    """Raise ValueError, naming the option and the way out, if options contradict each other."""
    _check_pieces(options.bucket_mib, options.staging_chunk_mib)
    check_cudnn(options.cudnn_autotune, options.deterministic, options.workspace_mib)
    _check_precision(options)
    _check_stall_limits(options.stall_seconds, options.stall_abort_seconds)


def _check_pieces(bucket_mib: float, chunk_mib: float) -> None:
    """Raise ValueError unless arrays can cross in pieces of these sizes."""
    if not (isfinite(bucket_mib) and bucket_mib > 0):
        raise ValueError(f"--bucket-mib is {bucket_mib}, but must be a finite number above 0")
    if not 2**-10 <= chunk_mib <= _MOST_CHUNK_MIB:
        raise ValueError(
            f"--staging-chunk-mib is {chunk_mib}, but must be between 2^-10 and {_MOST_CHUNK_MIB}, as eight chunks' "
            "memory is pinned"
        )


def check_cudnn(autotune: bool, deterministic: bool, workspace_mib: float) -> None:
    """Raise ValueError for options of cuDNN that are wrong whatever the GPU."""
    if autotune and deterministic:
        raise ValueError(
            "--cudnn-autotune and --deterministic exclude one another: the fastest plan may be another one in the next "
            "run, and give other bits; leave one of the two out"
        )
    if not (isfinite(workspace_mib) and workspace_mib >= 0):
        raise ValueError(f"--workspace-mib is {workspace_mib}, but must be a finite number, 0 or more")


def _check_precision(options: ParallelOptions) -> None:
    """Raise ValueError if two options each say what is computed in."""
    if options.precision != "fp32" and options.dtype != "float32":
        raise ValueError(
            f"--precision {options.precision} and --dtype {options.dtype} contradict each other; leave one of them out"
        )


def _check_stall_limits(stall: float, abort: float) -> None:
    """Raise ValueError unless the end of a job comes after the message."""
    if 0 < abort < stall:
        raise ValueError(
            f"--stall-abort-seconds {abort} is below --stall-seconds {stall}; make it larger, or 0 to never abort"
        )
