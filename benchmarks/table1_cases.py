"""What the benchmark table1 trains: the rows of the table, the dial, the check of the schemes; and how each is told."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Rule = Literal["linear", "sqrt"]
RULES: tuple[Rule, ...] = ("linear", "sqrt")
RULE_NAMES = {"linear": "k", "sqrt": "sqrt(k)"}
CHECKED_SCHEMES = ("dp", "b", "c")
NET = Path(__file__).with_name("table1_net.py")


@dataclass(frozen=True)
class Setup:
    """What all trainings have in common; results of another setup are another table's."""

    data: str  # names the shards and what is in them
    images: int  # n: of a rank and step, and the batch that `lr` is given for
    epochs: int
    max_steps: int  # 0: no limit
    check_steps: int  # of the check of the schemes
    crop: int
    lr: float


@dataclass(frozen=True)
class Case:
    """One training of `ranks` virtual ranks; its head is updated after every `passes` of the `ranks` head passes."""

    ranks: int
    batch: int
    passes: int
    rule: Rule
    seed: int
    scheme: str = "c"
    is_check: bool = False  # a few steps in float64

    @property
    def head_batch(self) -> int:
        """The examples of an update of the head."""
        return self.batch * self.passes // self.ranks

    def __str__(self) -> str:
        rule = "" if self.ranks == 1 else f", {RULE_NAMES[self.rule]}"
        what = f", scheme {self.scheme} in float64" if self.is_check else rule
        return f"K = {self.ranks}, batch ({self.batch}, {self.head_batch}){what}, seed {self.seed}"


def table_cases(ranks: tuple[int, ...], images: int, seed: int) -> list[Case]:
    """Return the rows of the table and the points of the dial at the largest K, each once."""
    cases: list[Case] = []
    for size in ranks:
        periods = {size, 1}
        if size == max(ranks):
            periods |= {passes for passes in range(1, size) if size % passes == 0}
        for passes in sorted(periods, reverse=True):
            rules = RULES if size > 1 and passes in (1, size) else RULES[:1]
            cases += [Case(size, size * images, passes, rule, seed) for rule in rules]
    return cases


def check_cases(ranks: tuple[int, ...], images: int, seed: int) -> list[Case]:
    """Return the check of the schemes: one rank with the batch of the largest K, and K ranks by each scheme."""
    size = max(ranks)
    alone = Case(1, size * images, 1, "linear", seed, is_check=True)
    return [alone, *(Case(size, size * images, size, "linear", seed, each, True) for each in CHECKED_SCHEMES)]


def all_cases(ranks: tuple[int, ...], images: int, num_seeds: int) -> list[Case]:
    """Return all trainings, seed by seed: a table cut short is whole for fewer seeds."""
    first, *others = [table_cases(ranks, images, seed) for seed in range(1, num_seeds + 1)]
    return [*first, *check_cases(ranks, images, 1), *(case for cases in others for case in cases)]


def arguments(case: Case, setup: Setup, shards: Path, run_dir: Path) -> list[str]:
    """Return the options of owt_mpi.train for a case."""
    update = "per-iteration" if case.passes == case.ranks else f"every-{case.passes}-passes"
    options: dict[str, Any] = {
        "model": f"{NET}:net", "crop": setup.crop, "data": shards, "normalise": "mean-std", "global-batch": case.batch,
        "epochs": setup.epochs, "max-steps": setup.check_steps if case.is_check else setup.max_steps, "lr": setup.lr,
        "lr-base-batch": setup.images, "trunk-lr-rule": case.rule, "head-lr-rule": case.rule,
        "bias-lr-multiplier": 1, "scheme": case.scheme, "head-update": update, "virtual-ranks": case.ranks,
        "threads": 1, "seed": case.seed, "run-dir": run_dir, "checkpoint-every": "none", "check-weights": 0,
        "layer-stats-every": 0, "samples": 0, "log-every": 1000, "progress": "lines",
    }  # fmt: skip
    if case.is_check:
        options |= {"backend": "reference", "dtype": "float64"}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def key(setup: Setup, case: Case) -> dict[str, Any]:
    """Return what a result is known by, in its line of the file."""
    return {"setup": asdict(setup), "case": asdict(case)}
