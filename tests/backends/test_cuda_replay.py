"""--cuda-graph on the stand-in for CuPy: the trunk replayed trains the same network, and what would spoil it shows."""

import functools
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pytest

from owt_mpi.backends import cuda_replay
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import BatchOptions, Config, DataOptions, ModelOptions, RunOptions
from owt_mpi.nn.layers import Linear
from owt_mpi.nn.module import Context, Module, Sequential, assign_names
from owt_mpi.optim import MomentumSGD
from owt_mpi.parallel.grad_sync import AllReduceSync
from owt_mpi.parallel.layout import Plan
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.training.run import run_training
from owt_mpi.trunk_pass import TrunkPass, check_replayable
from tests.fake_cupy import RACES
from tests.parallel.chain import TwoAlike
from tests.tiny import largest_difference, tiny_model, train_tiny, train_tiny_on

TOLERANCE = 2e-6  # as without graphs: tests/backends/test_cuda_training.py
OPTIONS = {"dtype": "float32", "num_steps": 4, "trunk_dropout": 0.0, "lr_factors": (1.0, 0.5, 2.0)}


@functools.cache
def on_the_reference(**options):
    return train_tiny_on(Plan(1), **OPTIONS, **options)


def replayed(plan, **options):
    """Return what train_tiny returns on every rank, each with a backend of its own."""
    return run_ranks(
        plan.num_ranks,
        lambda comm: train_tiny(comm, plan, backend=CudaBackend(), cuda_graph=True, **OPTIONS, **options),
    )


def check_same(results, expected, tolerance=TOLERANCE):
    for parameters, losses in results:
        np.testing.assert_allclose(losses, expected[1], rtol=tolerance)
        assert largest_difference(parameters, expected[0]) < tolerance
    assert RACES == []


@pytest.fixture
def launches(cuda, monkeypatch):
    """The graphs that are launched, in order, and None where the trunk is called."""
    found, launch, call = [], cuda.xp.cuda.Graph.launch, Module.__call__

    def noted_launch(graph, stream=None):
        found.append(graph)
        launch(graph, stream)

    def noted_call(module, x, ctx):
        if module.name == "trunk" and x.data is not None:
            found.append(None)
        return call(module, x, ctx)

    monkeypatch.setattr(cuda.xp.cuda.Graph, "launch", noted_launch)
    monkeypatch.setattr(Module, "__call__", noted_call)
    return found


@pytest.mark.parametrize(
    ("num_ranks", "scheme"), [(1, "c"), (1, "dp"), *((2, scheme) for scheme in ("dp", "a", "b", "c", "d"))]
)
def test_a_replayed_trunk_trains_the_same_network_as_the_reference(cuda, num_ranks, scheme):
    check_same(replayed(Plan(num_ranks, scheme)), on_the_reference())


@pytest.mark.parametrize("options", [{"trunk_sync": "sharded"}, {"wire_dtype": "bfloat16"}, {"cuts": (3, 5)}], ids=str)
def test_however_weights_are_kept_in_step_and_activations_computed_again(cuda, options):
    check_same(replayed(Plan(2), **options), train_tiny_on(Plan(2), **OPTIONS, **options))


def test_halves_are_replayed_too(cuda):
    expected = train_tiny_on(Plan(2), **OPTIONS, precision="fp16")
    check_same(replayed(Plan(2), precision="fp16"), expected, tolerance=8 * 2.0**-11)


def test_the_second_step_is_recorded_and_the_others_run_no_layer(launches):
    replayed(Plan(1))
    forward, backward = launches[2:4]
    assert launches == [None, None] + [forward, backward] * 3


def layers_on(backend):
    """Return three layers, with names and values."""
    layers = Sequential({f"fc{i}": Linear(6, 6) for i in range(3)})
    assign_names(layers, "trunk")
    for seed, parameter in enumerate(layers.parameters()):
        values = np.random.default_rng(seed).standard_normal(parameter.shape).astype(np.float32)
        parameter.set_data(backend.from_host(values), backend)
    return layers


def train_layers(backend):
    """Return the layers' weights after four steps of a rank whose peer does the same, bucket by bucket."""
    layers = layers_on(backend)
    sync = AllReduceSync(layers.parameters(), TwoAlike(), backend, partial(MomentumSGD, backend=backend), 4 * 42)
    trunk_pass = TrunkPass(layers, backend, replayed=True)
    for step in range(4):
        rows, grad = np.random.default_rng(step).standard_normal((2, 5, 6)).astype(np.float32)
        trunk_pass.forward(backend.from_host(rows), Context(True, np.arange(5)))
        with sync:
            trunk_pass.backward(backend.from_host(grad))
        sync.start_step(0.01 * (step + 1)).wait()
    return {parameter.name: backend.to_host(parameter.data) for parameter in layers.parameters()}


def test_a_graph_ends_where_gradients_leave_so_that_they_leave_as_early(cuda, launches, monkeypatch):
    plain = AllReduceSync._start_exchange
    monkeypatch.setattr(AllReduceSync, "_start_exchange", lambda *own: launches.append("bucket") or plain(*own))
    weights = train_layers(cuda)
    kinds = [each if each in (None, "bucket") else "graph" for each in launches]
    buckets = ["graph", "bucket"] * 3 + ["graph"]  # of a layer each; what is behind the last of them is empty
    assert kinds == [None, *["bucket"] * 3, None, *["graph", *buckets] * 3]
    assert largest_difference(weights, train_layers(ReferenceBackend())) < TOLERANCE
    assert RACES == []


def test_a_batch_of_another_shape_runs_as_it_is(cuda):
    calls = []

    def double(x):
        calls.append(x.shape)
        return x * 2

    function, small, large = cuda.replayable(double), np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    for factor, array in ((1, small), (2, small), (3, large), (4, small), (5, large), (6, small)):
        result = function(cuda.from_host(factor * array))
        np.testing.assert_array_equal(cuda.to_host(result), 2 * factor * array)
    assert calls == [(2, 3), (2, 3), (4, 3), (4, 3)]
    assert function(cuda.from_host(small)) is function(cuda.from_host(large[:2]))


def test_calls_between_are_made_each_time_and_see_the_work_before_them(cuda):
    x, seen = cuda.xp.zeros(2, np.float32), []

    def add_twice(y):
        nonlocal x
        x += y
        cuda.each_time(lambda: seen.append(cuda.to_host(x)[0]))
        x += y

    function = cuda.replayable(add_twice)
    for i in range(4):
        function(cuda.from_host(np.full(2, 10.0**i, np.float32)))
    assert seen == [1, 12, 122, 1222]
    assert cuda.to_host(x)[0] == 2222


def test_on_the_host_functions_are_themselves_and_calls_between_are_just_made():
    backend, seen = ReferenceBackend(), []
    function = backend.replayable(len)
    backend.each_time(lambda: seen.append(1))
    assert function is len
    assert seen == [1]


def test_a_whole_run_keeps_the_weights_that_it_keeps_without_graphs(cuda, tmp_path, capsys):
    """The loader's thread brings up batches all the while, and validation comes behind."""
    weights = {}
    for cuda_graph in (False, True):
        config = Config(
            model=ModelOptions(model="cifar-quick", crop=32),
            data=DataOptions(data="synthetic", synthetic_images=22, synthetic_classes=4),
            batch=BatchOptions(images_per_rank=4, epochs=1),
            parallel=ParallelOptions(backend="auto", cuda_graph=cuda_graph),
            run=RunOptions(run_dir=str(tmp_path / f"run{cuda_graph}")),
        )
        run_training(config, SerialCommunicator(), ranks_sharing_cores=1)
        assert ("; the trunk is replayed by CUDA graphs" in capsys.readouterr().out) == cuda_graph
        weights[cuda_graph] = read_weights(tmp_path / f"run{cuda_graph}/weights.h5")
    for name, values in weights[False].items():
        np.testing.assert_array_equal(weights[True][name], values, err_msg=name)
    assert RACES == []


# mistakes


@contextmanager
def noticed():
    """Check that the network comes out wrong, or an error tells."""
    with np.errstate(all="ignore"), pytest.raises((AssertionError, ArithmeticError)):
        yield


def test_an_input_that_is_not_copied_to_its_place_is_noticed(cuda, monkeypatch):
    plain = cuda_replay._Recording._take

    def take_once(self, arrays):
        if not self._steps:
            plain(self, arrays)

    monkeypatch.setattr(cuda_replay._Recording, "_take", take_once)
    with noticed():
        check_same(replayed(Plan(1)), on_the_reference())


def test_memory_of_graphs_that_others_get_too_is_noticed(cuda, monkeypatch):
    """Once a step is recorded, all arrays come from the pool of the graphs."""
    plain = cuda_replay.CudaReplay.record

    with ExitStack() as allocators:

        def record(self, function, arrays):
            recording = plain(self, function, arrays)
            allocators.enter_context(cuda.xp.cuda.using_allocator(self._pool.malloc))
            return recording

        monkeypatch.setattr(cuda_replay.CudaReplay, "record", record)
        with noticed():
            check_same([train_tiny_on(Plan(1), backend=cuda, cuda_graph=True, **OPTIONS)], on_the_reference())


def test_memory_of_graphs_that_is_given_back_is_noticed(cuda, monkeypatch):
    plain = cuda_replay.CudaReplay.record

    def record(self, function, arrays):
        recording = plain(self, function, arrays)
        recording._pool.free_all_blocks()
        return recording

    monkeypatch.setattr(cuda_replay.CudaReplay, "record", record)
    with pytest.raises(RuntimeError, match="memory that went back to the driver"):
        replayed(Plan(1))


def test_memory_of_the_pool_that_all_share_is_refused_in_a_capture(cuda, monkeypatch):
    share = cuda.xp.get_default_memory_pool().malloc
    monkeypatch.setattr(cuda.xp.cuda, "MemoryPool", lambda: type("Pool", (), {"malloc": staticmethod(share)}))
    with pytest.raises(RuntimeError, match="of the pool that all arrays share, taken while a graph is captured"):
        replayed(Plan(1))


def test_a_rate_that_is_recorded_is_noticed(cuda, monkeypatch):
    """An update is no replayable function: what it is told is a number of the host's."""
    plain = MomentumSGD.step
    steps = {}

    def recorded_step(self, lr, grad_scale=1.0, skip=None):
        if self not in steps:
            gradients = [p.grad for p in self.parameters]
            steps[self] = cuda.replayable(lambda *own: plain(self, lr, grad_scale)), gradients
        function, gradients = steps[self]
        for own, parameter in zip(gradients, self.parameters, strict=True):
            own[...] = parameter.grad
            parameter.grad = own
        function(*gradients)

    monkeypatch.setattr(MomentumSGD, "step", recorded_step)
    with noticed():
        check_same([train_tiny_on(Plan(1), backend=cuda, **OPTIONS)], on_the_reference())


def test_an_upload_in_a_recording_is_refused_and_the_device_works_on(cuda):
    function = cuda.replayable(lambda x: x + cuda.from_host(np.ones(3, np.float32)))
    x = cuda.from_host(np.zeros(3, np.float32))
    function(x)
    with pytest.raises(RuntimeError, match=r"an array of shape \(3,\) comes from the host while work is recorded"):
        function(x)
    np.testing.assert_array_equal(cuda.to_host(x + 1), np.ones(3))


# options


def test_dropout_in_the_trunk_and_virtual_ranks_are_refused():
    check_replayable(tiny_model(trunk_dropout=0.0).trunk, virtual_ranks=1)
    with pytest.raises(ValueError, match=r"trunk\.dropout2 drops others in each; leave out --cuda-graph"):
        check_replayable(tiny_model().trunk, virtual_ranks=0)
    with pytest.raises(ValueError, match="2 virtual ranks share one; start the ranks with mpirun"):
        check_replayable(tiny_model(trunk_dropout=0.0).trunk, virtual_ranks=2)
