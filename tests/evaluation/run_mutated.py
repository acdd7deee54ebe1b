"""Read mutated safetensors files in little memory: `python -m tests.evaluation.run_mutated FOLDER COUNT`.

Prints how many were read and how many refused. Ends with a traceback at the first that was neither read nor refused in
one line.
"""

import copy
import json
import random
import resource
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.evaluation.trained import FileOptions, open_trained
from owt_mpi.interchange.facts import NetworkFacts
from owt_mpi.interchange.network_file import names_in, write_network
from owt_mpi.interchange.order import whole
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.training.setup import build_model

MEMORY = 200 << 20  # beyond what the process takes before the first file
ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, 1e308, [], [0], [2**40, 2**40], [[[]]], {}, "F32", "I64",
    {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
]  # fmt: skip
ODD_TEXTS = [
    "", "0", "1", "-1", "4", "5", "1000", "16384", "1e999", "NaN", "1.5", "true", "null", "{}", "[]", "[0, 0, 0]",
    "[1e400, 1, 1]", "[1, 1, 1]", '["a", "b"]', "[" * 3000, "x" * 2000, "\n\x1b[2J", "alexnet", "vgg16", "small",
    "cifar-quick", "nets.py:x", "torchvision", "owt_mpi", "logistic",
]  # fmt: skip


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    path = folder / "net.safetensors"
    sound = _sound_file(path)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    random.seed(20140423)
    num_read = 0
    for _ in range(count):
        path.write_bytes(_mutated(sound))
        num_read += _is_read(path)
    print(f"{num_read} read, {count - num_read} refused")


def _sound_file(path: Path) -> bytes:
    model = MODELS["small"](InputSpec(4, 3, 5))
    rng = np.random.default_rng(1)
    weights = {p.name: rng.standard_normal(p.global_shape).astype(np.float32) for p in model.parameters()}
    facts = NetworkFacts(
        model="small", layout="owt_mpi", loss="softmax", crop=4, num_classes=5, mean=(1.0, 2.0, 3.0),
        std=(1.0, 2.0, 3.0), size=6, class_names=tuple("abcde"), program="x", trained="y",
    )  # fmt: skip
    write_network(path, model, names_in("owt_mpi", model, "small"), weights, facts)
    assert _is_read(path)
    return path.read_bytes()


def _is_read(path: Path) -> bool:
    """Return whether the network is read, with all its weights; False if it is refused as it should be."""
    try:
        trained = open_trained(str(path), "", FileOptions(), SerialCommunicator())
        assert trained.facts is not None
        model = build_model(trained.config, trained.facts.num_channels, len(trained.facts.class_names), "reference")
        with trained.open_weights(model) as weights:
            for parameter in model.parameters():
                assert whole(weights[parameter.name]).shape == parameter.shape
    except ValueError as error:
        said = str(error)
        assert said.isprintable(), said
        assert len(said) < 4000, said
        return False
    return True


def _mutated(sound: bytes) -> bytes:
    (length,) = struct.unpack("<Q", sound[:8])
    header, body = sound[8 : 8 + length], sound[8 + length :]
    kind = random.randrange(8)
    if kind == 0:  # characters of the header
        changed = bytearray(header)
        for _ in range(random.choice((1, 1, 2, 8))):
            changed[random.randrange(length)] = random.randrange(32, random.choice((127, 256)))
        return sound[:8] + bytes(changed) + body
    if kind == 1:  # cut off, or longer
        place = random.choice((random.randrange(len(sound)), random.randrange(length + 16)))
        return random.choice((sound[:place], sound[:place] + random.randbytes(9) + sound[place:], sound + bytes(7)))
    if kind == 2:  # the length of the header
        odd = random.choice((0, 1, length - 1, length + 1, len(sound), 1 << 22, 99_999_999, 2**63, 2**64 - 1))
        return struct.pack("<Q", odd) + sound[8:]
    if kind == 3:
        return random.randbytes(random.choice((0, 7, 8, 9, 100, 5000)))
    content = json.loads(header)
    for _ in range(random.choice((1, 1, 2, 3))):
        (_change_value, _change_text, _change_text, _change_tensor)[kind - 4](content)
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + body


def _change_value(content: dict[str, Any]) -> None:
    """Put something in the place of any value."""
    place: Any = content
    key = random.choice(list(content))
    while isinstance(place[key], dict | list) and place[key] and random.random() < 0.8:
        place = place[key]
        key = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
    place[key] = copy.deepcopy(random.choice(ODD))


def _change_text(content: dict[str, Any]) -> None:
    """Change what the file says of its network."""
    metadata = content["__metadata__"]
    key = random.choice(list(metadata))
    if random.random() < 0.2:
        del metadata[key]
    else:
        metadata[key] = random.choice(ODD_TEXTS)


def _change_tensor(content: dict[str, Any]) -> None:
    """Change a tensor so that the file as such stays sound."""
    name = random.choice([name for name in content if name != "__metadata__"])
    tensor, odd = content.pop(name), random.randrange(4)
    if odd == 0:
        name = random.choice(("trunk.conv1.weight", "features.0.weight", "x\n\x1b[2J", "", "head." + "x" * 500))
    elif odd == 1:
        tensor["dtype"] = random.choice(("I32", "U32", "F32"))
    elif odd == 2:
        tensor["shape"] = random.choice((tensor["shape"][::-1], [1, *tensor["shape"]], [*tensor["shape"], 1]))
    else:
        content["nothing"] = {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [tensor["data_offsets"][0]] * 2}
    content[name] = tensor


if __name__ == "__main__":
    main()
