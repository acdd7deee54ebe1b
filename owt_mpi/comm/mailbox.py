"""Small messages between ranks at any time, outside of the collectives: for work that is handed out on demand."""

from typing import Any, Protocol

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.serial import SerialCommunicator


class Mailbox(Protocol):
    """One rank's end. Messages from one rank to another arrive in the order in which they were sent."""

    rank: int
    size: int

    def send(self, to: int, message: Any) -> None:
        """Send a small picklable message to another rank; return at once."""
        ...

    def receive(self) -> tuple[int, Any] | None:
        """Return (sender, message) of a message that has come, None if there is none; do not wait."""
        ...


class NoMail:
    """The mailbox of a rank that is alone."""

    rank = 0
    size = 1

    def send(self, to: int, message: Any) -> None:
        """Fail: there is no other rank."""
        raise AssertionError(f"there is no rank {to}")

    def receive(self) -> tuple[int, Any] | None:
        """Return None."""
        return None


class MpiMailbox:
    """A mailbox on a communicator of its own over MPI; its calls run on the communication thread."""

    def __init__(self, comm: Any) -> None:
        self.rank: int = comm.rank
        self.size: int = comm.size
        self._comm = comm
        self._sends: list[Any] = []  # requests, kept until MPI needs their buffers no more

    def send(self, to: int, message: Any) -> None:
        """Start MPI's send."""
        self._sends = [request for request in self._sends if not self._comm.submit(request.Test).wait()]
        self._sends.append(self._comm.submit(lambda: self._comm.calls.send_object((self.rank, message), to)).wait())

    def receive(self) -> tuple[int, Any] | None:
        """Probe, and receive what is there."""
        received: tuple[int, Any] | None = self._comm.submit(self._comm.calls.receive_object).wait()
        return received


def open_mailbox(comm: Communicator) -> Mailbox:
    """Return this rank's mailbox, on a duplicate of `comm`, a serial communicator or one over MPI. All ranks call."""
    return NoMail() if isinstance(comm, SerialCommunicator) else MpiMailbox(comm.dup("mailbox"))
