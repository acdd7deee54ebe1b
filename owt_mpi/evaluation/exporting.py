"""A trained network written for other programs."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from owt_mpi import __version__
from owt_mpi.comm.guard import DATA_ERROR, USAGE_ERROR
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.data.facts import mean_and_std
from owt_mpi.evaluation.trained import FileOptions, Trained, num_classes_of, open_trained
from owt_mpi.interchange.facts import NetworkFacts
from owt_mpi.interchange.network_file import Layout, names_in, write_network
from owt_mpi.interchange.onnx_file import IMAGES, LOGITS, OPSET, write_onnx
from owt_mpi.interchange.tensor_file import SUFFIX
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import check_weights
from owt_mpi.training.setup import agreed, build_model

_ONNX_SUFFIX = ".onnx"
_FORMATS = {SUFFIX: "safetensors", _ONNX_SUFFIX: "onnx"}


@dataclass(frozen=True)
class ExportOptions:
    """What is written where, and how."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_CHECKPOINT")] = ""
    """A checkpoint (step-...), a run's folder, of which the newest is taken, a run's weights.h5, or a .safetensors
    file."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = ""
    """The file to write, OUT.safetensors or OUT.onnx."""
    format: Literal["auto", "safetensors", "onnx"] = "auto"
    """Format of the file; auto: as its name ends."""
    names: Literal["auto", "torchvision", "owt_mpi"] = "auto"
    """Names of the tensors in a safetensors file; auto: torchvision's where it has the network, else ours."""
    pixels: bool = False
    """Let an ONNX network take pixels, 0..255, and normalise them itself; by default it takes normalised images."""
    model: str = ""
    """The network, as for training, where the file that it was in is now another, or a file does not say."""
    file: FileOptions = field(default_factory=FileOptions)

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        if not self.checkpoint or not self.out:
            raise ValueError(
                "give a run's folder or a checkpoint (step-...), and then the file to write; --help has examples"
            )
        if self.format == "auto" and Path(self.out).suffix not in _FORMATS:
            raise ValueError(f"{self.out} ends in neither of {', '.join(_FORMATS)}; name it so, or give --format")
        if not Path(self.out).resolve().parent.is_dir():
            raise ValueError(f"{self.out}: there is no folder {Path(self.out).resolve().parent}")
        if self.is_onnx and self.names != "auto":
            raise ValueError(f"--names {self.names} is for safetensors; parameters in ONNX files have our names")
        if self.pixels and not self.is_onnx:
            raise ValueError("--pixels is for ONNX: in safetensors there are weights alone")
        self.file.check(self.checkpoint)

    @property
    def is_onnx(self) -> bool:
        """Whether the file is ONNX, else safetensors."""
        return (_FORMATS[Path(self.out).suffix] if self.format == "auto" else self.format) == "onnx"


def run_export(options: ExportOptions) -> None:
    """Write the network, and say what was written.

    What is wrong with options or checkpoint ends it with a CollectiveExit.
    """
    world, out = SerialCommunicator(), Path(options.out)
    with agreed(world, DATA_ERROR):
        trained = open_trained(options.checkpoint, options.model, options.file, world)
        shipped_as = options.model or trained.config.model.model
    with agreed(world, USAGE_ERROR):
        model = _model_of(trained, shipped_as)
        layout, names, why = _names_for(options, model, shipped_as)
        facts = facts_of(trained, model, shipped_as, layout)
        if options.pixels and not facts.mean:
            raise ValueError(
                f"{trained.path} does not know how its pixels were normalised; leave out --pixels, or name the run "
                "while its --data is there"
            )
    with agreed(world, DATA_ERROR), trained.open_weights(model) as weights:
        check_weights(model.parameters(), weights)
        if options.is_onnx:
            write_onnx(out, model, weights, facts, options.pixels)
        else:
            write_network(out, model, names, weights, facts)
    print(f"checkpoint: {trained.path}: {trained.said}")
    print(f"model: {model.name}, {model.loss} loss, {sum(p.size for p in model.parameters()):,} parameters")
    if facts.mean:
        print(f"pixels: (pixel - {list(facts.mean)}) / {list(facts.std)}, a number a channel")
    if options.is_onnx:
        spec = model.spec
        takes = "pixels 0..255" if options.pixels else "normalised"
        shape = f"n x {spec.channels} x {spec.crop} x {spec.crop}"
        print(f"onnx: opset {OPSET}; {IMAGES} {shape} float32, {takes}; {LOGITS} n x {spec.num_classes}")
    else:
        print(f"names: {why}")
    print(f"{out}: {out.stat().st_size:,} bytes")


def facts_of(trained: Trained, model: Model, shipped_as: str, layout: Layout) -> NetworkFacts:
    """Return what the file is to say of the network."""
    options, images = trained.config, trained.facts
    is_restricted = options.model.fc_crosstalk < 1
    facts = NetworkFacts(
        model=shipped_as,
        layout=layout,
        loss=model.loss,
        crop=model.spec.crop,
        num_classes=model.spec.num_classes,
        fc_crosstalk=options.model.fc_crosstalk,
        fc_blocks=options.model.fc_blocks if is_restricted else 0,
        program=f"owt_mpi {__version__}",
        trained=trained.said,
    )
    if images is None:
        return facts
    mean, std = mean_and_std(images.mean, images.std, options.data.normalise)
    return replace(
        facts,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        size=images.size or 0,
        square=images.square,
        class_names=images.class_names if trained.has_class_names else (),
        class_titles=images.class_titles if trained.has_class_names else (),
    )


def _model_of(trained: Trained, shipped_as: str) -> Model:
    """Return the network, for the channels and classes that it was trained with."""
    facts = trained.facts
    num_channels = 3 if facts is None else facts.num_channels
    num_classes = num_classes_of(trained) if facts is None else len(facts.class_names)
    config = replace(trained.config, model=replace(trained.config.model, model=shipped_as))
    config = replace(config, parallel=replace(config.parallel, recompute="none", cuda_graph=False))
    return build_model(config, num_channels, num_classes, "reference")


def _names_for(options: ExportOptions, model: Model, shipped_as: str) -> tuple[Layout, dict[str, str], str]:
    """Return the layout of the file, its names of the parameters, and why. ValueError if it cannot be as asked."""
    if options.names != "owt_mpi":
        try:
            names = names_in("torchvision", model, shipped_as)
        except ValueError as error:
            if options.names == "torchvision":
                raise ValueError(f"--names torchvision: {error}") from error
            return "owt_mpi", names_in("owt_mpi", model, shipped_as), f"ours, in PyTorch's order: {error}"
        return "torchvision", names, f"those of torchvision's {shipped_as}, which loads the file strictly"
    return "owt_mpi", names_in("owt_mpi", model, shipped_as), "ours, in PyTorch's order, as asked"
