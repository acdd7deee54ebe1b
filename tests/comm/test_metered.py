"""The ledger: bytes of every collective, and which seconds of it a rank stood waiting."""

import numpy as np
import pytest

from owt_mpi.comm.base import Done
from owt_mpi.comm.comm_thread import CommThread
from owt_mpi.comm.ledger import FlowKey, Ledger
from owt_mpi.comm.metered import MeteredCommunicator
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.spans import SpanLog, about, log_spans_to, span
from tests.comm.checks import CHECKS

K = 4
ROWS = [5, 0, 2, 1]
MOVED = {  # collective: how it is started, and (sent, received) of each rank; x has 2 x 8 or its rows x 8 of 4 bytes
    "all_reduce": (lambda comm, x: comm.start_all_reduce(x), [(96, 96)] * K),
    "all_gather": (lambda comm, x: comm.start_all_gather(x, 1), [(192, 192)] * K),
    "reduce_scatter": (lambda comm, x: comm.start_reduce_scatter(x, 1), [(48, 48)] * K),
    "all_to_all": (lambda comm, x: comm.start_all_to_all(x, 1, 0), [(48, 48)] * K),
    "broadcast": (lambda comm, x: comm.start_broadcast(x, 2), [(64, 64), (0, 64), (64, 0), (64, 64)]),
    "reduce": (lambda comm, x: comm.start_reduce(x, 2), [(64, 64), (64, 64), (0, 64), (64, 0)]),
    "all_gather_rows": (
        lambda comm, x: comm.start_all_gather_rows(np.ones((ROWS[comm.rank], 8), np.float32), ROWS),
        [(256, 96), (192, 256), (224, 192), (96, 224)],
    ),
    "reduce_scatter_rows": (
        lambda comm, x: comm.start_reduce_scatter_rows(np.ones((8, 8), np.float32), ROWS),
        [(96, 224), (256, 96), (192, 256), (224, 192)],
    ),
}


@pytest.mark.parametrize("collective", MOVED)
def test_bytes_are_those_of_a_ring(collective):
    start, expected = MOVED[collective]

    def run(comm):
        ledger = Ledger()
        metered = MeteredCommunicator(comm, ledger).dup("head")
        for _ in range(2):
            with about("fc6"):
                pending = start(metered, np.ones((2, 8), np.float32))
            assert pending.wait() is pending.wait()
        ((key, flow),) = ledger.take().items()
        assert key == FlowKey("head", collective, "fc6")
        assert flow.calls == 2
        return flow.sent_bytes // 2, flow.received_bytes // 2

    moved = run_ranks(K, run)
    assert moved == expected
    for rank, (sent, _) in enumerate(moved):
        assert sent == moved[(rank + 1) % K][1], "in a ring, what a rank sends the next one receives"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_metered_communicator_does_what_its_inner_one_does(check):
    run_ranks(3, lambda comm: check(MeteredCommunicator(comm, Ledger())))


def test_a_group_of_one_moves_nothing():
    ledger = Ledger()
    MeteredCommunicator(SerialCommunicator(), ledger).start_all_reduce(np.ones(3)).wait()
    assert ledger.take() == {}
    assert ledger.wait_seconds == 0


class FakeTransfer(Done):
    """A collective whose transfer took the given time; its wait ends at `until`."""

    def __init__(self, clock, began, ended, until):
        super().__init__(None)
        self.began, self.ended, self._clock, self._until = began, ended, clock, until

    def wait(self):
        self._clock.now = self._until


class FakeClock:
    now = 0.0

    def __call__(self):
        return self.now


class FakeComm(SerialCommunicator):
    def __init__(self, pendings):
        super().__init__("head")
        self.size, self._pendings = 2, iter(pendings)

    def start_all_reduce(self, x, out=None):
        return next(self._pendings)

    start_all_gather = start_all_reduce


def test_seconds_are_exposed_while_the_rank_waits_and_hidden_while_it_works():
    clock = FakeClock()
    ledger = Ledger(clock)
    comm = MeteredCommunicator(FakeComm([FakeTransfer(clock, 1, 11, 11), FakeTransfer(clock, 12, 13, 20)]), ledger)
    first, second = comm.start_all_reduce(np.ones(2)), comm.start_all_gather(np.ones(2))
    clock.now = 8
    first.wait()  # until 11
    clock.now = 20
    second.wait()
    flows = ledger.take()
    reduce, gather = flows[FlowKey("head", "all_reduce", "")], flows[FlowKey("head", "all_gather", "")]
    assert (reduce.seconds, reduce.exposed_seconds, reduce.hidden_share) == (10, 3, 0.7)
    assert (gather.seconds, gather.exposed_seconds, gather.hidden_share) == (1, 0, 1)
    assert ledger.wait_seconds == 3


def test_a_wait_exposes_the_transfers_it_was_queued_behind():
    clock = FakeClock()
    ledger = Ledger(clock)
    comm = MeteredCommunicator(FakeComm([FakeTransfer(clock, 0, 6, 9), FakeTransfer(clock, 6, 9, 9)]), ledger)
    ahead, behind = comm.start_all_reduce(np.ones(2)), comm.start_all_gather(np.ones(2))
    clock.now = 4
    behind.wait()
    ahead.wait()
    flows = ledger.take()
    assert flows[FlowKey("head", "all_reduce", "")].exposed_seconds == 2
    assert flows[FlowKey("head", "all_gather", "")].exposed_seconds == 3
    assert ledger.wait_seconds == 5


def test_a_transport_that_tells_no_times_is_taken_to_move_in_the_wait():
    class Untold:
        def wait(self):
            clock.now += 2

    clock = FakeClock()
    ledger = Ledger(clock)
    MeteredCommunicator(FakeComm([Untold()]), ledger).start_all_reduce(np.ones(2)).wait()
    (flow,) = ledger.take().values()
    assert (flow.seconds, flow.exposed_seconds, ledger.wait_seconds) == (2, 2, 2)


def test_what_happens_aside_is_left_out():
    def run(comm):
        ledger = Ledger()
        metered = MeteredCommunicator(comm, ledger)
        metered.start_all_reduce(np.ones(2)).wait()
        with ledger.aside():
            metered.start_all_gather(np.ones(2)).wait()
        return [key.collective for key in ledger.take()]

    assert run_ranks(2, run) == [["all_reduce"]] * 2


def test_transports_tell_when_a_transfer_began_and_ended():
    thread = CommThread()
    first, second = thread.submit(lambda: 1), thread.submit(lambda: 2)
    second.wait()
    assert first.began <= first.ended <= second.began <= second.ended
    thread.close()

    def run(comm):
        first, second = comm.start_all_reduce(np.ones(2)), comm.start_all_reduce(np.ones(2))
        second.wait()
        assert first.began <= first.ended <= second.began <= second.ended
        return second.ended

    assert len(set(run_ranks(3, run))) == 1, "a meeting is over for all at once"


def test_spans_tell_of_the_start_the_transfer_and_the_wait():
    def run(comm):
        log, metered = SpanLog(), MeteredCommunicator(comm, Ledger())
        log_spans_to(log)
        log.step = 7
        with about("activations", 3):
            pending = metered.start_all_gather(np.ones(2))
        with span("head", head_pass=2):
            pass
        pending.wait()
        log_spans_to(None)
        metered.start_all_gather(np.ones(2)).wait()
        return log.spans

    for spans in run_ranks(2, run):
        assert [(s.row, s.name) for s in spans] == [
            ("compute", "start activations, world all_gather"),
            ("compute", "head"),
            ("wire", "activations, world all_gather"),
            ("waits", "activations, world all_gather"),
        ]
        assert spans[1].facts == {"step": 7, "pass": 2}
        assert spans[2].facts == {
            "step": 7, "label": "world", "collective": "all_gather", "payload": "activations", "sent_bytes": 16,
            "received_bytes": 16, "pass": 3,
        }  # fmt: skip
