"""The stand-in takes no argument that CuPy does not take, none at another place, and none with another default."""

import subprocess
import sys
from importlib.util import find_spec
from inspect import Parameter, signature

import pytest

from tests.fake_cupy.arguments import ANY_NUMBER, arguments, offered, recorded_arguments

OFFERED = dict(offered())


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed")
def test_the_recorded_arguments_are_those_of_the_installed_cupy():
    code = (
        "from tests.fake_cupy.arguments import real_arguments, recorded_arguments\n"
        "assert real_arguments() == recorded_arguments()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_all_that_is_offered_is_recorded():
    assert recorded_arguments().keys() == OFFERED.keys()


@pytest.mark.parametrize("path", OFFERED)
def test_arguments_are_taken_where_cupy_takes_them(path):
    real, places = recorded_arguments()[path], list(recorded_arguments()[path])
    own = [each for name, each in signature(OFFERED[path]).parameters.items() if name != "self" and name[0] != "_"]
    for place, each in enumerate(own):
        if each.kind is Parameter.VAR_POSITIONAL or (ANY_NUMBER in real and each.name not in real):
            continue
        assert each.name in real
        assert each.kind is Parameter.KEYWORD_ONLY or places[place] == each.name
        assert each.default is Parameter.empty or arguments(OFFERED[path])[each.name] == real[each.name]
