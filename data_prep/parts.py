"""Which samples of the sources are for training and which for validation, and the classes they have."""

from dataclasses import dataclass
from pathlib import Path

from data_prep.layouts import WHOLE, Listing, Sample, scan
from data_prep.progress import Reporter
from owt_mpi import rng
from owt_mpi.data.manifest import DataError


@dataclass(frozen=True)
class Part:
    """The samples of one split, sorted, and where they are."""

    source: Path
    role: str
    samples: list[Sample]


def choose_parts(
    source: Path, val_source: Path | None, val_fraction: float | None, seed: int, reporter: Reporter
) -> dict[str, Part]:
    """Return the part for "train" and, if there are validation images, the one for "val".

    These are in `source` itself (val/, else test/), or in `val_source`, or are drawn from the training images.
    """
    listing = _scan(source, reporter)
    train = _part(listing, ("train", WHOLE))
    if train is None:
        raise DataError(f"{source} has no train/ beside {'/, '.join(listing.samples)}/; name the training images")
    val = _part(listing, ("val", "test"))
    if val is not None and (val_source is not None or val_fraction is not None):
        raise ValueError(f"{source} has validation images of its own; leave out --val and --val-fraction")
    if val_source is not None:
        val = _part(_scan(val_source, reporter), ("val", "test", WHOLE, "train"))
    elif val_fraction is not None:
        train, val = split_off(train, val_fraction, seed)
    return {"train": train} if val is None else {"train": train, "val": val}


def split_off(part: Part, fraction: float, seed: int) -> tuple[Part, Part]:
    """Return the rest, and about `fraction` of each class drawn at random."""
    classes: dict[str, list[Sample]] = {}
    for sample in part.samples:
        classes.setdefault(sample.class_name, []).append(sample)
    taken: set[Sample] = set()
    for name, samples in classes.items():
        order = rng.permutation(rng.stream_key(seed, "validation", name), len(samples))
        taken.update(samples[index] for index in order[: round(fraction * len(samples))].tolist())
    if not taken:
        raise ValueError(f"--val-fraction {fraction} of these small classes is no image at all; choose more")
    rest = [sample for sample in part.samples if sample not in taken]
    return Part(part.source, part.role, rest), Part(part.source, part.role, sorted(taken))


def check_classes(parts: dict[str, Part], reporter: Reporter) -> tuple[str, ...]:
    """Return the sorted names of the training classes. DataError if there is one only, or validation has others."""
    class_names = tuple(sorted({sample.class_name for sample in parts["train"].samples}))
    if len(class_names) < 2:
        raise DataError(f"{parts['train'].source} has the one class {class_names[0]!r}; is it a folder too deep?")
    if "val" not in parts:
        reporter.warn("there are no validation images; see --val and --val-fraction")
        return class_names
    there = {sample.class_name for sample in parts["val"].samples}
    unknown = sorted(there.difference(class_names))
    if unknown:
        raise DataError(
            f"{parts['val'].source} has {len(unknown)} classes without training images, such as {unknown[0]!r}; "
            "name the classes alike"
        )
    for name in sorted(set(class_names) - there):
        reporter.warn(f"class {name} has no validation images")
    return class_names


def _scan(path: Path, reporter: Reporter) -> Listing:
    listing = scan(path)
    found = ", ".join(f"{len(samples)} images{role and f' in {role}/'}" for role, samples in listing.samples.items())
    reporter.say(f"{path}: {listing.layout}, {found}")
    for name in listing.empty_classes:
        reporter.warn(f"{path}: class {name} is empty and left out")
    if listing.ignored:
        examples = "; ".join(listing.ignored[:3])
        reporter.warn(f"{path}: {len(listing.ignored)} files ignored: {examples}{' ...' * (len(listing.ignored) > 3)}")
    return listing


def _part(listing: Listing, roles: tuple[str, ...]) -> Part | None:
    role = next((role for role in roles if role in listing.samples), None)
    return None if role is None else Part(listing.path, role, listing.samples[role])
