"""Latency of a call on a device that is not here.

- `model`: `Work` of one call, `DeviceModel` with published `Specs` and the `Fit` of a roofline,
  and `of_fingerprint` for the host itself. `models`: the work of language models and of batch
  models. `llms`: public language models. `table`: the devices that ship, `DEVICES`.
- `checks`: errors on rows that no fit has used.

`sims.devices.fit` made the fits; docs/device-models.md has the errors.
"""

from sims.devices.llms import LLMS
from sims.devices.model import DeviceModel, Fit, Specs, Work, of_fingerprint
from sims.devices.models import (
    BatchModel,
    Transformer,
    cost_ms,
    decode,
    generation_ms,
    prefill,
    resident_rows,
)
from sims.devices.table import DEVICES, median_fit

__all__ = [
    "DEVICES",
    "LLMS",
    "BatchModel",
    "DeviceModel",
    "Fit",
    "Specs",
    "Transformer",
    "Work",
    "cost_ms",
    "decode",
    "generation_ms",
    "median_fit",
    "of_fingerprint",
    "prefill",
    "resident_rows",
]
