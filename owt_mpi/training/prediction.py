"""What the planner foretells of a run on a described cluster: the scheme to train with, and the time of a step."""

from dataclasses import dataclass, replace

from owt_mpi.accounts import Accounts
from owt_mpi.comm.base import Communicator
from owt_mpi.config import Config
from owt_mpi.metrics import Reporter
from owt_mpi.nn.model import Builder, InputSpec
from owt_mpi.parallel.head_update import head_update_of, parse_head_update
from owt_mpi.parallel.layout import SchemeName
from owt_mpi.planner.choice import SCHEMES, PlanCase, choose, plan_rows, reason, refuse_memory, step_timing
from owt_mpi.planner.cluster_files import load_cluster
from owt_mpi.planner.traced_step import SyncOptions
from owt_mpi.training.setup import build_model, make_plan

_WITH_PASSES: tuple[SchemeName, ...] = ("b", "c", "d")
_NO_CLUSTER = (
    "{scheme}, whatever the machine; to have the planner choose, give --cluster NAME or FILE.toml "
    "(mpirun -n {size} python -m owt_mpi.plan --measure here.toml makes one)"
)


@dataclass(frozen=True)
class Prediction:
    """The seconds of a step that the planner foretells, and in words for what, and why that was chosen."""

    seconds: float
    said: str


def foretold(
    config: Config, spec: InputSpec, images: int, backend: str, world: Communicator
) -> tuple[Config, Prediction | None]:
    """Return `config` with the scheme and group size that the planner chooses, and what it foretells of them.

    `images` are those of a rank and step. Rank 0 plans, and all ranks take it; all call. The configuration stays as it
    is without --cluster, which gives no prediction, and where it names a scheme. ValueError, the same on all ranks, if
    there is no such cluster, or what was asked for is not possible on it.
    """
    if not config.parallel.cluster:
        return config, None
    planned: tuple[Config, Prediction] | ValueError | None = None
    if world.rank == 0:
        try:
            planned = _planned(config, spec, images, backend, world.size)
        except ValueError as error:
            planned = error
    planned = world.all_gather_object(planned)[0]
    if isinstance(planned, ValueError):
        raise planned
    assert planned is not None
    return planned


def scheme_facts(config: Config, prediction: Prediction | None, size: int) -> dict[str, str]:
    """Return what is to be said of the choice of the scheme; nothing where the user made it."""
    if prediction is not None:
        return {"scheme": prediction.said}
    if config.parallel.scheme != "auto" or size == 1:
        return {}
    return {"scheme": _NO_CLUSTER.format(scheme=make_plan(config, size).scheme, size=size)}


def report_step(prediction: Prediction, accounts: Accounts, rank: int, step: int, reporter: Reporter) -> None:
    """Say and record how long the steps took beside what was foretold, the first ones left out if there are others."""
    times, num_steps = accounts.warm(rank)
    if not num_steps:
        return
    measured, waited = times.steps / num_steps, times.data_wait / num_steps
    reporter.record(
        "prediction", step=step, steps=num_steps, predicted_step_seconds=prediction.seconds,
        measured_step_seconds=measured, data_wait_seconds=waited,
    )  # fmt: skip
    reporter.say(
        f"a step: {prediction.seconds * 1e3:.3f} ms predicted, {measured * 1e3:.3f} ms measured "
        f"({measured / prediction.seconds - 1:+.0%}), {waited * 1e3:.3f} ms of them waiting for data; mean of "
        f"{num_steps} steps"
    )


def _planned(config: Config, spec: InputSpec, images: int, backend: str, size: int) -> tuple[Config, Prediction]:
    options = config.parallel
    case = _case(config, spec, images, backend)
    name = f"--cluster {options.cluster}"
    if case.cluster.most_ranks and size > case.cluster.most_ranks:
        raise ValueError(f"{name} has {case.cluster.most_ranks} ranks, and {size} were started; give one with more")
    if options.scheme != "auto":
        plan = make_plan(config, size)
        plan.check(case.builder(spec), images)
        case.cluster.device.peak.check(case.precision)
        seconds = step_timing(case, plan).seconds
        return config, Prediction(seconds, f"{plan.scheme_words}, as told; {seconds * 1e3:.3f} ms a step by {name}")
    if options.senders:
        raise ValueError(
            f"--senders {options.senders} and --scheme auto with {name}: give --scheme b or c, or leave it"
        )
    groups, schemes = _allowed(config, size)
    rows = plan_rows(case, size, groups, schemes)
    refuse_memory(case, rows)
    best = choose(rows)
    group_size = best.group_size if 1 < best.group_size < size else 0
    chosen = replace(config, parallel=replace(options, scheme=best.scheme, head_group_size=group_size))
    said = f"auto, simulated on {name}. {reason(rows, best)}"
    return chosen, Prediction(best.seconds, said)


def _allowed(config: Config, size: int) -> tuple[tuple[int, ...], tuple[SchemeName, ...]]:
    """Return the group sizes (none: all) and schemes to choose from, so that all of them train the network alike."""
    group_size = config.parallel.head_group_size
    groups = (group_size,) if group_size else ()
    if size == 1:
        return (), SCHEMES
    if any(update.passes for _, update in parse_head_update(config.parallel.head_update)):
        return groups or (size,), _WITH_PASSES  # a group of another size has other passes, and so other updates
    return groups, tuple(scheme for scheme in SCHEMES if scheme != "dp") if group_size > 1 else SCHEMES


def _case(config: Config, spec: InputSpec, images: int, backend: str) -> PlanCase:
    options = config.parallel
    if options.dtype != "float32":
        raise ValueError(f"--cluster {options.cluster} goes with --dtype float32: {options.dtype} is not planned")
    cluster = replace(load_cluster(options.cluster), sums_by_level=options.node_sums == "sharded")
    update = head_update_of(parse_head_update(options.head_update), 1)
    builder = _builder(config, backend)
    sync = SyncOptions(options.trunk_sync, options.wire_dtype, options.bucket_mib)
    return PlanCase(builder, spec, images, cluster, options.precision, update, sync=sync)


def _builder(config: Config, backend: str) -> Builder:
    return lambda spec: build_model(config, spec.channels, spec.num_classes, backend)
