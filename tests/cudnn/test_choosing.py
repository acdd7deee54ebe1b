"""Which plan is chosen, and what is said where none can be: by a stand-in for cuDNN."""

import numpy as np
import pytest

from owt_mpi.backends.cudnn_graphs import B, Device, Limits, NoPlanError, find_plans
from tests.cudnn.calls import FORWARD, PAD, STRIDE, arrays, forward
from tests.cudnn.stand_ins import FakePlan, behavior_note, data_type, numerical_note


@pytest.mark.parametrize("relu", [False, True])
def test_where_nothing_fuses_bias_and_relu_follow_the_convolution(make, fake, added, relu):
    fake.fused_plans = []
    x, w, y, b = arrays()
    make().conv2d(x, w, b, STRIDE, PAD, y, relu)
    assert [run.engine for run in fake.runs] == ["plain"]
    assert added == [(y, b, relu)]
    assert B not in fake.runs[0].addresses


def test_a_fused_plan_leaves_nothing_to_add(make, added):
    forward(make())
    assert added == []


@pytest.mark.parametrize(("address", "alignment"), [(512 + 8, 8), (1024 + 4, 4), (4096 + 2, 2)])
def test_arrays_that_are_not_aligned_get_plans_for_that_and_no_fusion(make, fake, added, address, alignment):
    cudnn = make()
    forward(cudnn, dtype=np.float16, w=address)
    assert fake.runs[0].engine == "plain"
    assert len(added) == 1
    (conv,) = cudnn.plans()
    assert conv.alignment == alignment
    assert {each.settings["alignment"] for each in fake.graphs[0].tensors} == {alignment}
    forward(cudnn, dtype=np.float16)
    assert fake.runs[1].engine == "fused"


def test_without_timing_the_first_plan_that_builds_is_taken(make, fake):
    fake.fused_plans = [FakePlan("excluded", builds=False), FakePlan("first"), FakePlan("faster", milliseconds=0.1)]
    forward(make())
    assert [run.engine for run in fake.runs] == ["first"]


def test_with_timing_the_fastest_plan_is_taken_once_and_for_all(make, fake, cupy):
    cupy.largest_allocation = 1000
    fake.fused_plans = [
        FakePlan("slow", milliseconds=5, workspace_bytes=500),
        FakePlan("fails", milliseconds=0.1, runs=False),
        FakePlan("too large", milliseconds=0.1, workspace_bytes=5000),
        FakePlan("fast", milliseconds=2),
    ]
    fake.plans = [FakePlan("plain", milliseconds=3)]
    cudnn = make(autotune=True)
    forward(cudnn)
    assert fake.runs[-1].engine == "fast"
    assert {run.engine for run in fake.runs} == {"slow", "fast", "plain"}
    assert cupy.in_use() == []
    num_runs = len(fake.runs)
    forward(cudnn)
    assert [run.engine for run in fake.runs[num_runs:]] == ["fast"]


def test_timing_may_prefer_a_plan_that_does_not_fuse(make, fake, added):
    fake.fused_plans, fake.plans = [FakePlan("fused", milliseconds=3)], [FakePlan("plain", milliseconds=2)]
    cudnn = make(autotune=True)
    forward(cudnn)
    added.clear()
    forward(cudnn)
    assert fake.runs[-1].engine == "plain"
    assert len(added) == 1


def test_when_no_plan_that_is_timed_runs_the_error_says_so(make, fake):
    fake.fused_plans = fake.plans = [FakePlan("fails", runs=False)]
    with pytest.raises(NoPlanError, match=r"no plan for conv2d \+ bias \+ ReLU .*EXECUTION_FAILED"):
        forward(make(autotune=True))


PRECISE = [numerical_note.DOWN_CONVERT_INPUTS, numerical_note.REDUCED_PRECISION_REDUCTION]


@pytest.mark.parametrize(
    ("dtype", "options", "io", "excluded"),
    [
        (np.float32, {}, data_type.FLOAT, [numerical_note.TENSOR_CORE, *PRECISE]),
        (np.float32, {"tf32": True}, data_type.FLOAT, PRECISE),
        (np.float16, {"tf32": True}, data_type.HALF, PRECISE[1:]),
        (np.uint16, {}, data_type.BFLOAT16, PRECISE[1:]),
        (np.float16, {"deterministic": True}, data_type.HALF, [PRECISE[1], numerical_note.NONDETERMINISTIC]),
    ],
)
def test_precisions_exclude_what_would_round_more(make, fake, dtype, options, io, excluded):
    forward(make(**options), dtype=dtype)
    graph = fake.graphs[0]
    assert graph.excluded_notes == excluded
    assert graph.settings["io_data_type"] == io
    assert graph.settings["compute_data_type"] == graph.settings["intermediate_data_type"] == data_type.FLOAT


def test_the_workspace_is_limited_to_a_sixteenth_of_the_memory_or_as_told(make, fake):
    forward(make())
    forward(make(workspace_bytes=12345))
    assert [graph.workspace_limit for graph in fake.graphs] == [1 << 30, 12345]
    assert [make().workspace_bytes, make(workspace_bytes=12345).workspace_bytes] == [1 << 30, 12345]


def test_no_plan_is_an_error_that_says_for_what_why_and_what_to_do(make, fake):
    fake.fused_plans = fake.plans = []
    with pytest.raises(NoPlanError) as error:
        forward(make(workspace_bytes=32 << 20, deterministic=True))
    assert str(error.value) == (
        "cuDNN has no plan for conv2d + bias + ReLU in fp32, x (3, 11, 8, 5), w (6, 2, 4, 5), y (3, 6, 3, 6), stride "
        "(2, 3), pad (1, 2) with at most 32 MiB of workspace, deterministic (it says: not this one); allow more "
        "workspace, align the arrays to 16 bytes, do without deterministic plans, or compute in another precision"
    )


def test_options_that_exclude_one_another_or_the_device_are_refused(make, cupy):
    with pytest.raises(ValueError, match="autotune and deterministic exclude one another"):
        make(autotune=True, deterministic=True)
    with pytest.raises(ValueError, match="workspace_bytes is -1"):
        make(workspace_bytes=-1)
    cupy.compute_capability = "75"
    with pytest.raises(
        ValueError, match=r"'tf32' needs a GPU of compute capability 8.0 or higher, this one has 7.5; use"
    ):
        make(tf32=True)
    with pytest.raises(ValueError, match=r"'bf16' needs .* use fp32 or fp16"):
        forward(make(), dtype=np.uint16)


def test_other_dtypes_are_refused(make):
    with pytest.raises(TypeError, match="cuDNN computes in float32, float16 or bfloat16, not float64"):
        forward(make(), dtype=np.float64)


def test_the_description_tells_who_has_a_v100_which_version_to_take(make, cupy, fake):
    assert make(autotune=True).description == "cuDNN 9.28.0, plans timed, at most 1024 MiB of workspace"
    cupy.compute_capability = "70"
    assert make().description.endswith("nvidia-cudnn-cu12<9.11")
    fake.version = 91002
    assert make().description == "cuDNN 9.10.2, plans by cuDNN's heuristics, at most 1024 MiB of workspace"


def test_plans_for_a_described_gpu_need_no_handle_and_compile_nothing(fake):
    (plan, _) = find_plans(FORWARD, Device(90, description="{}"), Limits(1 << 20))
    assert plan.engine == "fused"
    graph = fake.graphs[0]
    assert "handle" not in graph.settings
    assert (graph.settings["device_property"], graph.settings["sm_version"]) == ("{}", 90)
    assert behavior_note.RUNTIME_COMPILATION in graph.excluded_notes
