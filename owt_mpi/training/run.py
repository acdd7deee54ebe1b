"""A training run from configuration to weights: set up, train, keep."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from owt_mpi import __version__
from owt_mpi.accounts import Accounts, write_wire
from owt_mpi.backends.base import Backend
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.checkpoint.reader import Checkpoint
from owt_mpi.checkpoint.saver import CheckpointSaver
from owt_mpi.checkpoint.weights import save_weights
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.checked import CheckedCommunicator
from owt_mpi.comm.guard import DATA_ERROR, USAGE_ERROR, CollectiveExit, agree, meet_at_end
from owt_mpi.comm.half import carrying_halves
from owt_mpi.comm.ledger import Ledger
from owt_mpi.comm.metered import MeteredCommunicator
from owt_mpi.comm.transport import open_transport
from owt_mpi.comm.watchdog import Watch
from owt_mpi.config import Config
from owt_mpi.data.facts import mean_and_scale
from owt_mpi.memory_check import MemoryReport, memory_options, peak_resident_bytes, report_memory
from owt_mpi.metrics import Reporter
from owt_mpi.nn.model import Model
from owt_mpi.parallel.head_update import HeadSchedule, parse_head_update
from owt_mpi.parallel.layout import Layout, images_per_rank, make_layout
from owt_mpi.stragglers import rank_lines
from owt_mpi.summary import print_summary, summarise
from owt_mpi.tensorboard import check_installed
from owt_mpi.trace import Tracer
from owt_mpi.trainer import Trainer
from owt_mpi.training.checkpoints import (
    NO_VALIDATION,
    DataState,
    Position,
    RunCheckpoints,
    best_top1_of,
    find_start,
    parse_every,
    position_of,
)
from owt_mpi.training.data import Data, data_facts, fill_cache, make_loaders, open_readers
from owt_mpi.training.first_weights import drawn_parameters, first_weights
from owt_mpi.training.folder import make_run_dir, write_description
from owt_mpi.training.loop import TrainingLoop, num_steps
from owt_mpi.training.prediction import Prediction, foretold, report_step, scheme_facts
from owt_mpi.training.resume import restore_momentum
from owt_mpi.training.samples import SampleRecorder
from owt_mpi.training.setup import agreed, build_model, make_plan, open_backend
from owt_mpi.trunk_pass import describe_replay

_KEPT = (
    "config.toml", "environment.json", "metrics.jsonl", "weights.h5", "wire.json", "samples.json", "tensorboard",
    "checkpoints",
)  # fmt: skip


@dataclass(frozen=True)
class _Setup:
    """What a run is made of, before anything is trained. `pinned_bytes`: the transport's; `facts` are for people."""

    config: Config
    world: Communicator
    backend: Backend
    model: Model
    layout: Layout
    data: Data
    images_per_rank: int
    head_updates: HeadSchedule
    ledger: Ledger
    watch: Watch
    pinned_bytes: int
    prediction: Prediction | None
    facts: dict[str, str]

    @property
    def data_state(self) -> DataState:
        """What the order of the samples depends on."""
        global_batch = self.images_per_rank * self.world.size
        options = self.config.data
        blocks = f" of {options.shuffle_block}, {options.shuffle_buffer} mixed" if options.shuffle == "block" else ""
        return DataState(
            global_batch,
            self.data.readers[0].num_samples,
            self.config.run.seed,
            f"{options.shuffle}{blocks}",
            options.last_batch,
        )

    @property
    def pixel_scale(self) -> np.ndarray:
        """What pixels are multiplied by, a number a channel."""
        statistics = self.data.readers[0].statistics
        return mean_and_scale(statistics.mean, statistics.std, self.config.data.normalise)[1]


def run_training(config: Config, world: Communicator, ranks_sharing_cores: int) -> None:
    """Train as `config` says. All ranks of `world` call; `ranks_sharing_cores` of them run on this rank's cores.

    What is wrong with the options or the data ends all ranks together, with a CollectiveExit.
    """
    setup = _set_up(config, world, ranks_sharing_cores)
    if config.run.dry_run:
        _print_dry_run(setup)
    else:
        _train(setup)


def _set_up(config: Config, world: Communicator, ranks_sharing_cores: int) -> _Setup:
    """Return what the run is made of. CollectiveExit if something is wrong. All ranks call."""
    with agreed(world, USAGE_ERROR):
        if config.run.tensorboard:
            check_installed()
        dtype = compute_dtype(config.parallel.precision, config.parallel.dtype)
        backend, reason, num_threads = open_backend(config, world, ranks_sharing_cores)
        per_rank = config.batch.images_per_rank or images_per_rank(config.batch.global_batch, world.size)
    with agreed(world, USAGE_ERROR):
        transport = open_transport(world, backend, config.parallel)
    ledger = Ledger()
    watch = Watch(world.rank, config.parallel.stall_seconds, config.parallel.stall_abort_seconds)
    world = _observed(transport.comm, ledger, watch, config.parallel.check_collectives)
    with agreed(world, DATA_ERROR):
        reader, validation_reader = open_readers(config, num_threads)
    with agreed(world, USAGE_ERROR):
        model = build_model(config, reader.num_channels, reader.num_classes, backend.name)
    with agreed(world, USAGE_ERROR):
        config, prediction = foretold(config, model.spec, per_rank, backend.name, world)
    with agreed(world, USAGE_ERROR):
        plan = make_plan(config, world.size)
        plan.check(model, per_rank)
        head_updates = parse_head_update(config.parallel.head_update)
        for _, update in head_updates:
            update.period(plan.make_scheme().num_passes(plan.ranks_sharing_head))
        parse_every(config.run.checkpoint_every)
        drawn_parameters(config, model)
        data = make_loaders(config, reader, validation_reader, per_rank, world, backend)
    layout = make_layout(carrying_halves(world, dtype), plan)
    facts = {
        "backend": reason + describe_replay(backend, config.parallel.cuda_graph),
        "threads": f"{num_threads} a rank",
        "transport": transport.description,
        **scheme_facts(config, prediction, world.size),
        "ranks": layout.describe(),
        "batch": f"{per_rank * world.size} images a step, {per_rank} a rank",
        "data": reader.describe(),
        "model": f"{model.name}, {model.loss} loss, {sum(p.size for p in model.parameters()):,} parameters",
    }
    return _Setup(
        config, world, backend, model, layout, data, per_rank, head_updates, ledger, watch, transport.pinned_bytes,
        prediction, facts,
    )  # fmt: skip


def _print_dry_run(setup: _Setup) -> None:
    memory = _report_memory(setup)
    said: list[str] = []
    with agreed(setup.world, DATA_ERROR):
        if setup.config.run.init_from:
            with first_weights(setup.config, setup.model, setup.pixel_scale) as first:
                said = first.said
    if setup.world.rank == 0:
        print(*said, sep="\n", end="\n" * bool(said))
        told = [f"{name}: {setup.facts[name]}\n" for name in ("transport", "scheme") if name in setup.facts]
        print(*told, f"memory: {memory}\n", sep="")
        config, parallel = setup.config, setup.config.parallel
        dtype = compute_dtype(parallel.precision, parallel.dtype)
        options = memory_options(config, setup.backend)
        print_summary(summarise(setup.model, setup.layout, setup.images_per_rank, dtype, options), config.run.json)


def _report_memory(setup: _Setup) -> MemoryReport:
    """Return what is forecast and what is there. All ranks call."""
    images = setup.images_per_rank
    return report_memory(setup.config, setup.model, setup.layout, images, setup.backend, setup.pinned_bytes)


def _train(setup: _Setup) -> None:
    config, world = setup.config, setup.world
    steps = num_steps(config, setup.data)
    with agreed(world, DATA_ERROR):
        cache = fill_cache(config, setup.data.readers, world)
    memory = _report_memory(setup)  # of what the cache has left
    # in a single step momentum and buckets are not written to, and are nowhere, while activations are kept
    agree(world, None if config.run.ignore_memory or steps == 1 else memory.refusal(), USAGE_ERROR)
    with agreed(world, USAGE_ERROR):
        run_dir = make_run_dir(config, world)
    with setup.watch.running(run_dir / "progress"):
        _train_in(run_dir, setup, cache, memory, steps)
        meet_at_end(world)  # a rank that has stopped is missed while the others still watch


def _train_in(run_dir: Path, setup: _Setup, cache: dict[str, str], memory: MemoryReport, steps: int) -> None:
    """Train for `steps` steps, keeping the run in `run_dir`."""
    config, world = setup.config, setup.world
    with agreed(world, DATA_ERROR):
        start, said = find_start(config.run.resume, run_dir / "checkpoints", world)
    events = run_dir / "tensorboard" if config.run.tensorboard else None
    facts = {**setup.facts, "memory": str(memory), **cache}
    with agreed(world, DATA_ERROR):
        if world.rank == 0:
            write_description(run_dir, config, facts)
        new_reporter = Reporter(world.rank == 0, run_dir / "metrics.jsonl", steps, config.run.progress, events)
    with new_reporter as reporter:
        for line in [*(f"{name}: {fact}" for name, fact in facts.items()), *said]:
            reporter.say(line)
        with agreed(world, DATA_ERROR):
            trainer, position, best_top1 = _start(setup, start, reporter.say)
        facts_of_data = data_facts(setup.data.readers[0])
        saver = CheckpointSaver(
            run_dir / "checkpoints",
            world,
            config.run.keep_checkpoints,
            asdict(config),
            f"owt_mpi {__version__}",
            None if facts_of_data is None else asdict(facts_of_data),
        )
        with np.errstate(over="ignore", invalid="ignore"):  # the loss of every step is looked at
            accounts = Accounts(setup.ledger, lambda: setup.data.train.data_wait_seconds)
            tracer = None
            if config.run.trace:
                num_traced = min(config.run.trace_steps, steps - position.step)
                tracer = Tracer(world, run_dir / "trace.json", num_traced)
            batch = setup.data_state.global_batch
            reporter.begin_at(position.step, ranks=world.size, global_batch=batch)
            checkpoints = RunCheckpoints(
                saver,
                parse_every(config.run.checkpoint_every),
                setup.data_state,
                best_top1,
                config.run.check_weights > 0,
                None if start is None or start.parent != run_dir / "checkpoints" else position.step,
            )
            loop = TrainingLoop(
                config, trainer, setup.data, setup.head_updates, reporter, accounts, checkpoints, position, tracer,
                _sample_recorder(setup, run_dir / "samples.json"),
            )  # fmt: skip
            score = loop.run()
        reporter.say(f"memory: {peak_resident_bytes() / 1e6:,.1f} MB of the host resident at the peak on rank 0")
        _save(run_dir / "weights.h5", trainer, setup.layout, checkpoints)
        lines = write_wire(run_dir / "wire.json", world, accounts)
        for line in lines + rank_lines(accounts.ranks, accounts.num_steps):
            reporter.say(line)
        if setup.prediction is not None:
            report_step(setup.prediction, accounts, world.rank, steps, reporter)
        if score is not None:
            reporter.say(f"validation accuracy {score.top1:.2%} (top-1), {score.top5:.2%} (top-5)")
        kept = [name for name in _KEPT if (run_dir / name).exists()]
        reporter.say(f"run kept in {run_dir}: {', '.join(kept)}")


def _sample_recorder(setup: _Setup, file: Path) -> SampleRecorder | None:
    """Return what keeps samples of the validation, None where there is none."""
    loader, (train, validation) = setup.data.samples, setup.data.readers
    facts = data_facts(train)
    if loader is None or validation is None or facts is None:
        return None
    return SampleRecorder(loader, validation, facts, setup.config.model.crop, file)


def _start(setup: _Setup, start: Path | None, say: Callable[[str], None]) -> tuple[Trainer, Position, float]:
    """Return a trainer that is where the checkpoint `start` says, where that is, and the best validation until then."""
    model, layout, backend, data = setup.model, setup.layout, setup.backend, setup.data_state
    init_from = setup.config.run.init_from
    if start is None and init_from:
        with first_weights(setup.config, model, setup.pixel_scale) as first:
            for line in first.said:
                say(line)
            trainer = Trainer(setup.config, model, layout, backend, data.global_batch, first.values, first.drawn)
        return trainer, Position(), NO_VALIDATION
    if start is None:
        return Trainer(setup.config, model, layout, backend, data.global_batch), Position(), NO_VALIDATION
    if init_from:
        say(f"--init-from {init_from} is left aside: the checkpoint goes before")
    with Checkpoint(start) as checkpoint:
        position = position_of(checkpoint.manifest, data)
        trainer = Trainer(setup.config, model, layout, backend, data.global_batch, checkpoint.weights)
        restore_momentum(trainer, checkpoint)
        trainer.loss_scale.restore(checkpoint.manifest.state.get("loss_scale", {}))
        trainer.bad_steps.restore(checkpoint.manifest.state.get("bad_steps", {}))
        return trainer, position, best_top1_of(checkpoint.manifest)


def _observed(comm: Communicator, ledger: Ledger, watch: Watch, is_checked: bool) -> Communicator:
    """Return `comm` with its collectives entered into the ledger, watched and, if so asked, checked."""
    comm = watch.communicator(MeteredCommunicator(comm, ledger))
    return CheckedCommunicator(comm) if is_checked else comm


def _save(path: Path, trainer: Trainer, layout: Layout, checkpoints: RunCheckpoints) -> None:
    """Write the weights. CollectiveExit, with the way to get them, where they cannot be written. All ranks call."""
    trainer.collect_masters()
    parameters, is_writer = trainer.trunk.parameters() + trainer.head.parameters(), layout.world.rank == 0
    said = ""
    try:
        save_weights(path, parameters, layout.head, is_writer)
    except OSError as error:
        said = f"error: {path} could not be written ({error}); {checkpoints.describe_way_on()}"
    said = layout.world.all_gather_object(said)[0]
    if said:
        raise CollectiveExit(1, said)
