"""PyTorch's side of benchmarks.loader: torchvision's ImageFolder or WebDataset, its transforms, and the DataLoader."""

import argparse
import random
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.contestant import serve

STAND_INS = torch.library.Library("torchvision", "FRAGMENT")  # held, or PyTorch forgets what it defines
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("threads", "images", "batch", "crop"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--resized", action="store_true")
    parser.add_argument("what")
    parser.add_argument("path")
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    transforms = import_transforms()
    crop = transforms.RandomResizedCrop(args.crop) if args.resized else transforms.RandomCrop(args.crop)
    transform = transforms.Compose(
        [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    make = {"torchvision": image_folder, "webdataset": web_dataset}[args.what]
    loader, about = make(args, transform)

    def step() -> None:
        seen = 0
        for images, _ in loader:
            seen += len(images)
        assert seen == args.images, f"{seen} of {args.images} images"

    serve(args.port, {"PyTorch": torch.__version__, **about}, step)


def import_transforms() -> Any:
    """Return torchvision.transforms, also of a build for another PyTorch, whose compiled operations do not load.

    Nothing measured here uses them, but torchvision describes two of them to PyTorch when it is imported.
    """
    try:
        import torchvision.transforms
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            STAND_INS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.transforms
    return torchvision.transforms


def image_folder(args: argparse.Namespace, transform: Callable[..., Any]) -> tuple[Any, dict[str, str]]:
    """Return the loader of a folder of class folders, in random order."""
    import torchvision

    images = torchvision.datasets.ImageFolder(args.path, transform)
    loader = DataLoader(
        images, args.batch, sampler=RandomSampler(images, num_samples=args.images), num_workers=args.threads,
        persistent_workers=True,
    )  # fmt: skip
    return loader, {"torchvision": torchvision.__version__}


def web_dataset(args: argparse.Namespace, transform: Callable[..., Any]) -> tuple[Any, dict[str, str]]:
    """Return the loader of a tar of samples, which every worker process reads for its part of the round."""
    import webdataset

    part = args.images // args.threads
    images = (
        webdataset.WebDataset(args.path, shardshuffle=False, resampled=True)
        .shuffle(200, rng=random.Random(1))
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform, None)
        .with_epoch(part)
    )
    loader = DataLoader(images, args.batch, num_workers=args.threads, persistent_workers=True)
    return loader, {"webdataset": webdataset.__version__}


if __name__ == "__main__":
    main()
