"""Mutations of JSON and TOML that know their structure."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

_DEEP, _DIGITS = "@@deep@@", "@@digits@@"  # of what json cannot write, put in as text
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), -float("inf"), "", "x", "0", "1e999", "../../x", "/etc/passwd", "..", ".", "a/b",
    "a\nb", "\x1b[31mred", "\0", "\ud800", "\u202e", "A" * 100_000, [], {}, [[]], [None], {"": {}}, _DEEP, _DIGITS,
)  # fmt: skip


def mutate_json(rng: Random, content: Any) -> tuple[str, str]:
    """Return JSON text of `content` with one to three values changed, and what was done. `content` is changed."""
    holder, done = {"": content}, []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(holder, ""))[1:]
        if not places:
            break
        container, key, path = rng.choice(places)
        done.append(f"{rng.choice(_JSON_MUTATIONS)(rng, container, key, places)} at {path[:80]}")
    text = json.dumps(holder[""], indent=rng.choice((None, 1)))
    depth = rng.choice((50, 500, 2000, 100_000))
    text = text.replace(f'"{_DEEP}"', "[" * depth + "]" * depth).replace(f'"{_DIGITS}"', "9" * rng.choice((400, 5000)))
    return text, "; ".join(done)


def _places(container: Any, path: str) -> Any:
    """Yield (container, key, path) of every value, all levels."""
    items = container.items() if isinstance(container, dict) else enumerate(container)
    for key, value in list(items):
        yield container, key, f"{path}.{key}"
        if isinstance(value, dict | list):
            yield from _places(value, f"{path}.{key}")


def _replace(rng: Random, container: Any, key: Any, places: Any) -> str:
    container[key] = rng.choice(VALUES)
    return f"{container[key]!r:.40}"


def _shift(rng: Random, container: Any, key: Any, places: Any) -> str:
    if type(container[key]) not in (int, float):
        return _replace(rng, container, key, places)
    container[key] = rng.choice((container[key] + 1, container[key] - 1, -container[key], container[key] * 2**40))
    return f"{container[key]}"


def _remove(rng: Random, container: Any, key: Any, places: Any) -> str:
    if isinstance(container, list):
        container.pop(min(key, len(container) - 1)) if container else None
    else:
        container.pop(key, None)
    return "removed"


def _exchange(rng: Random, container: Any, key: Any, places: Any) -> str:
    other, other_key, _ = rng.choice(places)
    if isinstance(other, dict) and other_key in other and not isinstance(other[other_key], dict | list):
        container[key], other[other_key] = other[other_key], container[key]
    return "exchanged"


def _repeat(rng: Random, container: Any, key: Any, places: Any) -> str:
    if isinstance(container[key], list | str):
        container[key] = container[key] * rng.choice((0, 2, 100))
    return "repeated"


def _add(rng: Random, container: Any, key: Any, places: Any) -> str:
    if isinstance(container, dict):
        container[rng.choice(("", "x", "seed", "../x", "a\nb"))] = rng.choice(VALUES)
    else:
        container.append(rng.choice(VALUES))
    return "added"


_JSON_MUTATIONS: tuple[Callable[[Random, Any, Any, Any], str], ...] = (
    _replace, _replace, _replace, _replace, _shift, _shift, _remove, _exchange, _repeat, _add,
)  # fmt: skip


def mutate_json_file(rng: Random, path: Path) -> str:
    """Change a JSON file's values, and return what was done."""
    text, done = mutate_json(rng, json.loads(path.read_text(encoding="utf-8")))
    path.write_text(text, encoding="utf-8")
    return f"{done} in {path.name}"


_TOML_VALUES = (
    "-1", "0", "1", "3", "64", "1000000000", "9223372036854775807", "99999999999999999999", "9" * 400, "9" * 5000,
    "0x7fffffff", "0x" + "f" * 5000,
    "1_000_000_000_000", "0.5", "-0.5", "1e999", "1e-320", "nan", "-inf", "inf", "true", "false", '""',
    '"x"', '"a\\nb"', '"""\na\nb"""', '"\\u0000"', '"\\u001b[31m"', '"none"', '"auto"', '"0"', '"d"', '"sharded"',
    "'" + "A" * 100_000 + "'", "[]", "[1, 2]", '[0.5, "a"]', "[true]", "[nan]", "{}", "{a = 1}", "1979-05-27",
    "07:32:00", "1979-05-27T07:32:00Z", "[" * 500 + "]" * 500, "[" * 100_000, "{a=" * 500 + "1" + "}" * 500, "", "\0",
)  # fmt: skip


def mutate_toml_file(rng: Random, path: Path) -> str:
    """Change a TOML file's options and sections, and return what was done."""
    lines, done = path.read_text(encoding="utf-8").splitlines(), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        name, equals, _ = lines[at].partition(" = ")
        kind = rng.choice(("value", "value", "value", "value", "twice", "away", "name", "deep name", "section"))
        if kind == "value" and equals:
            lines[at] = f"{name} = {rng.choice(_TOML_VALUES)}"
        elif kind == "twice":
            lines.insert(at, lines[at])
        elif kind == "away":
            lines[at] = ""
        elif kind == "name":
            lines[at] = lines[at].replace(name, rng.choice(("x", "", "-", '"a\\nb"', f"{name}x", "lr", "é")), 1)
        elif kind == "deep name":
            lines[at] = ".".join("a" * rng.choice((50, 5000))) + " = 1"
        elif kind == "section":
            lines.insert(
                at, rng.choice(("[x]", "[[model]]", "[model.x]", "[model", "[]", "[data]", f"[{'a.' * 5000}a]"))
            )
        done.append(f"{kind}: {lines[at]!r:.80}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"{'; '.join(done)} in {path.name}"
