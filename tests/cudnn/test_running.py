"""Which call runs on which thread, handle, stream and memory: by a stand-in for cuDNN."""

import threading

import numpy as np
import pytest

from owt_mpi.backends.cudnn_graphs import B, W, X, Y
from tests.cudnn.calls import FORWARD, PAD, STRIDE, arrays, forward
from tests.cudnn.stand_ins import FakeArray, FakePlan, FakeStream, data_type


def in_thread(work):
    errors = []

    def target():
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_each_operation_is_the_graph_of_its_name_and_gets_its_arrays_by_name(make, fake):
    cudnn = make()
    x, w, y, b = arrays()
    cudnn.conv2d(x, w, b, STRIDE, PAD, y, relu=True)
    cudnn.conv2d(x, w, b, STRIDE, PAD, y)
    cudnn.conv2d(x, w, None, STRIDE, PAD, y)
    cudnn.conv2d_grad_x(y, w, STRIDE, PAD, x)
    cudnn.conv2d_grad_w(y, x, STRIDE, PAD, w)
    expected = [["conv_fprop", "bias", "relu"], ["conv_fprop", "bias"], ["conv_fprop"], ["conv_dgrad"], ["conv_wgrad"]]
    assert [graph.operations for graph in fake.graphs] == expected
    plain = {X: 512, W: 1024, Y: 1536}
    assert [run.addresses for run in fake.runs] == [{**plain, B: 2048}] * 2 + [plain] * 3


@pytest.mark.parametrize(
    ("operation", "given", "result"), [("conv_fprop", {X, W}, Y), ("conv_dgrad", {Y, W}, X), ("conv_wgrad", {X, Y}, W)]
)
def test_tensors_are_channels_first_in_name_and_channels_last_in_memory(make, fake, operation, given, result):
    cudnn = make()
    x, w, y, _ = arrays()
    {
        "conv_fprop": lambda: cudnn.conv2d(x, w, None, STRIDE, PAD, y),
        "conv_dgrad": lambda: cudnn.conv2d_grad_x(y, w, STRIDE, PAD, x),
        "conv_wgrad": lambda: cudnn.conv2d_grad_w(y, x, STRIDE, PAD, w),
    }[operation]()
    layouts = {
        X: ([3, 5, 11, 8], [440, 1, 40, 5]),
        W: ([6, 5, 2, 4], [40, 1, 20, 5]),
        Y: ([3, 6, 6, 3], [108, 1, 18, 6]),
    }
    graph = fake.graphs[0]
    found = {each.settings["uid"]: each.settings for each in graph.tensors}
    assert found.keys() == given | {result}
    for name, (dim, stride) in layouts.items():
        assert (found[name]["dim"], found[name]["stride"]) == (dim, stride)
        assert found[name]["alignment"] == 16
        assert found[name].get("output", False) is (name == result)
    assert (found[result]["padding"], found[result]["dilation"]) == ([1, 2], [1, 1])
    assert (graph.settings["io_data_type"], graph.settings["compute_data_type"]) == (data_type.FLOAT,) * 2


def test_a_geometry_gets_one_plan_and_whatever_differs_another(make, fake):
    cudnn = make()
    for _ in range(3):
        forward(cudnn)
    assert len(fake.graphs) == 1
    x, w, y, b = arrays()
    forward(cudnn, relu=False)
    cudnn.conv2d(x, w, None, STRIDE, PAD, y)
    forward(cudnn, dtype=np.float16)
    cudnn.conv2d(x, w, b, (2, 3), (1, 3), FakeArray((3, 6, 4, 6)))  # another pad
    cudnn.conv2d(x, w, b, (3, 3), (1, 2), FakeArray((3, 4, 3, 6)))  # another stride
    cudnn.conv2d(FakeArray((4, 11, 8, 5)), w, b, STRIDE, PAD, FakeArray((4, 6, 3, 6)))
    cudnn.conv2d_grad_x(y, w, STRIDE, PAD, x)
    assert len(fake.graphs) == 8
    forward(cudnn)
    assert len(fake.graphs) == 8
    assert cudnn.plans().keys() >= {FORWARD, FORWARD._replace(relu=False), FORWARD._replace(precision="fp16")}


def test_every_call_runs_on_the_stream_that_is_current(make, fake, cupy):
    cudnn = make()
    for stream in (7, 0, 9, 7):
        cupy.streams.current = FakeStream(stream)
        forward(cudnn)
    assert [run.stream for run in fake.runs] == [7, 0, 9, 7]
    assert len(fake.graphs) == 1


def test_threads_have_handles_plans_and_workspaces_of_their_own(make, fake):
    fake.fused_plans = [FakePlan("fused", workspace_bytes=100)]
    cudnn = make()

    def work():
        forward(cudnn)
        forward(cudnn)

    work()
    in_thread(work)
    own, _, other, _ = fake.runs
    assert own.thread != other.thread
    assert own.handle != other.handle
    assert own.workspace != other.workspace
    assert [run.handle for run in fake.runs] == [own.handle, own.handle, other.handle, other.handle]
    assert [graph.settings["handle"] for graph in fake.graphs] == [own.handle, other.handle]


def test_a_thread_that_ends_gives_its_handle_back(make, fake, cupy):
    cudnn = make()
    forward(cudnn)
    in_thread(lambda: forward(cudnn))
    assert cupy.in_use() == []
    assert fake.destroyed == [fake.runs[1].handle]
    forward(cudnn)


def test_a_workspace_is_as_large_as_the_largest_plan_on_its_stream(make, fake, cupy):
    cudnn = make()
    fake.fused_plans = [FakePlan("small", workspace_bytes=100)]
    forward(cudnn)
    fake.fused_plans = [FakePlan("large", workspace_bytes=300)]
    forward(cudnn, relu=False)
    forward(cudnn)
    fake.plans = [FakePlan("none", workspace_bytes=0)]
    x, w, y, _ = arrays()
    cudnn.conv2d(x, w, None, STRIDE, PAD, y)
    assert cupy.allocated == [100, 300]
    assert [run.workspace for run in fake.runs] == [4096, 8192, 8192, 0]
    assert cupy.in_use() == [300]
    cupy.streams.current = FakeStream(5)
    forward(cudnn)
    assert cupy.allocated == [100, 300, 100]
    assert fake.runs[-1].workspace == 12288


def test_memory_that_a_cuda_graph_will_use_again_is_kept(make, fake, cupy):
    cudnn = make()
    stream = cupy.current_stream()
    fake.fused_plans = [FakePlan("small", workspace_bytes=100)]
    forward(cudnn)
    stream.capturing = True
    forward(cudnn)
    stream.capturing = False
    fake.fused_plans = [FakePlan("large", workspace_bytes=300)]
    forward(cudnn, relu=False)
    assert cupy.in_use() == [100, 300]


def test_what_is_met_first_in_a_capture_is_refused_with_the_way_out(make, fake, cupy):
    cudnn = make()
    cupy.current_stream().capturing = True
    with pytest.raises(RuntimeError, match=r"conv2d \+ bias \+ ReLU .* CUDA graph is captured.* run the step once"):
        forward(cudnn)
    cupy.streams.current = FakeStream(3)
    fake.fused_plans = [FakePlan("fused", workspace_bytes=100)]
    forward(cudnn)
    cupy.streams.current = FakeStream(4)
    cupy.streams.current.capturing = True
    with pytest.raises(RuntimeError, match="no memory taken; run the step once on the same stream"):
        forward(cudnn)


def test_a_plan_that_fails_is_named(make, fake):
    fake.plans = [FakePlan("eng7_k2=1", runs=False)]
    x, w, y, _ = arrays()
    with pytest.raises(RuntimeError, match=r"cuDNN failed in conv2d_grad_x in fp32, .*, plan eng7_k2=1: CUDNN_STATUS"):
        make().conv2d_grad_x(y, w, STRIDE, PAD, x)
