"""Batch norms of a smaller network: their statistics are of what now comes in.

Yu and Huang 2019, "Universally Slimmable Networks", arXiv:1903.05134, section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from supernet.elastic.axes.tracing import arguments, operator

__all__ = ["recalibrate"]

_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training")


def recalibrate(module: fx.GraphModule, batches: Sequence[Sequence[Tensor]]) -> int:
    """Set a sub-network's running means and variances anew; gives how many norms have them.

    `batches`: flat inputs such as the network will see; about 64 of them are plenty. Each norm
    works with the batch's own statistics meanwhile, as it does in training, and is left with the
    mean of those over all batches. Needs more than one value per channel in each batch.
    """
    if not batches:
        raise ValueError("batches must hold at least one batch of inputs, got none")
    watch = _Watch(module)
    with torch.no_grad():
        for batch in batches:
            watch.run(*batch)
        for node, (mean, variance) in watch.totals.items():
            given = arguments(node)
            for name, total in (("running_mean", mean), ("running_var", variance)):
                buffer = _held(module, given[name])
                buffer.copy_((total / len(batches)).to(buffer.dtype))
    return len(watch.totals)


class _Watch(fx.Interpreter):
    """Runs a module, its batch norms by the batch's own statistics, and adds those up."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.totals: dict[fx.Node, tuple[Tensor, Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if operator(n) not in _NORMS or not isinstance(arguments(n)["running_mean"], fx.Node):
            return super().run_node(n)
        given = arguments(n)
        x = self.env[given["input"]]
        over = [dim for dim in range(x.dim()) if dim != 1]
        if x.numel() <= x.shape[1]:
            raise ValueError(
                f"batches must give {n.name} more than one value per channel, got {tuple(x.shape)}"
            )
        wide = x.double()
        mean, variance = wide.mean(over), wide.var(over, unbiased=True)
        before = self.totals.get(n, (torch.zeros_like(mean), torch.zeros_like(variance)))
        self.totals[n] = before[0] + mean, before[1] + variance
        weight, bias = (
            self.env[given[name]] if isinstance(given[name], fx.Node) else None
            for name in ("weight", "bias")
        )
        normed = torch.nn.functional.batch_norm(
            x, None, None, weight, bias, training=True, eps=given["eps"]
        )
        several = operator(n) != "batch_norm"
        return (normed, mean, variance) if several else normed


def _held(module: fx.GraphModule, node: fx.Node) -> Tensor:
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    tensor: Tensor = found
    return tensor
