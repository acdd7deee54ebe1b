"""PyTorch's side of vs_pytorch: forward, backward and SGD, in one process or under DistributedDataParallel (gloo)."""

import argparse
import os

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.contestant import serve
from tests.peer.pytorch_nets import NETS

CHANNELS = 3
LR, MOMENTUM, WEIGHT_DECAY, BIAS_LR_MULTIPLIER = 0.0025, 0.9, 0.0005, 2.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    for name in ("batch", "threads", "crop", "classes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    build, loss_of = NETS[args.model]
    net = build(args.crop, args.classes).to(memory_format=layout)
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks > 1:
        distributed.init_process_group("gloo")
        net = DistributedDataParallel(net)
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": biases, "lr": BIAS_LR_MULTIPLIER * LR}]
    sgd = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM)
    images = torch.randn(args.batch, CHANNELS, args.crop, args.crop).contiguous(memory_format=layout)
    labels = torch.randint(0, args.classes, (args.batch,))

    def step() -> None:
        sgd.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            logits = net(images)
        loss = loss_of(logits.float(), labels)
        loss.backward()
        sgd.step()
        loss.item()

    serve(args.port, {"PyTorch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"}, step)
    if num_ranks > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
