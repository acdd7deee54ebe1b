"""Mutations of files as bytes, and of what stands in a file's place."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

_NUMBERS = (0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
_LARGE_HOLE = 1 << 31  # bytes of a file that takes no room


def mutate_bytes(rng: Random, path: Path) -> str:
    """Change a file blindly, one to four times, and return what was done."""
    content, done = bytearray(path.read_bytes()), []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        mutation = rng.choice(_MUTATIONS)
        done.append(mutation.__name__.strip("_"))
        mutation(rng, content)
    path.write_bytes(content)
    return f"{', '.join(done)} in {path.name}"


def _place(rng: Random, content: bytearray) -> int:
    """Return a place, more often than not near the beginning or the end, where structure is."""
    size = max(len(content), 1)
    return rng.choice((rng.randrange(size), rng.randrange(min(size, 2500)), size - 1 - rng.randrange(min(size, 9000))))


def _flip_bit(rng: Random, content: bytearray) -> None:
    if content:
        content[_place(rng, content)] ^= 1 << rng.randrange(8)


def _set_number(rng: Random, content: bytearray) -> None:
    width, number = rng.choice((1, 2, 4, 8)), rng.choice(_NUMBERS)
    place = _place(rng, content) // width * width if rng.random() < 0.7 else _place(rng, content)
    content[place : place + width] = (number % 256**width).to_bytes(width, rng.choice(("little", "little", "big")))


def _truncate(rng: Random, content: bytearray) -> None:
    del content[_place(rng, content) :]


def _insert(rng: Random, content: bytearray) -> None:
    place, run = _place(rng, content), rng.choice((b"\0", b"\xff", b"A", b"\n", rng.randbytes(1)))
    content[place:place] = run * rng.choice((1, 2, 8, 512, 5000))


def _append(rng: Random, content: bytearray) -> None:
    content += rng.randbytes(rng.choice((1, 100, 4096)))


def _delete(rng: Random, content: bytearray) -> None:
    place = _place(rng, content)
    del content[place : place + rng.choice((1, 4, 8, 64, 512))]


def _swap_blocks(rng: Random, content: bytearray) -> None:
    size = rng.choice((1, 4, 8, 40, 512))
    first, second = _place(rng, content), _place(rng, content)
    if abs(first - second) >= size:
        a, b = content[first : first + size], content[second : second + size]
        content[first : first + size], content[second : second + size] = b, a


def _copy_block(rng: Random, content: bytearray) -> None:
    size, source, target = rng.choice((4, 8, 40, 512)), _place(rng, content), _place(rng, content)
    content[target : target + size] = content[source : source + size]


def _random_run(rng: Random, content: bytearray) -> None:
    place, size = _place(rng, content), rng.choice((4, 16, 200))
    content[place : place + size] = rng.randbytes(size)


def _all_random(rng: Random, content: bytearray) -> None:
    content[:] = rng.randbytes(rng.choice((0, 1, 8, 512, 5000)))


def _random_behind_the_start(rng: Random, content: bytearray) -> None:
    start = rng.choice((4, 8, 16, 96))
    content[start:] = rng.randbytes(max(len(content) - start, 0))


_MUTATIONS: tuple[Callable[[Random, bytearray], None], ...] = (
    _flip_bit, _flip_bit, _flip_bit, _set_number, _set_number, _set_number, _truncate, _insert, _append, _delete,
    _swap_blocks, _copy_block, _random_run, _all_random, _random_behind_the_start,
)  # fmt: skip


def odd_file(rng: Random, path: Path) -> str:
    """Put something in a file's place that is no file, or none of that size, and return what."""
    path.unlink()
    odd = rng.choice(("nothing", "folder", "pipe", "dangling link", "link to itself", "/dev/zero", "/dev/null", "hole"))
    if odd == "folder":
        path.mkdir()
    elif odd == "pipe":
        os.mkfifo(path)
    elif odd == "dangling link":
        path.symlink_to("nowhere")
    elif odd == "link to itself":
        path.symlink_to(path.name)
    elif odd.startswith("/dev"):
        path.symlink_to(odd)
    elif odd == "hole":
        with path.open("wb") as file:
            file.truncate(_LARGE_HOLE)
    return f"{odd} in place of {path.name}"
