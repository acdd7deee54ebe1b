"""Presets and options: read, checked, written and read back."""

import pytest

from owt_mpi.config import Config, DataOptions, OptimizerOptions
from owt_mpi.nn.models import find_builder
from owt_mpi.preset_files import load_preset, preset_names, to_toml
from owt_mpi.train import parse

GOOD = "[data]\ndata = 'x'\n"


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_is_sound_and_names_a_model(name):
    config = load_preset(name)
    find_builder(config.model.model)
    with pytest.raises(ValueError, match="--data is missing"):
        config.check()


def test_what_is_written_is_read_back(tmp_path):
    config = Config(
        data=DataOptions(data='odd "name"\\here \U0001f600', flip=False),
        optimizer=OptimizerOptions(lr=0.3, lr_milestones=(0.1, 0.2)),
    )
    file = tmp_path / "c.toml"
    file.write_text(to_toml(config))
    assert load_preset(str(file)) == config


def test_the_papers_preset_holds_the_papers_figures():
    config = load_preset("alexnet-owt")
    optimizer = config.optimizer
    assert (config.batch.epochs, config.batch.images_per_rank, config.model.crop) == (90, 128, 224)
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.01, 0.9, 0.0005)
    assert optimizer.lr_factor == pytest.approx(250 ** (-1 / 3), rel=1e-4)
    assert optimizer.bias_lr_multiplier == 2
    assert config.data.colour_noise == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimiser]\nlr = 1", r"no section \[optimiser\]; there are model, data"),
        ("lr = 1", r"no section \[lr\]"),
        ("[optimizer]\nrate = 1", r"\[optimizer\] has no option 'rate'; it has lr"),
        ("[optimizer]\nlr = 'fast'", r"\[optimizer\] lr is 'fast', but must be a float"),
        ("[batch]\nepochs = 2.5", "epochs is 2.5, but must be a int"),
        ("[batch]\nepochs = true", "epochs is True, but must be a int"),
        ("[optimizer]\nlr_milestones = ['a']", "lr_milestones is .* but must be a tuple"),
        ("[optimizer\n", "not valid TOML"),
    ],
)
def test_a_file_that_is_not_understood_is_named(tmp_path, text, message):
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_preset(str(file))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "[parallel]\nscheme = 'z'", "--scheme is 'z'; choose one of auto, dp, a, b, c, d"),
        (GOOD + "[parallel]\nwire_dtype = 'int8'", "--wire-dtype is 'int8'; choose one of auto, float32, float16, bf"),
        (GOOD + "validation_views = 5", "--validation-views is 5; choose one of 1, 10"),
        (GOOD + "colour_noise = -0.1", "--colour-noise is -0.1, but must be a finite number, 0 or more"),
        (GOOD + "[model]\ncrop = 0", "--crop is 0, but must be at least 1"),
        (GOOD + "[model]\nfc_crosstalk = nan", "--fc-crosstalk is nan, but must be a share between 0 and 1"),
        (GOOD + "[model]\nfc_blocks = 0", "--fc-blocks is 0, but must be at least 1"),
        (GOOD + "[optimizer]\nlr = inf", "--lr is inf, but must be a finite number"),
        (GOOD + "[optimizer]\nmomentum = 1.0", "--momentum is 1.0, but must be below 1"),
        (GOOD + "[optimizer]\nlr_milestones = [0.5, 1.5]", "are fractions between 0 and 1"),
        (GOOD + "[parallel]\nworkspace_mib = -1", "--workspace-mib is -1.0, but must be a finite number, 0 or more"),
        (
            GOOD + "[parallel]\ncudnn_autotune = true\ndeterministic = true",
            "--cudnn-autotune and --deterministic exclude one another: .* leave one of the two out",
        ),
        (GOOD + "[parallel]\nbucket_mib = 0", "--bucket-mib is 0.0, but must be a finite number above 0"),
        (GOOD + "[parallel]\nstall_seconds = -1", "--stall-seconds is -1.0, but must be a finite number, 0 or more"),
        (
            GOOD + "[parallel]\nstall_abort_seconds = 9",
            "--stall-abort-seconds 9.0 is below --stall-seconds 60.0; make it",
        ),
        (
            GOOD + "[batch]\nimages_per_rank = 8\nglobal_batch = 8",
            "--images-per-rank is 8 and --global-batch 8; give one",
        ),
        (GOOD + "[run]\njson = 'costs.json'", "--json costs.json goes with --dry-run"),
        (GOOD + "[run]\njson = '/no/x.json'\ndry_run = true", "--json /no/x.json: there is no folder /no"),
        ("", "--data is missing"),
    ],
)
def test_values_that_cannot_be_right_are_named(tmp_path, text, message):
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_preset(str(file)).check()


def test_the_batch_that_is_given_takes_the_place_of_the_other(tmp_path):
    assert load_preset("demo").batch.images_per_rank == 0
    assert parse(["--preset", "demo", "--data", "x"]).batch.global_batch == 64
    given = parse(["--preset", "demo", "--data", "x", "--images-per-rank", "16"]).batch
    assert (given.images_per_rank, given.global_batch) == (16, 0)
    given = parse(["--data", "x", "--global-batch=32"]).batch
    assert (given.images_per_rank, given.global_batch) == (0, 32)


def test_an_unknown_preset_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no preset 'nope'; choose one of alexnet-owt, cifar-quick, demo"):
        load_preset("nope")
