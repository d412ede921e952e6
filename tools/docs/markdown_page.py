"""A page of the documentation as its parts: prose, code blocks, tables, links and headings."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<language>[\w+-]*)(?P<rest>.*)$")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)(?:\s*\{\s*#([^}\s]+)\s*\})?\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced or indented code block.

    Attributes
    ----------
    language : the word after the fence; "" for indented blocks.
    text : the code, without the fence.
    line : the number of its first line in the page, from 1.
    title : the file that the block is the content of, from `title="..."` after the language.
    """

    language: str
    text: str
    line: int
    title: str | None = None


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: Path

    @cached_property
    def lines(self) -> list[str]:
        """All lines."""
        return self.path.read_text(encoding="utf-8").splitlines()

    @cached_property
    def blocks(self) -> list[Block]:
        """The code blocks, in order."""
        return self._split[0]

    @cached_property
    def prose(self) -> list[tuple[int, str]]:
        """The lines outside code blocks, with their numbers."""
        return self._split[1]

    @property
    def rows(self) -> list[tuple[int, list[str]]]:
        """The rows of tables: their line's number and the cells."""
        return [
            (number, [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
            for number, line in self.prose
            if line.lstrip().startswith("|")
        ]

    @property
    def links(self) -> list[str]:
        """The targets of all links and images."""
        return [target for _, line in self.prose for target in LINK.findall(_no_code(line))]

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub and the site make them."""
        found: Counter[str] = Counter()
        anchors = set()
        for _, line in self.prose:
            heading = HEADING.match(line)
            if heading:
                name = heading.group(2) or anchor(heading.group(1))
                anchors.add(f"{name}-{found[name]}" if found[name] else name)
                found[name] += 1
        return anchors

    @cached_property
    def _split(self) -> tuple[list[Block], list[tuple[int, str]]]:
        blocks: list[Block] = []
        prose: list[tuple[int, str]] = []
        lines, number = self.lines, 0
        while number < len(lines):
            fence = FENCE.match(lines[number])
            if fence is None:
                prose.append((number + 1, lines[number]))
                number += 1
                continue
            end = number + 1
            while end < len(lines) and lines[end].strip() != fence["marks"]:
                end += 1
            indent = len(fence["indent"])
            text = "\n".join(line[indent:] for line in lines[number + 1 : end])
            title = re.search(r'title="([^"]+)"', fence["rest"])
            name = title.group(1) if title else None
            blocks.append(Block(fence["language"], text, number + 2, name))
            number = end + 1
        return blocks, prose


def anchor(heading: str) -> str:
    """The anchor of a heading: small letters, hyphens for spaces, no punctuation."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def _no_code(line: str) -> str:
    return re.sub(r"`[^`]*`", "``", line)
