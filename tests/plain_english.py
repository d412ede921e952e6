"""Phrases that the package's text must not contain, and the text that is searched for them.

The text is every docstring, comment, message (string with a blank) and definition's name of a file.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

# Regular expressions, searched for in text in lower case whose line breaks are blanks.
BANNED = {
    # Private metaphors.
    r"\brooms\b": "packages, modules, layers",
    r"\bseats?\b": "rank location, topology",
    r"\bdeaf to\b": "ignores (a signal)",
    r"\bstill iterates?\b": "is active",
    r"\bwho (still )?(iterates|has what|did|does)\b": "which",
    r"\bowes? to\b": "the cotangent of",
    r"\bnobody('s)?\b": "no process, no code, no rank",
    r"\bwhoever\b": "code that",
    r"\bwhatever\b": "any; for any",
    r"\bwholes?ome\b": "valid",
    r"\bwhole number": "integer",
    r"\bwhole or not there\b": "atomic",
    r"\bin order when\b": "graceful shutdown",
    r"\bhalf-way\b": "inside the call",
    r"\bfor ever\b": "without end",
    r"\b(dies|died)\b": "fails, is killed",
    r"\bleav(e|es|ing) in order\b": "graceful shutdown",
    r"\b(is|are) mended\b": "is fixed",
    r"\bcure\b": "remedy",
    r"\bput off\b": "delay",
    r"\bhalf as (long|much|many) again\b": "50 % more",
    r"\btold apart\b": "distinguished",
    r"\bwho (one|you) (is|are)\b": "which",
    r"\b(un)?sealed\b": "checksummed",
    r"\bgive(s|n)? back\b": "release; return",
    r"\btake(s|n)? (it|them|him|her) for\b": "treat as",
    # Personified code.
    r"\b(is|are|was|were) told\b": "receives",
    r"\b(it|that|this|file|grid|solver|rank|operator|config|launcher|user) says\b": "is, states",
    r"\bas the (grid|config|file|user|launcher) says\b": "the default of",
    r"\bsees? to it\b": "ensures",
    r"\bsays? (so|what|which|whether|where|how|why)\b": "states, reports",
    r"\b(it|network|rank|process|user|job|run) sees\b": "has, receives, detects",
    r"\b(torch|petsc|mpi|numpy|python|nccl|solver|rank|grid|network) (sees|knows|wants|asks)\b": (
        "detects, has, needs, calls"
    ),
    r"\b(does|do) not know\b": "does not have; does not support",
    r"\blets? (it|them) know\b": "sends",
    r"\b(is|was|were|are) asked for\b": "is needed",
    r"\bon its own terms\b": "itself",
    r"\btakes? its turn\b": "is next",
    r"\bcomes? (along|by|of it|out of)\b": "is returned by; results from",
    # Idiom and clipped phrases.
    r"\bof (its|their|one's|his) own\b(?! \w)": "separate; a copy",
    r"\b(user|torch|petsc|mpi|python|operator)'s own\b(?= (words|way))": "its",
    r"\balike\b": "in the same way; equal",
    r"\blikewise\b": "in the same way",
    r"\banew\b": "again",
    r"\bor else\b(?! a| an| none)": "otherwise",
    r"(?<!anything )(?<!nothing )(?<!everything )\belse\.": "otherwise",
    r"\bat once\b(?=[.,;:]? (and|but|the others))": "together; immediately",
    r"\bonce more\b": "again",
    r"\bwithout (more )?ado\b": "directly",
    r"\bwithout a word\b": "silently",
    r"\bdoes not do\b": "is invalid",
    r"\bwill not do\b": "is invalid",
    r"\bwill do\b": "is valid; can be used",
    r"\bas (it|they) (is|are|was|were)(?=[.,;:)]|\n|$)": "unchanged",
    r"\bwhat is wrong with\b": "the error for",
    r"\bin words\b": "a description of",
    r"\bas you like\b": "any; to any order",
    r"\b(go(es)?|went) on\b": "continue",
    r"\bgoes wrong\b": "fails",
    r"\bbrings? along\b": "has",
    r"\bis no (more|longer than)\b": "is at most",
    r"\bno more\b(?=[.,;:)]|\n|$)": "no longer",
    r"\bamong which\b": "where",
    r"\bone (an?|per) \w+ (an?|per) \w+\b": "one per",
    r"\b(one|samples|products|sums|transforms|writes|reductions|messages|bytes|solves|points"
    r"|epochs|halos) an? (rank|step|iteration|sample|node|axis|epoch|batch|second|point|seed)\b": (
        "per"
    ),
    r"\b(one|two|\d+) (?!for\b|if\b)\w+ an? "
    r"(rank|step|node|call|sample|file|axis|point|batch)\b": "per",
}

_SEPARATOR = ".\n"
_PATTERNS = {re.compile(phrase): better for phrase, better in BANNED.items()}


def findings(path: Path) -> list[str]:
    """Banned phrases in a Python file, as "path:line: phrase (better)"."""
    texts = sorted(_texts(path.read_text(encoding="utf-8")))
    flat = [re.sub(r"\s+", " ", text) for _, text in texts]
    # All texts are searched at once; the separator ends each of them.
    ends = list(accumulate(len(text) + len(_SEPARATOR) for text in flat))
    whole = "".join(text + _SEPARATOR for text in flat)
    lower = whole.lower()
    found = []
    for pattern, better in _PATTERNS.items():
        for hit in pattern.finditer(lower):
            line = texts[bisect_right(ends, hit.start())][0]
            around = whole[max(0, hit.start() - 30) : hit.end() + 30].replace(_SEPARATOR, " ")
            found.append(f"{path}:{line}: “{hit[0]}” in “{around}”; better: {better}")
    return found


def _texts(source: str) -> Iterator[tuple[int, str]]:
    """The first line and the text of each run of comments, docstring and message."""
    yield from _comments(source)
    nodes = list(ast.walk(ast.parse(source)))
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in inside:
            text = node.value if isinstance(node.value, str) else ""
            if " " in text:
                yield node.lineno, text


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Comments; those on consecutive lines are one text."""
    first, last, texts = 0, -1, [""]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.lstrip("#! ")
        if line != last + 1:
            yield first, " ".join(texts)
            first, texts = line, []
        texts.append(text)
        last = line
    yield first, " ".join(texts)
