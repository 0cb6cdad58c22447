"""Distillation: the original teaches the shared weights of all its sub-networks.

``distiller`` ties it together. ``batches`` are the unlabelled inputs (``ambition``: what they are
good for), ``teacher`` what the original makes of them, by ``graphs`` of its parts; ``training``
takes one step after another with sub-networks from ``sampling`` and ``losses`` by kind of output;
``checkpoint`` is all that on disk. ``quality`` and ``judging`` decide, ``result`` is what stays.
"""
