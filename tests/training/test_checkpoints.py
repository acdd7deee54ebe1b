"""What is not finite, or not alike on all ranks, is never kept as a checkpoint to go on from."""

import numpy as np
import pytest

from owt_mpi.backends.precision import compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.bad_steps import BadStepError
from owt_mpi.checkpoint.folder import checkpoints_in
from owt_mpi.checkpoint.saver import CheckpointSaver
from owt_mpi.comm.half import carrying_halves
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer
from owt_mpi.training.checkpoints import DataState, Every, Position, RunCheckpoints
from tests.tiny import GLOBAL_BATCH, global_batch, part_of, tiny_model

DATA = DataState(GLOBAL_BATCH, 96, 1, "full", "drop")


@pytest.mark.parametrize("kind", ["weights", "momentum"])
@pytest.mark.parametrize("side", ["trunk", "head"])
@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_number_that_is_none_on_one_rank_is_in_no_checkpoint(tmp_path, kind, side, trunk_sync, precision):
    def fn(comm):
        computed = compute_dtype(precision, "float32")
        backend = select_backend("reference", computed)[0]
        config = Config(parallel=ParallelOptions(precision=precision, trunk_sync=trunk_sync, bucket_mib=0.001))
        layout = make_layout(carrying_halves(comm, computed), Plan(2, "c"))
        trainer = Trainer(config, tiny_model(), layout, backend, GLOBAL_BATCH)
        saver = CheckpointSaver(tmp_path, comm, 3, {}, "test")
        checkpoints = RunCheckpoints(saver, Every(steps=1), DATA, checks_weights=False)
        for step in (0, 1):
            trainer.train_step(part_of(global_batch(step, computed), comm.rank, comm.size), step)
            if step == 1 and comm.rank == 1:
                arrays = (trainer.trunk_sync if side == "trunk" else trainer.head_sync).changed_arrays()
                arrays[0 if kind == "weights" else -1].reshape(-1)[-1] = np.nan
            if step == 0:
                checkpoints.after_step(trainer, Position(0, 1, 1), None)
                continue
            with pytest.raises(
                BadStepError, match=r"no finite numbers after step 2 on rank 1: no checkpoint of it"
            ) as e:
                checkpoints.after_step(trainer, Position(0, 2, 2), None)
            assert not e.value.is_undone
        checkpoints.finish()

    run_ranks(2, fn)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000000001"]
