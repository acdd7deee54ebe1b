"""Clusters in TOML: read, checked, and written."""

import json
from collections.abc import Collection, Mapping
from importlib import resources
from typing import Any, cast

from owt_mpi.input_file import listed, number, printable, short, table, text, truth, whole
from owt_mpi.planner.cluster import SHARINGS, Cluster, Level, PlannedDevice
from owt_mpi.planner.devices import Device
from owt_mpi.planner.kernel import PRECISIONS, PrecisionName
from owt_mpi.preset_files import load_toml, shipped_names

_CLUSTERS = resources.files("owt_mpi.planner").joinpath("clusters")
_MOST_LEVELS, _MOST_RANKS, _LONGEST_TEXT = 8, 1 << 20, 200
_RATES, _SECONDS, _SHARES = (1e3, 1e18), (0.0, 10.0), (0.001, 1.0)  # no number outside is meant
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce")


def cluster_names() -> list[str]:
    """Return the names of the shipped clusters."""
    return shipped_names(_CLUSTERS)


def load_cluster(name: str) -> Cluster:
    """Return a shipped cluster, or that of a TOML file. ValueError, in one line, if it is missing or wrong."""
    return cluster_from(load_toml("cluster", name, _CLUSTERS), f"--cluster {name}")


def cluster_from(content: Mapping[str, Any], source: str) -> Cluster:
    """Return the cluster that a table describes. ValueError, which begins with `source`, if it describes none."""
    top = _Section(content, source, ("name", "fitted", "device", "levels", "collectives"))
    collectives = top.section(
        "collectives", ("call_seconds", "uses_all_links", "slower", "takes_cores"), missing={"slower", "takes_cores"}
    )
    slower = collectives.section("slower", KINDS, missing=KINDS)
    return Cluster(
        name=_words(top["name"], f"{source}: name"),
        device=_device(top),
        levels=_levels(listed(top["levels"], f"{source}: levels"), source),
        call_seconds=collectives.number("call_seconds", *_SECONDS),
        uses_all_links=truth(collectives["uses_all_links"], f"{collectives.where} uses_all_links"),
        slower={kind: slower.number(kind, 0.01, 1000) for kind in slower.content},
        takes_cores=collectives.number("takes_cores", 0, 1) if "takes_cores" in collectives.content else 0.0,
        fitted=_words(top.content.get("fitted", ""), f"{source}: fitted"),
    )


def to_toml(cluster: Cluster, comments: str = "") -> str:
    """Return the cluster as TOML that `load_cluster` reads back, below `comments`."""
    device, rates = cluster.device, cluster.device.peak.product_flop_per_second
    sections: list[tuple[str, Mapping[str, Any]]] = [
        ("", {"name": cluster.name, "fitted": cluster.fitted}),
        (
            "[device]",
            {
                "name": device.peak.name,
                "gpu": device.is_gpu,
                "memory_bytes": device.memory_bytes,
                "memory_bytes_per_second": device.peak.memory_bytes_per_second,
                "memory_share": device.memory_share,
                "convolution_share": device.convolution_share,
                "linear_share": device.linear_share,
                "kernel_seconds": device.kernel_seconds,
            },
        ),
        ("[device.flop_per_second]", {str(name): rate for name, rate in rates.items()}),
        *(("[[levels]]", vars(level)) for level in cluster.levels),
        (
            "[collectives]",
            {
                "call_seconds": cluster.call_seconds,
                "uses_all_links": cluster.uses_all_links,
                "takes_cores": cluster.takes_cores,
            },
        ),
        ("[collectives.slower]", cluster.slower),
    ]
    lines = [f"# {line}" for line in comments.splitlines()]
    for heading, values in sections:
        lines += [heading] * bool(heading)
        lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
        lines.append("")
    return "\n".join(lines)


class _Section:
    """A table of the file, and where it is, for messages."""

    def __init__(
        self, content: Mapping[str, Any], where: str, known: Collection[str], missing: Collection[str] = ("fitted",)
    ) -> None:
        self.content, self.where, self._missing = content, where, missing
        for name in content:
            if name not in known:
                raise ValueError(f"{where} has no entry {printable(short(name))}; it has {', '.join(known)}")
        for name in known:
            if name not in content and name not in missing:
                raise ValueError(f"{where} needs {name}; it has {', '.join(map(printable, content)) or 'nothing'}")

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def section(self, name: str, known: Collection[str], missing: Collection[str] = ()) -> "_Section":
        """Return the table `name` in this one, an empty one if it may be missing and is."""
        inner = self.content.get(name, {}) if name in self._missing else self.content[name]
        where = f"{self.where} {name}" if "[" in self.where else f"{self.where}: [{name}]"
        return _Section(table(inner, where), where, known, missing)

    def number(self, name: str, least: float, most: float) -> float:
        """Return a number from `least` to `most`. ValueError if it is none."""
        value = number(self.content[name], f"{self.where} {name}")
        if not least <= value <= most:
            raise ValueError(f"{self.where} {name} is {value:g}, but must lie between {least:g} and {most:g}")
        return value


def _words(value: Any, name: str) -> str:
    """Return a text that can be printed in a line. ValueError, with its `name`, if it is none, or too long."""
    words = printable(text(value, name))
    if len(words) > _LONGEST_TEXT:
        raise ValueError(f"{name} has {len(words)} letters, and may have {_LONGEST_TEXT}")
    return words


def _device(top: _Section) -> PlannedDevice:
    shares = ("convolution_share", "linear_share", "memory_share")
    device = top.section(
        "device",
        ("name", "gpu", "memory_bytes", "memory_bytes_per_second", "flop_per_second", *shares, "kernel_seconds"),
    )
    rates = device.section("flop_per_second", PRECISIONS, missing=set(PRECISIONS) - {"fp32"})
    peak = Device(
        _words(device["name"], f"{device.where} name"),
        device.number("memory_bytes_per_second", *_RATES),
        {cast("PrecisionName", name): rates.number(name, *_RATES) for name in rates.content},
        (),
    )
    return PlannedDevice(
        peak,
        device.number("memory_bytes", 1e6, 1e15),
        truth(device["gpu"], f"{device.where} gpu"),
        convolution_share=device.number("convolution_share", *_SHARES),
        linear_share=device.number("linear_share", *_SHARES),
        memory_share=device.number("memory_share", *_SHARES),
        kernel_seconds=device.number("kernel_seconds", *_SECONDS),
    )


def _levels(content: list[Any], source: str) -> tuple[Level, ...]:
    if not 1 <= len(content) <= _MOST_LEVELS:
        raise ValueError(f"{source}: there are {len(content)} [[levels]], but must be 1 to {_MOST_LEVELS}")
    levels: list[Level] = []
    below = 1
    for index, values in enumerate(content, start=1):
        where = f"{source}: level {index}"
        names = ("name", "ranks", "latency_seconds", "bytes_per_second", "link")
        level = _Section(table(values, where), where, names)
        ranks = whole(level["ranks"], f"{where} ranks", 0, _MOST_RANKS)
        is_last = index == len(content)
        if ranks % below or (ranks < below and not (is_last and ranks == 0)):
            raise ValueError(
                f"{where} ranks is {ranks}, but must be a multiple of the {below} of the level before"
                f"{', or 0 for any number' * is_last}"
            )
        link = text(level["link"], f"{where} link")
        if link not in SHARINGS:
            raise ValueError(f"{where} link is {short(link)}, but must be {' or '.join(map(repr, SHARINGS))}")
        latency, rate = level.number("latency_seconds", *_SECONDS), level.number("bytes_per_second", *_RATES)
        levels.append(Level(_words(level["name"], f"{where} name"), ranks, latency, rate, link))
        below = ranks
    return tuple(levels)
