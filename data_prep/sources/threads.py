"""Looking at many files at once."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

NUM_THREADS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function` of the items, in their order.

    Network file systems take long to answer, but answer many at once: where a read takes 0.3 ms, an index of 25,620
    members takes 1.3 s so, and one at a time 6.4 s. Where none waits, threads cost a tenth.
    """
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        yield from pool.map(function, items)
