"""What a model costs on its ranks, worked out from shapes alone: layers, parameters, memory, bytes on the wire."""

import json
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from owt_mpi.autograd import Op, Tensor, symbolic
from owt_mpi.backends.base import Shape
from owt_mpi.backends.precision import exact_dtype
from owt_mpi.backends.select import COMPUTES
from owt_mpi.memory_forecast import MemoryOptions, forecast_memory
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Module
from owt_mpi.nn.walk import Visit, walk
from owt_mpi.parallel.collective_ops import AllGatherOp, ReduceScatterOp
from owt_mpi.parallel.layout import Layout
from owt_mpi.parallel.schemes import Senders
from owt_mpi.parallel.sharded import shard_head
from owt_mpi.parallel.weight_sync import TrunkSync, sync_bytes
from owt_mpi.parallel.wire_format import WireDtype

BOUNDARY_BYTES = "activations to the head and their gradients"


@dataclass(frozen=True)
class LayerCost:
    """One layer on one rank. Multiply-adds and outputs are of one forward over the rank's examples (or its pass)."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int  # of the whole layer
    parameters_held: int  # by this rank
    multiply_adds: int
    output_bytes: int


@dataclass(frozen=True)
class Summary:
    """The costs of a model on one rank. Bytes are per training step; received ones for ring collectives."""

    model: str
    ranks: int
    scheme: str
    images_per_rank: int
    layers: tuple[LayerCost, ...]
    parameters: int
    memory_bytes: dict[str, int]  # at the peak
    memory_peak: str  # the phase of a step that it is in
    memory_elsewhere: dict[str, int]  # what the other backends need in all
    received_bytes: dict[str, int]


def summarise(
    model: Model,
    layout: Layout,
    images_per_rank: int,
    dtype: np.dtype,
    options: MemoryOptions | None = None,
) -> Summary:
    """Return the costs of `model` on the ranks of `layout`, with `images_per_rank` (n) images a rank and step.

    `options` (by default all of theirs) say how weights are kept in step, and by what backend. The zeros that fill up
    buckets are not counted.
    """
    options = options or MemoryOptions()
    spec, size = model.spec, layout.boundary.size
    images = symbolic((images_per_rank, spec.crop, spec.crop, spec.channels))
    trunk_layers, acts, _ = _trace(model.trunk, images, dtype.itemsize)
    rows = len(layout.scheme.group_rows(size, images_per_rank, 0))
    splits_inputs = layout.scheme.splits_inputs
    boundary = symbolic((rows, acts.shape[1] // size if splits_inputs else acts.shape[1]))
    head = shard_head(model.head, layout.head, model.num_features, splits_inputs)
    head_layers, _, head_ops = _trace(head, boundary, dtype.itemsize)

    num_passes = layout.scheme.num_passes(size)
    # of what a collective hands a rank, its own 1/K is there already; forward and backward move as much
    received = 2 * num_passes * (size - 1) * dtype.itemsize
    few_send = isinstance(layout.scheme, Senders) and layout.scheme.senders < size
    # halves that few ranks sum are sent to them as float32; see comm/half.py
    returned = num_passes * (size - 1) * (exact_dtype(dtype) if few_send else dtype).itemsize
    trunk_weights, head_weights = (sum(prod(p.shape) for p in part.parameters()) for part in (model.trunk, head))
    trunk_bytes, head_bytes = trunk_weights * dtype.itemsize, head_weights * dtype.itemsize
    crossing = sum(prod(_gathered_shape(op)) for op in head_ops if isinstance(op, AllGatherOp | ReduceScatterOp))
    sync = (options.trunk_sync, options.wire_dtype, dtype)
    memory = forecast_memory(model, layout, images_per_rank, dtype, options)
    able = [name for name, dtypes in COMPUTES.items() if dtype in dtypes]
    others = [replace(options, backend=backend) for backend in able if backend != options.backend]
    return Summary(
        model=model.name,
        ranks=layout.world.size,
        scheme="dp" if size == 1 else layout.scheme.name,
        images_per_rank=images_per_rank,
        layers=(*trunk_layers, *head_layers),
        parameters=sum(prod(p.global_shape) for p in model.parameters()),
        memory_bytes=memory.parts,
        memory_peak=memory.peak,
        memory_elsewhere={
            other.backend: forecast_memory(model, layout, images_per_rank, dtype, other).num_bytes for other in others
        },
        received_bytes={
            BOUNDARY_BYTES: (received // 2 + returned) * prod(boundary.shape) // size,
            "activations within the head and their gradients": received * crossing // size,
            **_sync_bytes("trunk", trunk_bytes, layout.trunk.size, *sync),
            **_sync_bytes("head", head_bytes, layout.replicas.size, *sync),
        },
    )


def print_summary(summary: Summary, json_file: str = "") -> None:
    """Print the summary as tables, and write it to `json_file` if one is named."""
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 120)  # numbers are not cut; a narrow terminal wraps lines
    table = Table("layer", "output", "parameters", "held by a rank", "multiply-adds", "output MB", box=None)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for layer in summary.layers:
        shape = "x".join(map(str, layer.output_shape))
        held, adds = f"{layer.parameters_held:,}", f"{layer.multiply_adds:,}"
        table.add_row(layer.name, shape, f"{layer.parameters:,}", held, adds, f"{layer.output_bytes / 1e6:.2f}")
    console.print(table)
    console.print(
        f"\n{summary.model}: {summary.parameters:,} parameters; {summary.ranks} ranks, scheme {summary.scheme}, "
        f"{summary.images_per_rank} images a rank and step"
    )
    for title, parts in (
        (f"memory a rank at its peak ({summary.memory_peak})", summary.memory_bytes),
        ("received by a rank a step", summary.received_bytes),
    ):
        console.print(f"\n{title}: {sum(parts.values()) / 1e6:,.1f} MB")
        for name, size in parts.items():
            console.print(f"  {name}: {size / 1e6:,.1f} MB")
    notes = {"cuda": " and cuDNN's workspace"}
    elsewhere = (f"{name} {size / 1e6:,.1f} MB{notes.get(name, '')}" for name, size in summary.memory_elsewhere.items())
    console.print(f"\nmemory a rank on another backend: {', '.join(elsewhere)}")
    if json_file:
        Path(json_file).write_text(json.dumps(asdict(summary), indent=2) + "\n", encoding="utf-8")


def _trace(root: Module, x: Tensor, itemsize: int) -> tuple[list[LayerCost], Tensor, list[Op]]:
    """Run `root` on a symbolic input; return the cost of each leaf module, the output, and all operations."""
    visits, y = walk(root, x)
    return [_layer_cost(visit, itemsize) for visit in visits], y, [op for visit in visits for op in visit.ops]


def _layer_cost(visit: Visit, itemsize: int) -> LayerCost:
    parameters = [p for _, p in visit.module.own_parameters()]
    return LayerCost(
        name=visit.module.name,
        output_shape=visit.output.shape,
        parameters=sum(prod(p.global_shape) for p in parameters),
        parameters_held=sum(prod(p.shape) for p in parameters),
        multiply_adds=sum(op.multiply_adds(*(x.shape for x in op.inputs)) for op in visit.ops),
        output_bytes=prod(visit.output.shape) * itemsize,
    )


def _output_shape(op: Op) -> Shape:
    return op.out_shape(*(x.shape for x in op.inputs))


def _gathered_shape(op: AllGatherOp | ReduceScatterOp) -> Shape:
    """Return the larger of the shapes before and after the collective, the one over all ranks."""
    return _output_shape(op) if isinstance(op, AllGatherOp) else op.inputs[0].shape


def _sync_bytes(
    part: str, size_bytes: int, num_ranks: int, kind: TrunkSync, wire_dtype: WireDtype, dtype: np.dtype
) -> dict[str, int]:
    gradients, weights = sync_bytes(size_bytes // dtype.itemsize, num_ranks, kind, wire_dtype, dtype)
    return {f"gradients of the {part}": gradients, **({f"new weights of the {part}": weights} if weights else {})}
