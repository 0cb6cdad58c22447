"""Workers: where a batch is computed.

- `base`: the `Worker` protocol that both kinds satisfy.
- `thread`: plans run inside this process (notebooks, drop-in use, accelerators).
- `process`: plans run in a process of their own, so that a native crash kills a worker,
  not the service, and a plan that holds the GIL stalls nobody.
- `child`: the main function of such a process.
- `wire`: how arrays travel between the two (JSON header, raw bytes, no pickle).
"""
