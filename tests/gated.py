"""A small training that halts in the middle of a step, for tests of what happens to it there."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from owt_mpi.checkpoint.reader import first_damage
from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.comm.serial import SerialCommunicator
from tests.mpi_run import until

# A network behind a gate, at which every rank halts in its fourth step until there is a file "open" or the rank is to
# stop.
GATE = """
import os
import time
from pathlib import Path
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.training.stopping import wish_to_stop
HERE = Path(__file__).parent
class Gate(Module):
    def forward(self, x, ctx):
        if ctx.training and ctx.step == 3 and not (HERE / "open").exists():
            (HERE / f"halted-{launcher_rank()}").write_text(str(os.getpid()))
            while not (HERE / "open").exists() and wish_to_stop() is None:
                time.sleep(0.01)
        return x
def gated(spec):
    model = residual(spec)
    trunk = Sequential({"gate": Gate(), **model.trunk.layers})
    return Model("gated", spec, trunk, model.head, "softmax")
"""
Weights = Mapping[str, np.ndarray]


class GatedTraining:
    """12 steps with a checkpoint after every second, of the network of `preset` and `my_nets.py` beside it.

    Files are in `folder`, which is made: the run's in `run_dir`. `arguments` are those of the training command, but for
    the run's folder.
    """

    def __init__(self, folder: Path, shards: Path, preset: Path) -> None:
        folder.mkdir()
        self.folder, self.run_dir = folder, folder / "run"
        nets = folder / "gated.py"
        nets.write_text((preset.parent / "my_nets.py").read_text() + GATE)
        self.arguments = ("--preset", str(preset), "--model", f"{nets}:gated", "--data", str(shards), "--backend",
                          "reference", "--checkpoint-every", "2", "--keep-checkpoints", "9",
                          "--log-every", "1")  # fmt: skip

    @property
    def output(self) -> str:
        """What was printed into the file `job.out` of the folder."""
        file = self.folder / "job.out"
        return file.read_text() if file.exists() else ""

    def open_gate(self) -> None:
        (self.folder / "open").touch()

    def wait_until_halted(self, num_ranks: int = 4) -> list[int]:
        """Return the process ids of the ranks when all halt in step 4, and the checkpoint of step 2 is written."""
        halted = [self.folder / f"halted-{rank}" for rank in range(num_ranks)]

        def is_halted() -> bool:
            assert not self.has_ended(), self.output
            return all(file.exists() and file.read_text() for file in halted) and self.steps_kept() == [2]

        until(is_halted, 90, lambda: self.output)
        return [int(file.read_text()) for file in halted]

    def has_ended(self) -> bool:
        """Return whether there is no hope that the ranks come to the gate."""
        raise NotImplementedError

    def steps_kept(self) -> list[int]:
        """Return the steps of the checkpoints that `latest` may name: those that are whole."""
        return sorted(int(path.name.split("-")[1]) for path in (self.run_dir / "checkpoints").glob("step-*"))

    def assert_whole_checkpoints(self, steps: list[int]) -> None:
        assert self.steps_kept() == steps
        for path in (self.run_dir / "checkpoints").glob("step-*"):
            assert first_damage(path, SerialCommunicator()) is None

    def assert_went_on(self, step: int) -> None:
        """Check that the run was begun once and gone on with once, from the checkpoint of `step`."""
        assert self.output.count("no checkpoint to go on from: the run begins") == 1
        assert self.output.count("going on from ") == 1
        assert f"going on from {self.run_dir}/checkpoints/step-{step:09d}" in self.output

    def weights(self) -> dict[str, np.ndarray]:
        return read_weights(self.run_dir / "weights.h5")

    def assert_weights(self, expected: Weights, tolerance: float = 0.0) -> None:
        weights = self.weights()
        assert weights.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(weights[name], values, rtol=0, atol=tolerance, err_msg=name)
