"""Kernels that follow one another fused into one pass over memory, so that what lies between them stays on chip."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from owt_mpi.planner.kernel import Kernel, Operand

Fusing = Literal["nothing", "bias", "bias + ReLU", "ReLU grad + bias grad", "pool"]
FUSINGS: tuple[Fusing, ...] = get_args(Fusing)
"""Each with those before it. "bias", "bias + ReLU": into the convolution or linear layer before them, as cuDNN and
cuBLASLt do. "ReLU grad + bias grad": one pass over the gradient for both. "pool": max pooling with what is before it
forward, its gradient with those two; the sign of the maximum then tells where ReLU let the gradient through."""

_PRODUCTS = {"conv", "linear"}
_FORWARD = {"bias": {"bias"}, "bias + ReLU": {"ReLU"}, "pool": {"max pool"}}
_BACKWARD = {"ReLU grad + bias grad": {"ReLU grad", "bias grad"}, "pool": {"max pool grad"}}


def fused(kernels: Sequence[Kernel], fusing: Fusing) -> list[Kernel]:
    """Return the kernels of a step (`step_kernels`) with `fusing` applied.

    A chain is fused where a kernel reads what the one before it wrote, and runs as often. What a fused kernel makes is
    written if another kernel reads it.
    """
    levels = FUSINGS[: FUSINGS.index(fusing) + 1]
    forward = {work for level in levels for work in _FORWARD.get(level, ())}
    backward = {work for level in levels for work in _BACKWARD.get(level, ())}
    chains: list[list[Kernel]] = []
    for kernel in kernels:
        before = chains[-1][-1] if chains else kernel
        joins = (kernel.work in forward and before.work in _PRODUCTS | forward) or {
            kernel.work,
            before.work,
        } <= backward
        if chains and joins and kernel.runs == before.runs and _reads_result(kernel, before):
            chains[-1].append(kernel)
        else:
            chains.append([kernel])
    chains = [_mask_from_maximum(chain, kernels) for chain in chains]
    return [_one_pass(chain, (k for other in chains if other is not chain for k in other)) for chain in chains]


def _reads_result(kernel: Kernel, before: Kernel) -> bool:
    return bool({operand.name for operand in kernel.reads} & {operand.name for operand in before.writes})


def _mask_from_maximum(chain: list[Kernel], kernels: Sequence[Kernel]) -> list[Kernel]:
    """Let a ReLU's gradient that follows max pooling's read the maxima in place of the ReLU's whole output."""
    if [kernel.work for kernel in chain[:2]] != ["max pool grad", "ReLU grad"]:
        return chain
    pool_grad, relu_grad = chain[:2]
    (pool,) = (kernel for kernel in kernels if pool_grad.reads[-1] in kernel.writes)  # which wrote the places
    reads = tuple(pool.writes[0] if operand == pool.reads[0] else operand for operand in relu_grad.reads)
    return [pool_grad, replace(relu_grad, reads=reads), *chain[2:]]


def _one_pass(chain: list[Kernel], others: Iterable[Kernel]) -> Kernel:
    """Return `chain` as one kernel, in a step whose other kernels are `others`."""
    if len(chain) == 1:
        return chain[0]
    read_elsewhere = {operand.name for kernel in others for operand in kernel.reads}
    made: dict[str, Operand] = {}
    read: dict[str, Operand] = {}
    read_inside: set[str] = set()
    for kernel in chain:
        for operand in kernel.reads:
            if operand.name in made:
                read_inside.add(operand.name)
            else:
                read[operand.name] = operand
        made.update((operand.name, operand) for operand in kernel.writes)
    kept = [operand for name, operand in made.items() if name in read_elsewhere or name not in read_inside]
    return Kernel(
        layer=chain[0].layer,
        work=" + ".join(kernel.work for kernel in chain),
        reads=tuple(read.values()),
        writes=tuple(kept),
        product_flop=sum(kernel.product_flop for kernel in chain),
        other_flop=sum(kernel.other_flop for kernel in chain),
        runs=chain[0].runs,
    )
