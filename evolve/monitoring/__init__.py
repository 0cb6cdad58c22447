"""Counters, savings, traffic and memory patterns of a service."""
