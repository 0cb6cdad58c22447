"""What would happen? The dispatch rule against fixed settings, on a simulated surge."""

import numpy as np

from policies.params import RuleParams
from policies.presets import DEFAULT
from sims.service import Service
from sims.simulation import simulate
from sims.traces import surge

# Milliseconds of one plan, by rows 1..8 and padded length: what a cost table would hold.
lengths = np.array([16.0, 32.0, 64.0, 128.0, 280.0])
rows = np.arange(1, 9)[:, None]
cost_ms = (1.0 + 0.12 * rows * lengths)[None]
service = Service(cost_ms, lengths, slo_ms=50.0, workers=2)

trace = surge(100.0, 600.0, seconds=10.0, seed=0)
for setting in (DEFAULT, RuleParams.static(0, 1), RuleParams.static(0, 8, wait_ms=5.0)):
    result = simulate(service, trace, setting)
    print(f"{setting.name:20} {result.goodput_per_s:6.1f} in time/s, p99 {result.p99_ms:5.1f} ms")
