"""What an evaluation tells: totals, classes, classes taken for one another, and the images of the highest loss."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi.data.facts import DataFacts
from owt_mpi.evaluation.outcomes import Outcomes
from owt_mpi.tables import Table, render

_WIDTH = 40


@dataclass(frozen=True)
class ClassScore:
    """How the images of one class are found; without any, loss and shares are None."""

    label: int
    name: str
    images: int
    top1: float | None
    top5: float | None
    loss: float | None


@dataclass(frozen=True)
class Confusion:
    """How many images of class `label` are taken for `predicted`."""

    label: int
    predicted: int
    images: int


@dataclass(frozen=True)
class Report:
    """All of it, from the outcomes in the order of the samples; `worst` are some samples with their names."""

    outcomes: Outcomes
    facts: DataFacts
    worst: Mapping[int, str]

    @cached_property
    def classes(self) -> list[ClassScore]:
        """Every class, that of the lowest top-1 first; those without images last."""
        labels, size = self.outcomes.labels, len(self.facts.class_names)
        counts = np.bincount(labels, minlength=size)

        def means(values: np.ndarray) -> list[float | None]:
            sums = np.bincount(labels, values, size)
            return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]

        columns = means(self.outcomes.top1), means(self.outcomes.top5), means(self.outcomes.losses)
        scores = [
            ClassScore(label, self.facts.titles[label], int(counts[label]), *(column[label] for column in columns))
            for label in range(size)
        ]
        return sorted(scores, key=lambda each: (each.top1 is None, each.top1, -(each.loss or 0), each.label))

    @cached_property
    def confusion(self) -> list[Confusion]:
        """All pairs of label and predicted class that occur, right ones too, by label."""
        size = len(self.facts.class_names)
        cells, counts = np.unique(self.outcomes.labels * size + self.outcomes.predicted, return_counts=True)
        return [
            Confusion(cell // size, cell % size, count)
            for cell, count in zip(cells.tolist(), counts.tolist(), strict=True)
        ]

    def totals(self) -> str:
        """Return loss and accuracies in one line."""
        outcomes = self.outcomes
        return (
            f"loss {outcomes.losses.mean():.4f}, top-1 {outcomes.top1.mean():.2%}, top-5 {outcomes.top5.mean():.2%} of "
            f"{len(outcomes.labels)} images"
        )

    def tables(self, num_classes: int, num_confused: int) -> list[str]:
        """Return tables of so many classes and pairs, and of the worst images; what has no lines is left out."""
        titles, outcomes = self.facts.titles, self.outcomes
        counts = {each.label: each.images for each in self.classes}
        wrong = sorted((each for each in self.confusion if each.label != each.predicted), key=lambda c: -c.images)
        tables = [
            Table(
                f"Classes found worst, {min(num_classes, len(self.classes))} of {len(self.classes)}",
                ("class", "images", "top-1", "top-5", "loss"),
                [
                    [_short(each.name), str(each.images), _percent(each.top1), _percent(each.top5), _number(each.loss)]
                    for each in self.classes[:num_classes]
                ],
            ),
            Table(
                f"Classes taken for others, {min(num_confused, len(wrong))} of {len(wrong)} pairs",
                ("class", "taken for", "images", "of the class"),
                [
                    [
                        _short(titles[each.label]), _short(titles[each.predicted]), str(each.images),
                        _percent(each.images / counts[each.label]),
                    ]
                    for each in wrong[:num_confused]
                ],
            ),
            Table(
                "Images of the highest loss",
                ("image", "taken for", "score", "loss"),
                [
                    [
                        name, _short(titles[outcomes.predicted[sample]]), f"{outcomes.scores[sample]:.3f}",
                        _number(float(outcomes.losses[sample])),
                    ]
                    for sample, name in self.worst.items()
                ],
            ),
        ]  # fmt: skip
        return [render(table, markdown=False) for table in tables if table.lines]

    def as_json(self) -> dict[str, Any]:
        """Return all of it for machines."""
        outcomes = self.outcomes
        return {
            "images": len(outcomes.labels),
            "loss": float(outcomes.losses.mean()),
            "top1": float(outcomes.top1.mean()),
            "top5": float(outcomes.top5.mean()),
            "classes": [asdict(each) for each in self.classes],
            "class_names": self.facts.class_names,
            "confusion": [[each.label, each.predicted, each.images] for each in self.confusion],
            "worst": [
                {
                    "sample": sample,
                    "name": name,
                    "label": int(outcomes.labels[sample]),
                    "predicted": int(outcomes.predicted[sample]),
                    "score": float(outcomes.scores[sample]),
                    "loss": float(outcomes.losses[sample]),
                }
                for sample, name in self.worst.items()
            ],
        }


def write_json(path: Path, report: Report, said: Mapping[str, str]) -> None:
    """Write the report, and what it is of, to `path`."""
    path.write_text(json.dumps({"of": dict(said), **report.as_json()}, indent=1) + "\n", encoding="utf-8")


def write_npz(path: Path, report: Report) -> None:
    """Write the confusion matrix (label, predicted) and the outcome of every image to `path`."""
    size = len(report.facts.class_names)
    matrix = np.zeros((size, size), np.int32)
    for each in report.confusion:
        matrix[each.label, each.predicted] = each.images
    with path.open("wb") as file:
        np.savez_compressed(file, confusion=matrix, **asdict(report.outcomes))


def _percent(part: float | None) -> str:
    return "" if part is None else f"{part:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
