"""A trained network on as many ranks as there are, with the options of its own training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from owt_mpi.backends.base import Backend
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.half import carrying_halves
from owt_mpi.config import Config
from owt_mpi.evaluation.trained import Trained
from owt_mpi.nn.model import Model
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel.schemes import Senders
from owt_mpi.parallel_options import check_parallel
from owt_mpi.trainer import Trainer


@dataclass(frozen=True)
class NetworkOptions:
    """What computes the network; all else is as it was in training."""

    model: str = ""
    """The network, as for training, where the file that it was in is now another."""
    backend: Literal["auto", "cuda", "onednn", "reference"] = "auto"
    """What computes: CuPy and cuDNN, oneDNN, or plain NumPy; auto takes the first that works."""
    precision: Literal["as-trained", "fp32", "tf32", "bf16", "fp16"] = "as-trained"
    """What operations compute in."""
    threads: int = 0
    """CPU threads a rank computes with; 0: the node's cores divided by its ranks."""

    def check(self) -> None:
        """Raise ValueError, naming the option, if a value can be seen to be wrong by itself."""
        if self.threads < 0:
            raise ValueError(f"--threads is {self.threads}, but must be at least 0")


@dataclass(frozen=True)
class RankOptions:
    """How the network is spread over ranks, which need not be as in training."""

    scheme: Literal["auto", "dp", "a", "b", "c", "d"] = "auto"
    """How the head is spread over ranks, as for training; dp: not at all."""
    head_group_size: int = 0
    """Split the head over groups of that many ranks, each group with a copy; 0: over all ranks."""
    senders: int = 0
    """For schemes b and c: how many ranks send in a pass; 0: as the scheme says."""
    images_per_rank: int = 0
    """Images that a rank looks at in one go; 0: about as many as in training."""
    transport: Literal["auto", "mpi", "staged", "nccl"] = "auto"
    """How arrays of a GPU move, as for training."""
    virtual_ranks: int = 0
    """Do it as that many ranks would, as threads of this one process; 0: ranks are MPI's."""

    def check(self) -> None:
        """Raise ValueError, naming the option, if a value can be seen to be wrong by itself."""
        for name in ("head_group_size", "senders", "images_per_rank", "virtual_ranks"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, but must be at least 0")


def config_to_look(trained: Config, network: NetworkOptions, ranks: RankOptions, views: Literal[0, 1, 10]) -> Config:
    """Return the options of the training with those that are now others; `views` are 0 for those of its validation.

    ValueError if they contradict each other.
    """
    parallel = replace(
        trained.parallel,
        scheme=ranks.scheme,
        head_group_size=ranks.head_group_size,
        senders=ranks.senders,
        virtual_ranks=ranks.virtual_ranks,
        transport=ranks.transport,
        gpu_aware_mpi="auto",
        node_sums="flat",
        backend=network.backend,
        precision=trained.parallel.precision if network.precision == "as-trained" else network.precision,
        dtype=trained.parallel.dtype if network.precision == "as-trained" else "float32",
        threads=network.threads,
        trunk_sync="all-reduce",
        recompute="none",
        cuda_graph=False,
    )
    check_parallel(parallel)
    return replace(
        trained,
        model=replace(trained.model, model=network.model or trained.model.model),
        data=replace(trained.data, validation_views=views or trained.data.validation_views),
        parallel=parallel,
    )


def check_outputs(model: Model, weights: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError if the network in `path` was trained for another number of classes."""
    last = model.head.parameters()[-1]
    if last.name in weights and weights[last.name].shape[:1] != last.shape[:1]:
        raise ValueError(
            f"the network in {path} tells {weights[last.name].shape[0]} classes apart, the data has {last.shape[0]}; "
            "give the --data of the classes that it was trained on"
        )


def rows_per_rank(plan: Plan, asked: int, trained_batch: int) -> int:
    """Return how many images a rank gets at a time: as `asked`, else about its share of the batch of the training."""
    if asked:
        return asked
    scheme, size = plan.make_scheme(), plan.ranks_sharing_head
    senders = scheme.senders if isinstance(scheme, Senders) else scheme.num_passes(size)
    share = -(-max(trained_batch, 1) // plan.num_ranks)
    return -(-share // senders) * senders


def load_network(
    trained: Trained, config: Config, model: Model, plan: Plan, world: Communicator, backend: Backend, rows: int
) -> Trainer:
    """Return the network with its trained weights, for `rows` images a rank. All ranks of `world` call.

    ValueError if they do not fit the model.
    """
    dtype = compute_dtype(config.parallel.precision, config.parallel.dtype)
    layout = make_layout(carrying_halves(world, dtype), plan)
    with trained.open_weights(model) as weights:
        check_outputs(model, weights, trained.path)
        return Trainer(config, model, layout, backend, rows * world.size, weights)
