"""What a training run is told: options with defaults, and every check that needs no data."""

from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Literal, get_args, get_origin

from owt_mpi.data_options import DataOptions
from owt_mpi.input_file import short
from owt_mpi.parallel_options import ParallelOptions, check_parallel


@dataclass(frozen=True)
class ModelOptions:
    """The network."""

    model: str = "alexnet-owt"
    """A shipped network (alexnet-owt, alexnet-owt-384, alexnet, vgg11, vgg13, vgg16, vgg19, cifar-quick, small), or
    your own as FILE.py:FUNCTION."""
    crop: int = 224
    """Side of the square the network sees: random crops of the images in training, the centre in validation."""
    fc_crosstalk: float = 1.0
    """Below 1, FC layers are cut into fc-blocks blocks, and a block of units reads its own block of the features and
    this share of every other: less crosses between ranks. 1: dense layers."""
    fc_blocks: int = 8
    """Blocks of the FC layers where fc-crosstalk is below 1; the ranks that share a head must divide them."""


@dataclass(frozen=True)
class BatchOptions:
    """The batch and the length of the training."""

    images_per_rank: int = 128
    """Images a rank trains on in a step (n): the batch grows with the ranks. 0 where global-batch is given."""
    global_batch: int = 0
    """Images of all ranks together in a step, each rank takes its share; 0 where images-per-rank is given."""
    epochs: int = 90
    """Passes over the training images."""
    max_steps: int = 0
    """Stop after that many steps; 0: no limit."""


@dataclass(frozen=True)
class OptimizerOptions:
    """Momentum SGD: v := momentum v - lr (grad + weight-decay w); w := w + v."""

    lr: float = 0.01
    """Learning rate that is right for a batch of lr-base-batch."""
    lr_base_batch: int = 128
    """The batch that lr is given for."""
    trunk_lr_rule: Literal["linear", "sqrt", "none"] = "linear"
    """How the trunk's rate follows its batch: times k = batch / lr-base-batch, times sqrt(k), or not at all."""
    head_lr_rule: Literal["linear", "sqrt", "none"] = "linear"
    """The same for the head."""
    lr_milestones: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Fractions of the training after which the rates are multiplied by lr-factor."""
    lr_factor: float = 0.15874
    """See lr-milestones; the paper's is 250^(-1/3)."""
    momentum: float = 0.9
    """Share of the last update that goes on."""
    weight_decay: float = 0.0005
    """Pull of the weights (not biases) towards 0."""
    bias_lr_multiplier: float = 2.0
    """Biases learn at that many times the rate."""


@dataclass(frozen=True)
class RunOptions:
    """The run and what it leaves behind."""

    seed: int = 1
    """Everything random is a function of it: weights, order, crops, dropout."""
    preset: str = ""
    """Start from these options, then apply the others given: a shipped preset or a FILE.toml."""
    run_dir: str = ""
    """Folder for configuration, metrics and weights; default: runs/PRESET-DATE-TIME."""
    resume: str = "none"
    """Go on from a checkpoint: auto (the newest whole one in the run's folder; where there is none, begin), or the path
    of a checkpoint or of a run's folder. Ranks, scheme, groups and precision may differ from what they were."""
    init_from: str = ""
    """Begin with the weights in a .safetensors file: one of python -m owt_mpi.export, or torchvision's. Momentum and
    steps begin anew. Where --resume auto finds a checkpoint, that goes before."""
    init_except: str = ""
    """Layers that do not get their weights from --init-from but from the seed, with commas between them: fc8, the last
    one of alexnet and vgg, to learn other classes than the file's."""
    checkpoint_every: str = "epoch"
    """When to write one, besides at the end: a number of steps (500), minutes (30m), epoch, or none: never."""
    keep_checkpoints: int = 3
    """How many of the newest stay; that of the best validation stays in any case."""
    check_weights: int = 500
    """Steps between looks whether the ranks that should hold the same weights do; also before each checkpoint, which is
    not written if they do not. 0: never."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What becomes of a step whose loss or gradients are no finite numbers. stop: it ends the run, and a checkpoint of
    before it is kept; skip: it is left out on all ranks, nothing is learnt from it, and the run goes on. With skip, a
    step above loss-limit is left out too."""
    loss_limit: float = 5.0
    """A loss explodes that is more than that many times the median of the last 100 steps' and more than guessing costs;
    0: none does. While it does no checkpoint is taken."""
    max_bad_steps: int = 20
    """So many steps in a row whose loss explodes, or that were left out, end the run."""
    max_minutes: float = 0.0
    """Stop after that many minutes, with a checkpoint and exit code 85, as after SIGTERM and SIGUSR1; 0: no limit."""
    log_every: int = 20
    """Steps between lines of progress and entries in metrics.jsonl."""
    layer_stats_every: int = 500
    """Steps between looks at every layer: mean, standard deviation and zeros of its outputs, and how far its weights
    move. Costs about half a step each time; 0: never."""
    samples: int = 12
    """Validation images of which samples.json tells what the network says, after each validation of the same ones."""
    tensorboard: bool = False
    """Also write what metrics.jsonl says as events for TensorBoard, into the folder tensorboard of the run."""
    progress: Literal["auto", "bar", "lines"] = "auto"
    """Show a bar that moves besides the lines; auto: where the output is a terminal that no mpirun is in front of."""
    dry_run: bool = False
    """Print layers, parameters, memory a rank and bytes a step, and stop before training."""
    trace: bool = False
    """Write a trace of the first steps, of all ranks, to trace.json in the run's folder; ui.perfetto.dev shows it."""
    trace_steps: int = 20
    """How many steps to trace."""
    ignore_memory: bool = False
    """Start even if more memory is needed, at the least, than is free."""
    json: str = ""
    """Also write the dry run's table to this file as JSON."""


@dataclass(frozen=True)
class Config:
    """All options of a training run."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    batch: BatchOptions = field(default_factory=BatchOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    parallel: ParallelOptions = field(default_factory=ParallelOptions)
    run: RunOptions = field(default_factory=RunOptions)

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        at_least = {
            "crop": (self.model.crop, 1),
            "fc-blocks": (self.model.fc_blocks, 1),
            **self.data.at_least(),
            "images-per-rank": (self.batch.images_per_rank, 0),
            "global-batch": (self.batch.global_batch, 0),
            "epochs": (self.batch.epochs, 1),
            "max-steps": (self.batch.max_steps, 0),
            "lr-base-batch": (self.optimizer.lr_base_batch, 1),
            "virtual-ranks": (self.parallel.virtual_ranks, 0),
            "threads": (self.parallel.threads, 0),
            "check-weights": (self.run.check_weights, 0),
            "max-bad-steps": (self.run.max_bad_steps, 1),
            "keep-checkpoints": (self.run.keep_checkpoints, 1),
            "log-every": (self.run.log_every, 1),
            "layer-stats-every": (self.run.layer_stats_every, 0),
            "samples": (self.run.samples, 0),
            "trace-steps": (self.run.trace_steps, 1),
        }
        _check_choices(self)
        for option, (value, least) in at_least.items():
            if value < least:
                raise ValueError(f"--{option} is {value}, but must be at least {least}")
        if not 0 <= self.model.fc_crosstalk <= 1:
            raise ValueError(f"--fc-crosstalk is {self.model.fc_crosstalk}, but must be a share between 0 and 1")
        optimizer = self.optimizer
        rates = {
            "lr": optimizer.lr,
            "momentum": optimizer.momentum,
            "weight-decay": optimizer.weight_decay,
            "lr-factor": optimizer.lr_factor,
            "bias-lr-multiplier": optimizer.bias_lr_multiplier,
            "max-minutes": self.run.max_minutes,
            "loss-limit": self.run.loss_limit,
            "cache": self.data.cache,
            "colour-noise": self.data.colour_noise,
            "stall-seconds": self.parallel.stall_seconds,
            "stall-abort-seconds": self.parallel.stall_abort_seconds,
        }
        for option, rate in rates.items():
            if not (isfinite(rate) and rate >= 0):
                raise ValueError(f"--{option} is {rate}, but must be a finite number, 0 or more")
        if optimizer.momentum >= 1:
            raise ValueError(f"--momentum is {optimizer.momentum}, but must be below 1, or updates grow without end")
        if any(not 0 < milestone < 1 for milestone in optimizer.lr_milestones):
            raise ValueError(f"--lr-milestones are {optimizer.lr_milestones}, but are fractions between 0 and 1")
        check_parallel(self.parallel)
        if bool(self.batch.images_per_rank) == bool(self.batch.global_batch):
            raise ValueError(
                f"--images-per-rank is {self.batch.images_per_rank} and --global-batch {self.batch.global_batch}; "
                "give one of the two"
            )
        _check_first_weights(self.run)
        if self.run.json and not self.run.dry_run:
            raise ValueError(f"--json {self.run.json} goes with --dry-run; a run's figures are in its metrics.jsonl")
        if self.run.json and not Path(self.run.json).resolve().parent.is_dir():
            raise ValueError(f"--json {self.run.json}: there is no folder {Path(self.run.json).resolve().parent}")
        if not self.data.data:
            raise ValueError(
                "--data is missing: give a folder of shards (python -m data_prep.build_shards), or synthetic; --help "
                "has examples"
            )


def _check_first_weights(run: RunOptions) -> None:
    """Raise ValueError where it is not clear what the weights begin with."""
    if run.init_except and not run.init_from:
        raise ValueError(f"--init-except {run.init_except} goes with --init-from, which is not given")
    if run.init_from and run.resume not in ("none", "auto"):
        raise ValueError(
            f"--init-from {run.init_from} and --resume {run.resume} both say what to begin with; give one of the two, "
            "or --resume auto, which looks for a checkpoint first"
        )


def _check_choices(config: Config) -> None:
    """Raise ValueError where an option of a few values has another (the command line checks that, a file does not)."""
    for section in (getattr(config, f.name) for f in fields(config)):
        for option in fields(section):
            value, choices = getattr(section, option.name), get_args(option.type)
            if get_origin(option.type) is Literal and value not in choices:
                raise ValueError(
                    f"--{option.name.replace('_', '-')} is {short(value)}; choose one of {', '.join(map(str, choices))}"
                )
