"""What docstrings and pages cite exists in this repository: pages, and sections of pages."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("api", "operator", "trainer", "cli", "tests")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, formed as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_that_code_cites_exist() -> None:
    cited = [
        (file, page)
        for room in ROOMS
        for file in sorted((REPOSITORY / room).rglob("*.py"))
        for page in re.findall(r"[\w./-]+\.md\b", file.read_text())
    ]
    assert len(cited) > 20
    assert [f"{file}: {page}" for file, page in cited if not (REPOSITORY / page).is_file()] == []


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            path, _, section = link.partition("#")
            target = (page.parent / path) if path else page
            if not target.exists() or (section and section not in anchors(target)):
                broken.append(f"{page.relative_to(REPOSITORY)}: {link}")
    assert broken == []
