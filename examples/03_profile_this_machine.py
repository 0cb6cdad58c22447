"""What is this machine? The profiler alone, without a model."""

from profiler.fingerprint import fingerprint, isa_key

device = fingerprint("cpu", measure=False)  # static facts: milliseconds; measuring takes seconds
print(device.name, f"{device.cores} cores")
print("caches:", device.l1d_bytes, device.l2_bytes, device.l3_bytes)
print("key:", device.key)
print("compiled code may use:", isa_key(device))
