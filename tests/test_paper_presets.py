"""The presets of the paper's runs, `paper-1gpu` to `paper-8gpu`: their figures, and that they fit their ranks."""

import subprocess
import sys

import pytest

from owt_mpi.optim import lr_for_batch, schedule_factor
from owt_mpi.parallel.head_update import gradient_scales, head_update_of, parse_head_update
from owt_mpi.parallel.layout import images_per_rank
from owt_mpi.preset_files import load_preset
from owt_mpi.training.setup import make_plan

RANKS = (1, 2, 4, 8)


@pytest.mark.parametrize("ranks", RANKS)
def test_batches_and_rates_are_the_papers(ranks):
    config = load_preset(f"paper-{ranks}gpu")
    batch, optimizer = config.batch, config.optimizer
    assert (config.model.model, config.model.crop, batch.epochs) == ("alexnet-owt", 224, 90)
    assert images_per_rank(batch.global_batch, ranks) == 128
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.bias_lr_multiplier) == (0.9, 0.0005, 2)
    plan, update = make_plan(config, ranks), head_update_of(parse_head_update(config.parallel.head_update), 90)
    num_passes = plan.make_scheme().num_passes(plan.ranks_sharing_head)
    assert num_passes == ranks
    head_batch = gradient_scales(batch.global_batch, num_passes, update.period(num_passes)).head_batch
    assert head_batch == 128, "it learns after every pass"
    rates = [
        lr_for_batch(optimizer.lr, optimizer.lr_base_batch, size, rule)
        for size, rule in ((batch.global_batch, optimizer.trunk_lr_rule), (head_batch, optimizer.head_lr_rule))
    ]
    assert rates == pytest.approx([0.01 * ranks, 0.01])
    for done, cuts in ((0.0, 0), (0.249, 0), (0.25, 1), (0.499, 1), (0.5, 2), (0.749, 2), (0.75, 3), (0.999, 3)):
        factor = schedule_factor(done, optimizer.lr_milestones, optimizer.lr_factor)
        assert factor == pytest.approx(250 ** (-cuts / 3), rel=1e-4)
    if ranks > 1:
        assert plan.scheme_words == "b"


@pytest.mark.parametrize("ranks", RANKS)
def test_a_dry_run_takes_them(ranks, tmp_path):
    preset = ["--preset", f"paper-{ranks}gpu", "--virtual-ranks", str(ranks)]
    command = [sys.executable, "-m", "owt_mpi.train", *preset, "--data", "synthetic", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "128x55x55x64" in done.stdout, "images a rank, and the first layer's outputs"
