"""A training run from configuration to weights: set up, epochs, validation, what is kept."""

import contextlib
import itertools
import json
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi import __version__
from owt_mpi.accounts import Accounts, write_wire
from owt_mpi.backends.cudnn import CudnnOptions
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.backends.threads import default_num_threads
from owt_mpi.checkpoint.weights import save_weights
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.checked import CheckedCommunicator
from owt_mpi.comm.guard import DATA_ERROR, USAGE_ERROR, CollectiveExit, agree
from owt_mpi.comm.half import carrying_halves
from owt_mpi.comm.ledger import Ledger, flow_rows
from owt_mpi.comm.metered import MeteredCommunicator
from owt_mpi.comm.placement import local_rank
from owt_mpi.comm.transport import open_transport
from owt_mpi.comm.watchdog import Watch
from owt_mpi.config import Config
from owt_mpi.data.loader import Loader
from owt_mpi.memory_check import agree_on_memory, memory_options, peak_resident_bytes
from owt_mpi.metrics import Reporter
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.recompute import recompute_trunk
from owt_mpi.nn.restricted import restricted
from owt_mpi.optim import schedule_factor
from owt_mpi.parallel.head_update import HeadSchedule, head_update_of, parse_head_update
from owt_mpi.parallel.layout import Layout, Plan, SchemeName, images_per_rank, make_layout
from owt_mpi.preset_files import preset_names, to_toml
from owt_mpi.stragglers import rank_lines
from owt_mpi.summary import print_summary, summarise
from owt_mpi.trace import Tracer
from owt_mpi.trainer import NonFiniteLoss, Score, Trainer
from owt_mpi.training_data import Data, make_loaders, open_readers


def run_training(config: Config, world: Communicator, ranks_sharing_cores: int) -> None:
    """Train as `config` says. All ranks of `world` call; `ranks_sharing_cores` of them run on this rank's cores.

    What is wrong with the options or the data ends all ranks together, with a CollectiveExit.
    """
    with _agreed(world, USAGE_ERROR):
        dtype = compute_dtype(config.parallel.precision, config.parallel.dtype)
        gpu_number = 0 if config.parallel.virtual_ranks else local_rank(world)  # virtual ranks share one
        backend, reason = select_backend(
            config.parallel.backend, dtype, gpu_number, _cudnn_options(config), config.parallel.precision == "tf32"
        )
        num_threads = config.parallel.threads or default_num_threads(ranks_sharing_cores)
        backend.set_num_threads(num_threads)
        per_rank = config.batch.images_per_rank or images_per_rank(config.batch.global_batch, world.size)
    with _agreed(world, USAGE_ERROR):
        transport = open_transport(world, backend, config.parallel)
    ledger = Ledger()
    watch = Watch(world.rank, config.parallel.stall_seconds, config.parallel.stall_abort_seconds)
    world = _observed(transport.comm, ledger, watch, config.parallel.check_collectives)
    with _agreed(world, DATA_ERROR):
        reader, validation_reader = open_readers(config)
    with _agreed(world, USAGE_ERROR):
        model = _model(config, reader.num_channels, reader.num_classes, backend.name)
        plan = _plan(config, world.size)
        plan.check(model, per_rank)
        head_updates = parse_head_update(config.parallel.head_update)
        for _, update in head_updates:
            update.period(plan.make_scheme().num_passes(plan.ranks_sharing_head))
        data = make_loaders(config, reader, validation_reader, per_rank, world, backend)
    layout = make_layout(carrying_halves(world, dtype), plan)
    if config.run.dry_run:
        if world.rank == 0:
            print(f"transport: {transport.description}\n")
            summary = summarise(model, layout, per_rank, dtype, memory_options(config, backend))
            print_summary(summary, config.run.json)
        return
    memory = agree_on_memory(config, model, layout, per_rank, backend)
    run_dir = _make_run_dir(config, world)
    num_steps = _num_steps(config, data)
    with (
        watch.running(run_dir / "progress"),
        Reporter(world.rank == 0, run_dir / "metrics.jsonl", num_steps, config.run.progress) as reporter,
    ):
        facts = {
            "backend": reason,
            "threads": f"{num_threads} a rank",
            "transport": transport.description,
            "ranks": layout.describe(),
            "batch": f"{per_rank * world.size} images a step, {per_rank} a rank",
            "memory": memory,
            "data": reader.describe(),
            "model": f"{model.name}, {model.loss} loss, {sum(p.size for p in model.parameters()):,} parameters",
        }
        for name, fact in facts.items():
            reporter.say(f"{name}: {fact}")
        if world.rank == 0:
            _write_description(run_dir, config, facts)
        trainer = Trainer(config, model, layout, backend, per_rank * world.size)
        with np.errstate(over="ignore", invalid="ignore"):  # the loss of every step is looked at
            accounts = Accounts(ledger, lambda: data.train.data_wait_seconds)
            tracer = None
            if config.run.trace:
                tracer = Tracer(world, run_dir / "trace.json", min(config.run.trace_steps, num_steps))
            score = _epochs(config, trainer, data, head_updates, reporter, accounts, tracer)
        reporter.say(f"memory: {peak_resident_bytes() / 1e6:,.1f} MB of the host resident at the peak on rank 0")
        _save(run_dir / "weights.h5", trainer, layout)
        lines = write_wire(run_dir / "wire.json", world, accounts)
        for line in lines + rank_lines(accounts.ranks, accounts.num_steps):
            reporter.say(line)
        if score is not None:
            reporter.say(f"validation accuracy {score.top1:.2%} (top-1), {score.top5:.2%} (top-5)")
        reporter.say(f"run kept in {run_dir}: config.toml, environment.json, metrics.jsonl, weights.h5, wire.json")


def _epochs(
    config: Config,
    trainer: Trainer,
    data: Data,
    head_updates: HeadSchedule,
    reporter: Reporter,
    accounts: Accounts,
    tracer: Tracer | None,
) -> Score | None:
    """Run the epochs, each followed by validation; return the last validation's score, None without any."""
    num_steps, step, score = _num_steps(config, data), 0, None
    total, window_start = Score(), 0
    accounts.open_window()
    for epoch in range(config.batch.epochs):
        trainer.set_head_update(head_update_of(head_updates, epoch + 1))
        for batch in data.train.epoch(epoch):
            options = config.optimizer
            factor = schedule_factor(step / num_steps, options.lr_milestones, options.lr_factor)
            try:
                total += trainer.train_step(batch, step, factor)
            except NonFiniteLoss as error:
                raise CollectiveExit(1, f"error: {error}") from None
            step += 1
            reporter.advance(step)
            if tracer is not None:
                with accounts.paused():
                    said = tracer.step_done(step)
                if said is not None:
                    reporter.say(said)
            if step % config.run.log_every == 0 or step == num_steps:
                ranks, flows = accounts.close_window(step - window_start, trainer.layout.world)
                times = ranks[trainer.layout.world.rank]
                speed = total.num_examples / times.steps
                data_wait, exchange_wait = times.data_wait / times.steps, times.exchange_wait / times.steps
                reporter.record(
                    "train", epoch=epoch + 1, step=step, lr=trainer.trunk_lr * factor, loss=total.loss, top1=total.top1,
                    images_per_second=speed, data_wait=data_wait, exchange_wait=exchange_wait,
                    **trainer.loss_scale.facts(),
                )  # fmt: skip
                reporter.record("wire", step=step, steps=step - window_start, flows=flow_rows(flows))
                reporter.record("ranks", step=step, steps=step - window_start, ranks=[asdict(each) for each in ranks])
                reporter.say(
                    f"epoch {epoch + 1}/{config.batch.epochs} step {step}/{num_steps}: loss {total.loss:.4f}, "
                    f"top-1 {total.top1:.1%}, {speed:.0f} images/s, "
                    f"data wait {data_wait:.0%}, exchange wait {exchange_wait:.0%}, {reporter.time_left(step)} left"
                )
                total, window_start = Score(), step
            if step == num_steps:
                break
        if data.validation is not None:
            with accounts.paused():
                score = validate(trainer, data.validation)
            reporter.record(
                "validation", epoch=epoch + 1, step=step, loss=score.loss, top1=score.top1, top5=score.top5,
                images=score.num_examples,
            )  # fmt: skip
            reporter.say(
                f"epoch {epoch + 1}/{config.batch.epochs} validation: loss {score.loss:.4f}, top-1 {score.top1:.2%}, "
                f"top-5 {score.top5:.2%} of {score.num_examples} images"
            )
        if step == num_steps:
            break
    return score


def _cudnn_options(config: Config) -> CudnnOptions:
    options = config.parallel
    workspace_bytes = int(options.workspace_mib * 2**20) if options.workspace_mib else None
    return CudnnOptions(options.cudnn_autotune, options.deterministic, workspace_bytes)


def validate(trainer: Trainer, loader: Loader) -> Score:
    """Return the score over all of the loader's images. All ranks call."""
    tally = np.zeros(4)
    for batch in loader.epoch(0):
        tally += trainer.validate(batch)
    return trainer.total_score(tally)


def _observed(comm: Communicator, ledger: Ledger, watch: Watch, is_checked: bool) -> Communicator:
    """Return `comm` with its collectives entered into the ledger, watched and, if so asked, checked."""
    comm = watch.communicator(MeteredCommunicator(comm, ledger))
    return CheckedCommunicator(comm) if is_checked else comm


@contextmanager
def _agreed(comm: Communicator, code: int) -> Iterator[None]:
    """Do a step that may fail on one rank alone; where it does, all ranks exit with `code`. All ranks enter."""
    try:
        yield
    except (ValueError, OSError) as error:
        agree(comm, error, code)
    else:
        agree(comm, None, code)


def _model(config: Config, channels: int, num_classes: int, backend: str) -> Model:
    options = config.model
    model = find_builder(options.model)(InputSpec(options.crop, channels, num_classes))
    model = restricted(model, options.fc_crosstalk, options.fc_blocks)
    if config.parallel.recompute == "none":
        return model
    return recompute_trunk(model, compute_dtype(config.parallel.precision, config.parallel.dtype).itemsize, backend)


def _plan(config: Config, num_ranks: int) -> Plan:
    options = config.parallel
    best: SchemeName = "c" if config.model.fc_crosstalk == 1 else "d"
    scheme = best if options.scheme == "auto" else options.scheme
    return Plan(num_ranks, scheme, options.head_group_size, options.senders)


def _num_steps(config: Config, data: Data) -> int:
    steps = config.batch.epochs * data.train.plan.steps_per_epoch
    return min(steps, config.batch.max_steps) if config.batch.max_steps else steps


def _make_run_dir(config: Config, world: Communicator) -> Path:
    """Return the run's folder, made by rank 0. CollectiveExit if it holds a run already or cannot be made."""
    run_dir = Path()
    with _agreed(world, USAGE_ERROR):
        if world.rank == 0:
            run_dir = Path(config.run.run_dir) if config.run.run_dir else _new_run_dir(config)
            if (run_dir / "metrics.jsonl").exists():
                raise ValueError(f"--run-dir {run_dir} holds a run already; choose another folder, or remove it")
            run_dir.mkdir(parents=True, exist_ok=True)
    return world.all_gather_object(run_dir)[0]


def _new_run_dir(config: Config) -> Path:
    """Return a new folder runs/NAME-DATE-TIME, with a number behind it where runs start in the same second."""
    shipped = config.run.preset in preset_names()
    name = config.run.preset if shipped else re.sub(r"[^\w.-]+", "_", Path(config.model.model).name)
    for number in itertools.count(1):
        run_dir = Path(f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}{f'-{number}' if number > 1 else ''}")
        with contextlib.suppress(FileExistsError):
            run_dir.mkdir(parents=True)
            return run_dir
    raise AssertionError("unreachable")


def _write_description(run_dir: Path, config: Config, facts: dict[str, str]) -> None:
    again = replace(config, run=replace(config.run, run_dir=""))  # the file is a preset for another run
    (run_dir / "config.toml").write_text(to_toml(again), encoding="utf-8")
    environment: dict[str, Any] = {
        "owt_mpi": __version__,
        "command": sys.argv,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "host": platform.node(),
        "platform": platform.platform(),
        **facts,
    }
    (run_dir / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")


def _save(path: Path, trainer: Trainer, layout: Layout) -> None:
    trainer.collect_masters()
    parameters = trainer.trunk.parameters() + trainer.head.parameters()
    save_weights(path, parameters, layout.head, is_writer=layout.world.rank == 0)
