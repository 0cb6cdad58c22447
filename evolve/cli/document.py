"""Write the generated tables of docs/journal.md and docs/configuration.md.

    python -m evolve.cli.document

Each table stands between two marker comments; the rest of the page is written by hand.
"""

from __future__ import annotations

from pathlib import Path

from evolve.config.rules import settings_table
from evolve.journal.decision import field_table

__all__ = ["renewed"]

BEGIN, END = "<!-- generated -->", "<!-- end of generated -->"


def renewed(page: str, table: str) -> str:
    """`page` with what stands between its markers replaced by `table`."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"page must hold {BEGIN} and {END} once each")
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}"


def _main() -> None:
    from evolve.config import Config

    docs = Path(__file__).parents[2] / "docs"
    for name, table in (
        ("journal.md", field_table()),
        ("configuration.md", settings_table(Config)),
    ):
        page = docs / name
        page.write_text(renewed(page.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    _main()
