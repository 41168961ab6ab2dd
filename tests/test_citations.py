"""What docstrings and pages cite exists in this repository: pages, and sections of pages."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("api", "operator", "trainer", "cli", "tools", "tests")


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


def test_files_functions_and_tests_that_the_walkthrough_names_exist() -> None:
    files = [str(file.relative_to(REPOSITORY)) for room in ROOMS for file in (REPOSITORY / room).rglob("*.py")]
    text = (REPOSITORY / "docs" / ("walkthrough" + ".md")).read_text()
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`(?:\s\(((?:`\w+`(?:, | … )?)+)\))?", text)
    assert len(named) > 50
    missing = []
    for path, test, functions in named:
        short = re.sub(r"^(api|cli)/(?!unimrg)", r"unimrg_\1/", path)
        found = [file for file in files if f"/{file}".endswith(f"/{short}")]
        content = "".join((REPOSITORY / file).read_text() for file in found)
        names = [*re.findall(r"\w+", functions), *([test] if test else [])]
        missing += [path] if not found else []
        missing += [
            f"{path}: {name}" for name in names if not re.search(rf"\b(def|class) {name}\b|^{name} =", content, re.M)
        ]
    assert missing == []
