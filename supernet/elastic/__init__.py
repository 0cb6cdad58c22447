"""Elastic models: a captured program as a supernet of nested sub-networks.

``axes``, ``tracing`` and the ``rules`` find which dims belong together, ``anatomy`` which places
of a model can be made smaller and which layers be left out; ``narrowing`` does it to the program
for what a ``subnet.SubnetSpec`` keeps. ``importance`` and ``reordering`` put the best first,
``module`` trains all sub-networks in one set of weights, ``extracted`` is one on its own.
``supernet.Supernet`` ties it together. ``derived`` makes a sub-network a capture of its own, in a
process (``derive_job``), so that plans are built of it.
"""
