"""The benchmark that holds the planner's predictions to steps that ran."""

from benchmarks.predicted import PredictedRow, rows_of, table
from owt_mpi.comm.threads import run_ranks


def test_every_scheme_is_predicted_and_measured_on_one_rank_and_on_two():
    rows, none = run_ranks(2, lambda comm: rows_of("small", 16, 8, 8, comm, repeats=1, seconds=0.0))
    assert [(row.ranks, row.scheme) for row in rows] == [(1, "dp"), *((2, s) for s in ("dp", "a", "b", "c", "d"))]
    assert all(row.predicted > 0 and row.fastest <= row.measured <= row.slowest for row in rows)
    assert [(row.ranks, row.scheme) for row in none] == [(row.ranks, row.scheme) for row in rows if row.ranks == 2]


def test_the_table_tells_how_many_are_within_fifteen_percent():
    rows = [PredictedRow("x", 8, 2, "c", predicted, 1.0, 0.9, 1.2) for predicted in (1.14, 0.86, 1.16, 0.84)]
    made = table(rows)
    assert [line[-1] for line in made.lines] == ["+14.0%", "-14.0%", "+16.0%", "-16.0%"]
    assert made.notes[0].startswith("2 of 4 within 15 %.")
