"""Recorded traffic as files hold it.

`reading`: whole or piece by piece. `tables`, `mooncake` and `counts` are the three formats, `lines`
is what they share, `units` says in what their numbers may be.
"""
