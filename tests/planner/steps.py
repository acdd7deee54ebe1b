"""Steps to count, and the few words the tests find kernels by."""

from collections.abc import Mapping

from owt_mpi.nn.layers import Flatten, Linear
from owt_mpi.nn.model import InputSpec, Model, num_features
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.module import Module, Sequential
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.costs import step_kernels
from owt_mpi.planner.exchange import layout_of
from owt_mpi.planner.kernel import Kernel, PrecisionName

SPEC = InputSpec(224, 3, 1000)


def step_of(
    model: Model | str, images: int, precision: PrecisionName = "fp32", scheme: str = "dp", num_ranks: int = 1
) -> list[Kernel]:
    built = find_builder(model)(SPEC) if isinstance(model, str) else model
    return step_kernels(built, layout_of(Plan(num_ranks, scheme)), images, precision)


def only(kernels: list[Kernel], layer: str, work: str) -> Kernel:
    (kernel,) = (kernel for kernel in kernels if (kernel.layer, kernel.work) == (layer, work))
    return kernel


def small_model(trunk: Mapping[str, Module] | Module, crop: int = 9, channels: int = 4, classes: int = 6) -> Model:
    spec = InputSpec(crop, channels, classes)
    module = trunk if isinstance(trunk, Module) else Sequential({**trunk, "flatten": Flatten()})
    module.name = "trunk"
    head = Sequential({"fc": Linear(num_features(module, spec), classes)})
    return Model("small", spec, module, head, "logistic")
