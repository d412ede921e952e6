"""Property: every page is in plain English of the agreed form, and its links lead somewhere."""

import re

import pages
import pytest
from markdown_page import Page, anchor

EACH = pytest.mark.parametrize("page", pages.PAGES, ids=pages.name_of)

# Left: the words of an earlier, private wording; right: what is written instead.
IDIOMS = {
    r"\bseats?\b": "rank location, topology",
    r"\bwhole numbers?\b": "integer",
    r"\b(?:iterations?|solves?|files?|containers?|messages?|bytes|entries|sweeps?|sums?|steps?|"
    r"checkpoints?|ranks?|rows?|products?|numbers?|MB|GiB) an? "
    r"(?:rank|file|solve|step|node|axis|second|entry|row|number|epoch|frequency|GPU|side|sample)\b":
        "per",
    r"\bone an? (?:rank|file|solve|step|node|axis|entry|experiment|epoch)\b": "per",
    r"\balike\b": "replicated; in the same way",
    r"\bstill iterates?\b": "active right-hand sides",
    r"\bstacked\b": "multi-right-hand-side solve",
    r"\bgives? (?:it|them)? ?back\b": "release",
    r"\bowes?\b": "cotangent",
    r"\bsealed\b": "checksummed",
    r"\brooms?\b": "package, module",
    r"\bdeaf\b": "ignored",
    r"\b(?:dies|died)\b": "fails, is killed",
    r"\bleav(?:e|es|ing) in order\b": "graceful shutdown",
    r"\bwhole or not\b": "atomic write",
    r"\b(?:is|are) told\b": "receives",
    r"\b(?:tells|told) (?:MPI|the ranks|apart)\b": "distinguishes; sends",
    r"\bknows? (?:nothing|it)\b": "has no ... of",
    r"\bof one's own\b|\bone's own\b": "your own",
    r"\bmend(?:s|ed)?\b": "fix",
    r"\bcure\b": "remedy",
    r"\bfor ever\b": "without end",
    r"\bgo(?:es)? on\b|\bwent on\b": "continue",
    r"\bwill do\b": "is suitable",
    r"\bput off\b": "delay",
    r"\bby itself\b|\bby themselves\b": "automatically",
    r"\bhalf as (?:long|much) again\b": "50 % more",
    r"\bwhat (?:it )?brings\b": "gain",
    r"\b(?:nothing|next to nothing) of\b": "no ...; a small share",
    r"\bnothing but\b": "only",
    r"\bat last\b": "finally",
    r"\ball the more\b": "more, because ...",
    r"\bcomes? back\b": "is computed; is returned",
    r"\bby hand\b": "yourself; without a test",
    r"\bon top\b": "in addition; uses",
    r"\bas good as\b": "as accurate as",
    r"\bhardly notices?\b": "is hardly affected",
    r"\b(?:rank|node|training|network|memory|program|SLURM) (?:notices?|decides?|knows?|wants?)\b":
        "detects; is limited by; needs",
    r"\btakes? care of\b": "do, mark, handle",
    r"\bdownhill\b": "where the loss falls",
    r"\b(?:hence|thus|thereof|herein|whereby)\b": "therefore, so",
    r"\bin place of\b": "instead of",
    r"\bin turn\b": "one after the other; cyclically",
    r"\bback and forth\b": "repeatedly",
    r"\bwho started\b": "how it was started",
}  # fmt: skip


@EACH
def test_a_table_cell_has_at_most_80_characters(page):
    long = [(line, cell) for line, row in page.rows for cell in row if len(cell) > 80]
    assert not long


@EACH
def test_a_line_has_at_most_100_columns(page):
    """But for tables, formulas and what cannot be broken: links, code and addresses."""
    long = []
    for number, line in page.prose:
        longest_word = max(
            map(len, re.findall(r"`[^`]*`\S*|!?\[[^\]]*\]\([^)]*\)|\S+", line)), default=0
        )
        if len(line) > 100 and not line.lstrip().startswith(("|", "$$")) and longest_word < 60:
            long.append((number, line))
    assert not long


@EACH
def test_the_wording_is_plain(page):
    text = list(pages.sentences(page))
    found = [
        f"line {number}: {match.group()!r}; write: {plain}"
        for number, line in text
        for idiom, plain in IDIOMS.items()
        if "glossary" not in page.path.name
        for match in re.finditer(idiom, line)
    ]
    assert not found


@EACH
def test_every_file_that_a_page_names_exists(page):
    """By its path in the repository; the changelog may name files of earlier versions."""
    if page.path.name == "CHANGELOG.md":
        return
    folders = "prdp_hpc|tools|benchmarks|jobs|docker|tests|examples|configs|recipes"
    named = re.findall(rf"`((?:{folders})/[\w/]+\.\w+)`", page.path.read_text(encoding="utf-8"))
    assert not [path for path in named if not (pages.ROOT / path).exists()]


@EACH
def test_every_link_and_anchor_resolves(page):
    missing = [link for link in page.links if not _resolves(page, link)]
    assert not missing


def _resolves(page, link):
    if "://" in link or link.startswith("mailto:"):
        return True
    target, _, name = link.partition("#")
    path = (page.path.parent / target).resolve() if target else page.path
    docs = pages.ROOT / "docs"
    if path.is_relative_to(docs) and str(path.relative_to(docs)) in _generated():
        return True  # the strict build checks anchors of generated pages
    if not path.exists():
        return False
    return not name or name in Page(path).anchors


def _generated():
    import api_reference

    return {*pages.GENERATED, *api_reference.pages()}


def test_anchors_are_those_of_github():
    assert anchor("What `solve` adds to PETSc") == "what-solve-adds-to-petsc"
    assert anchor("Exit codes: 0, 85") == "exit-codes-0-85"


def test_every_page_is_in_the_navigation():
    """The list of `mkdocs.yml` has every page of docs/, so a reader can find it."""
    text = (pages.ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?:: |- )(\S+\.md)$", text, re.M))
    docs = pages.ROOT / "docs"
    assert not {str(path.relative_to(docs)) for path in docs.rglob("*.md")} - listed


def test_pages_that_code_names_exist():
    """Messages, docstrings and comments name pages as `docs/...md`."""
    named = {
        match
        for folder in ("prdp_hpc", "configs", "benchmarks", "tools", "jobs", "docker")
        for path in (pages.ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".sh", ".json") and "site-packages" not in path.parts
        for match in re.findall(r"docs/[\w/]+\.md", path.read_text(encoding="utf-8"))
    }
    assert named
    assert not [name for name in named if not (pages.ROOT / name).exists()
                and name.removeprefix("docs/") not in _generated()]  # fmt: skip
