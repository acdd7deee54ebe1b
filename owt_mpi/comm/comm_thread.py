"""The one thread of a process that enters MPI, running calls in the order in which they were handed in.

Blocking calls on a thread of their own make progress while the caller computes, whatever the MPI library does about
the progress of non-blocking ones, and need no more than MPI_THREAD_SERIALIZED.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic

from owt_mpi.comm.base import T


class Task(Generic[T]):
    """A call handed to the thread; a Pending of what it returns. Keeps what the call uses alive until it is done.

    `began` and `ended` are when the thread made the call and was back, in seconds of time.perf_counter().
    """

    began: float
    ended: float

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._result: T

    def wait(self) -> T:
        """Block until the call is done; return what it returned or raise what it raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result

    def is_done_within(self, seconds: float) -> bool:
        """Return whether the call is done, waiting for it at most `seconds`."""
        return self._done.wait(seconds)

    def run(self, earlier_error: BaseException | None) -> BaseException | None:
        """Make the call, unless an earlier one failed; return the error if there is one."""
        assert self._call is not None
        self.began = time.perf_counter()
        try:
            if earlier_error is not None:
                raise RuntimeError(f"not started, because an earlier MPI call failed: {earlier_error}")
            self._result = self._call()
        except BaseException as error:
            self._error = error
        finally:
            self._call = None
            self.ended = time.perf_counter()
            self._done.set()
        return self._error


class CommThread:
    """A daemon thread with a queue of calls. After a call that failed no other is made: ranks are out of step."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="owt_mpi communication", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], T]) -> Task[T]:
        """Return the task that will make `call` after all calls handed in before."""
        task = Task(call)
        self._tasks.put(task)
        return task

    def close(self) -> None:
        """Return when all calls are done and the thread has ended. Raise the error of the first that failed."""
        self._tasks.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            error = task.run(self._error)
            self._error = self._error or error
            del task  # its result belongs to whoever waits, not to an idle thread
