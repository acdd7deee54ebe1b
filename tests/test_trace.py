"""The trace: clocks brought together, and one well-formed file for all ranks."""

import json
from itertools import pairwise

import pytest

from owt_mpi.comm.threads import run_ranks
from owt_mpi.spans import Span, span, span_log
from owt_mpi.trace import Offset, Tracer, clock_offsets, write_trace
from tests.trace_file import check_rows, overlaps, read_trace


class TickingClock:
    """A clock of one rank: `offset` ahead of time, which is counted by a barrier's calls and returns."""

    def __init__(self, comm, offset):
        self.rank, self.size, self.offset, self.now = comm.rank, comm.size, offset, 0.0
        self._comm = comm

    def __call__(self):
        return self.now + self.offset

    def barrier(self):
        entered = max(self._comm.all_gather_object(self.now))
        self.now = entered + (0.5, 0.25, 1.0)[self.rank]  # how long the way back takes
        self._comm.all_gather_object(None)

    def all_gather_object(self, value):
        return self._comm.all_gather_object(value)


def test_the_clocks_of_ranks_are_brought_together_within_the_stated_error():
    def run(comm):
        clock = TickingClock(comm, (0.0, 1000.0, -50.0)[comm.rank])
        return clock_offsets(clock, clock)

    for offsets in run_ranks(3, run):
        assert offsets[0] == Offset(0.0, 0.0)
        for offset, true in zip(offsets[1:], (1000.0, -50.0), strict=True):
            assert 0 < offset.error <= 1.0
            assert abs(offset.seconds - true) <= offset.error


def test_spans_are_written_on_rank_0s_clock_from_zero(tmp_path):
    ranks = [[Span("compute", "head", 10.5, 11.0, {"pass": 1})], [Span("wire", "all_reduce", 1010.0, 1010.25)], []]
    offsets = [Offset(0, 0), Offset(1000.0, 2e-6), Offset(5.0, 1e-6)]
    run_ranks(3, lambda comm: write_trace(comm, tmp_path / "trace.json", ranks[comm.rank], offsets))
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert trace["otherData"] == {"clock_error_us": [0, 2, 1]}
    head, reduce = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert (head["pid"], head["tid"], head["ts"], head["dur"], head["args"]) == (1, 1, 5e5, 5e5, {"pass": 1})
    assert (reduce["pid"], reduce["tid"], reduce["ts"], reduce["dur"]) == (2, 5, 0, 2.5e5)


def test_tracing_ends_after_its_steps(tmp_path):
    def run(comm):
        tracer = Tracer(comm, tmp_path / "trace.json", num_steps=2)
        said = []
        for steps_done in range(1, 5):
            with span("update"):
                pass
            said.append(tracer.step_done(steps_done))
        return [text is None for text in said], span_log()

    assert run_ranks(2, run) == [([True, False, True, True], None)] * 2
    trace = read_trace(tmp_path / "trace.json", num_ranks=2)
    assert [[each["args"]["step"] for each in rows["compute"]] for rows in trace] == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("spans", "message"), [([(0, 5), (3, 4), (4, 6)], "partly"), ([(0, 5), (5, 6), (5, 5), (1, 2)], None)]
)
def test_the_check_of_rows_notices_spans_that_overlap_partly(spans, message):
    events = [{"name": f"{begin}", "ts": begin, "dur": end - begin} for begin, end in spans]
    if message is None:
        check_rows({"compute": events})
    else:
        with pytest.raises(AssertionError, match=message):
            check_rows({"compute": events})


def test_overlap_is_of_all_ranks():
    events = [{"ts": 0, "dur": 5}, {"ts": 4, "dur": 2}, {"ts": 5, "dur": 9}]
    assert overlaps(events, 0)
    assert [overlaps(list(pair), 0) for pair in pairwise([*events, {"ts": 30, "dur": 1}])] == [True, True, False]
