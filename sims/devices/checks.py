"""Second opinions on the shipped devices, from rows that no fit has used.

`python -m sims.devices.checks --data FOLDER` prices single matrix products of Llama-2-7B on A100
80GB and H100 (`hardware/vidur`, MIT, github.com/microsoft/vidur), the two dense serving rows of
Ascend 910B4 (`hardware/ascend_910b4_measured_llm.csv`), and fits one NVLink to all-reduces.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sims.devices.model import DeviceModel, Work
from sims.devices.models import Transformer, decode, prefill
from sims.devices.table import DEVICES

Floats = npt.NDArray[np.float64]

_HIDDEN, _INNER = 4096, 11008
# Values in and out of each product; the one that tensor parallelism splits comes last.
_PRODUCTS = {
    "attn_pre_proj": (_HIDDEN, 3 * _HIDDEN),
    "attn_post_proj": (_HIDDEN, _HIDDEN),
    "mlp_up_proj": (_HIDDEN, 2 * _INNER),
    "mlp_down_proj": (_HIDDEN, _INNER),
}


def product_errors(path: Path, device: DeviceModel) -> tuple[Floats, Floats]:
    """Tokens [N] and predicted / measured - 1 [N] of every product that `path` times."""
    tokens, ratios = [], []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            count = float(row["num_tokens"])
            parts = int(row["num_tensor_parallel_workers"])
            for name, (whole, split) in _PRODUCTS.items():
                narrow = split / parts
                moved = 2 * (whole * narrow + count * (whole + narrow))
                work = Work(flops=2 * count * whole * narrow, moved_bytes=moved)
                tokens.append(count)
                ratios.append(device.latency_ms(work) / float(row[f"time_stats.{name}.median"]) - 1)
    return np.array(tokens), np.array(ratios, dtype=np.float64)


def nvlink(path: Path) -> tuple[float, float]:
    """Microseconds and GB/s of one link, from all-reduces of two A100 of one host.

    Between two devices a ring sends the payload once in each direction. The slope is that of
    payloads from 1 MB on, the offset the median of those up to 64 kB.
    """
    with path.open(newline="", encoding="utf-8") as file:
        pairs = np.array(
            [
                (float(row["size"]), float(row["time_stats.all_reduce.median"]))
                for row in csv.DictReader(file)
                if (row["num_workers"], row["devices_per_node"]) == ("2", "2")
            ]
        )
    big = pairs[pairs[:, 0] >= 1e6]
    small = pairs[pairs[:, 0] <= 65_536]
    ms_per_byte = float(np.polyfit(big[:, 0], big[:, 1], 1)[0])
    return float(np.median(small[:, 1])) * 1e3, 1 / ms_per_byte / 1e6


def ascend_errors(path: Path, device: DeviceModel) -> list[tuple[str, float, float]]:
    """Prompt length, and errors of first-token and next-token time, of the two dense rows.

    Two replicas of four devices share four requests; 8-bit values at twice the fp16 rate. Of
    the model only its parameters are known: the 64 layers of width 5120 are an assumption.
    """
    model = Transformer(27e9, 64, 5120, 64, 8, bytes_per_value=1.0)
    fast = replace(device.specs, precision="int8", tflop_per_s=2 * device.specs.tflop_per_s)
    found = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row["model"].startswith("Qwen3.6-27B"):
                continue
            length = float(row["input_tokens"])
            first = device.fit.latency_ms(fast, prefill(model, 2, length), 4)
            step = device.fit.latency_ms(fast, decode(model, 2, length), 4)
            errors = (float(first) / float(row["ttft_ms"]), float(step) / float(row["itl_ms"]))
            found.append((row["input_tokens"], errors[0] - 1, errors[1] - 1))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds hardware/")
    folder = parser.parse_args(arguments).data / "hardware"
    for name, table in (("a100-80gb", "a100"), ("h100", "h100")):
        path = folder / f"vidur/mlp_{table}_Llama-2-7b-hf.csv"
        tokens, error = product_errors(path, DEVICES[name])
        for low, high in ((1, 64), (65, 512), (513, 4096)):
            here = error[(tokens >= low) & (tokens <= high)]
            print(f"{name} products of {low}-{high} tokens: {here.size} rows, error ", end="")
            print(f"median {np.median(np.abs(here)):.1%}, bias {np.median(here):+.1%}")
    latency_us, rate = nvlink(folder / "vidur/allreduce_a100_dgx.csv")
    print(f"NVLink between two A100: {latency_us:.0f} us, {rate:.0f} GB/s")
    path = folder / "ascend_910b4_measured_llm.csv"
    for length, first, step in ascend_errors(path, DEVICES["ascend-910b4"]):
        print(f"ascend-910b4, {length} tokens: first token {first:+.0%}, next {step:+.0%}")


if __name__ == "__main__":
    main()
