"""A model with its weights as an ONNX file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi.autograd import Parameter, Tensor
from owt_mpi.disk import sync_file
from owt_mpi.interchange.facts import NetworkFacts
from owt_mpi.interchange.graph import scoring_graph
from owt_mpi.interchange.onnx_ops import EXPORTERS
from owt_mpi.interchange.order import whole
from owt_mpi.interchange.tensor_file import InterchangeError, library, one_line
from owt_mpi.nn.model import Model

# The oldest that has every operator in the form used here: runtimes of the last years all read it.
OPSET, IR_VERSION = 13, 7
IMAGES, LOGITS = "images", "logits"
_LARGEST = (1 << 31) - (1 << 20)  # protobuf's limit of a file, and room for what is not weights


def write_onnx(path: Path, model: Model, weights: Mapping[str, Any], facts: NetworkFacts, takes_pixels: bool) -> None:
    """Write `model` with `weights`, global arrays by name that read when they are sliced, in float32.

    Its input `images` is (n, c, crop, crop) float32, any n: normalised, or with `takes_pixels` numbers 0..255, from
    which the network takes mean and standard deviation as `facts` say. Its output `logits` is (n, classes). The file is
    checked by ONNX's own checker, and has its name when it is whole. ValueError if the model has an operation that
    ONNX is not known to have, or more weights than fit into a file.
    """
    onnx = library("onnx")
    num_bytes = 4 * sum(parameter.size for parameter in model.parameters())
    if num_bytes > _LARGEST:
        raise InterchangeError(
            f"{path}: the weights take {num_bytes / 1e9:.1f} GB, an ONNX file holds 2; export to safetensors"
        )
    content = _Graph(onnx.helper, onnx.numpy_helper, model, weights).finished(facts, takes_pixels)
    temporary = path.with_name(path.name + ".part")
    try:
        onnx.save(content, str(temporary))
        onnx.checker.check_model(str(temporary), full_check=True)
        sync_file(temporary)
        temporary.replace(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InterchangeError(f"{path}: ONNX's checker refuses the network ({one_line(error)})") from error
    except OSError as error:
        raise InterchangeError(f"{path} cannot be written ({one_line(error)}); make room") from error
    finally:
        temporary.unlink(missing_ok=True)


class _Graph:
    """The nodes of a model; see onnx_ops.Nodes."""

    def __init__(self, helper: Any, arrays: Any, model: Model, weights: Mapping[str, Any]) -> None:
        self._helper, self._arrays, self._model, self._weights = helper, arrays, model, weights
        self._graph = scoring_graph(model)
        self._values: dict[int, str] = {}  # of tensors, by their id
        self._parameters: dict[tuple[str, tuple[int, ...]], str] = {}
        self._initializers: list[Any] = []
        self._nodes: list[Any] = []
        self._label = ""  # of the tensor that is being made
        self._names = {IMAGES, LOGITS}

    def value(self, x: Tensor, axes: Sequence[int] = ()) -> str:
        if not isinstance(x, Parameter):
            name = self._values[id(x)]
            return self.node("Transpose", name, perm=axes) if axes else name
        key = (x.name, tuple(axes))
        if key not in self._parameters:
            values = whole(self._weights[x.name]).astype(np.float32, copy=False)
            self._parameters[key] = self._initialised(x.name, values.transpose(axes) if axes else values)
        return self._parameters[key]

    def constant(self, array: np.ndarray) -> str:
        return self._initialised(f"{self._label}.constant", array)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.nodes(operator, 1, *inputs, **attributes)[0]

    def nodes(self, operator: str, num_outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        outputs = [self._unused(self._label) for _ in range(num_outputs)]
        self._nodes.append(self._helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def finished(self, facts: NetworkFacts, takes_pixels: bool) -> Any:
        """Return the whole as ONNX's model."""
        spec, helper = self._model.spec, self._helper
        images = self._normalised(facts) if takes_pixels else IMAGES
        self._values[id(self._graph.images)] = images
        for y in self._graph.made:
            self._add(y)
        self._nodes.append(helper.make_node("Identity", [self._values[id(self._graph.logits)]], [LOGITS], name=LOGITS))
        float32 = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
        graph = helper.make_graph(
            self._nodes,
            self._model.name,
            [helper.make_tensor_value_info(IMAGES, float32, ("n", spec.channels, spec.crop, spec.crop))],
            [helper.make_tensor_value_info(LOGITS, float32, ("n", spec.num_classes))],
            self._initializers,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        content = helper.make_model(graph, producer_name="owt_mpi", opset_imports=opsets, ir_version=IR_VERSION)
        helper.set_model_props(content, {**facts.to_metadata(), "input": "pixels" if takes_pixels else "normalised"})
        return content

    def _normalised(self, facts: NetworkFacts) -> str:
        self._label = "normalise"
        mean, std = (np.array(each, np.float32).reshape(1, -1, 1, 1) for each in (facts.mean, facts.std))
        return self.node("Div", self.node("Sub", IMAGES, self.constant(mean)), self.constant(std))

    def _add(self, y: Tensor) -> None:
        op = y.creator
        assert op is not None
        self._label = self._graph.names[id(y)]
        exporter = EXPORTERS.get(type(op))
        if exporter is None:
            layer = self._label.split("/")[0]
            raise InterchangeError(
                f"on the way to {layer} is a {op.name}, whose counterpart in ONNX is not known; put one into "
                "owt_mpi.interchange.onnx_ops.EXPORTERS (docs/interchange.md shows how), or export to safetensors"
            )
        self._values[id(y)] = exporter(self, op)

    def _initialised(self, label: str, array: np.ndarray) -> str:
        name = self._unused(label)
        self._initializers.append(self._arrays.from_array(np.ascontiguousarray(array), name))
        return name

    def _unused(self, label: str) -> str:
        """Return `label`, or that with a number behind it, as a name that nothing has."""
        name, number = label, 1
        while name in self._names:
            number += 1
            name = f"{label}.{number}"
        self._names.add(name)
        return name
