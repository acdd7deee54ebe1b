"""Record what torchvision calls its tensors, and what its alexnet makes of given ones.

`python -m tests.interchange.record_torchvision`, in an environment with the extra `torchvision`. It is run again only
when the case changes on purpose.
"""

import json
import platform

import torch
import torchvision

from tests.interchange.torchvision_case import NUM_CLASSES, RECORD, images, tensors

NETWORKS = ("alexnet", "vgg11", "vgg13", "vgg16", "vgg19")


def main() -> None:
    record = {
        "recorded_with": f"torchvision {torchvision.__version__}, PyTorch {torch.__version__}, {platform.machine()}",
        "recipe": "python -m tests.interchange.record_torchvision",
        "shapes": {name: shapes_of(name) for name in NETWORKS},
        "alexnet_logits": alexnet_logits(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{RECORD} written")


def shapes_of(name: str) -> dict[str, str]:
    """Return the shapes of a network's tensors, by their names."""
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    return {key: "x".join(map(str, value.shape)) for key, value in network.state_dict().items()}


def alexnet_logits() -> list[list[float]]:
    """Return what torchvision's alexnet makes of the case's images with the case's tensors, computed in float64."""
    network = torchvision.models.alexnet(num_classes=NUM_CLASSES).double().eval()
    given = tensors({name: list(value.shape) for name, value in network.state_dict().items()})
    network.load_state_dict({name: torch.from_numpy(value) for name, value in given.items()}, strict=True)
    with torch.no_grad():
        logits: list[list[float]] = network(torch.from_numpy(images()).double()).tolist()
    return logits


if __name__ == "__main__":
    main()
