"""What the documentation says of a claim: the passages of docs/claims.md that name its number and are on its task."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from analysis.claims import Claim

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "claims.md"
TABLE = "## The table"
ELSEWHERE = (TABLE, "## Verdicts", "## Predictions", "## The full grid")  # discuss nothing, or other runs
TOYS, STANDARD, MUP = frozenset({"teacher_student", "feature_regression"}), "language_model", "language_model, mup"
SECTIONS = {
    "### Teacher–student": frozenset({"teacher_student"}),
    "### Feature regression": frozenset({"feature_regression"}),
    "### Language models": frozenset({STANDARD, MUP}),
    "### Real models": frozenset({"smollm2", "minilm"}),
}
WORDS = {
    r"teacher_student|[Tt]eacher–student": frozenset({"teacher_student"}),
    r"feature_regression|[Ff]eature regression": frozenset({"feature_regression"}),
    r"\btoys\b": TOYS | {"toys"},
    r"\bsine\b": frozenset({"sine"}),
    r"SmolLM2": frozenset({"smollm2"}),
    r"MiniLM": frozenset({"minilm"}),
    r"as transformers draws them|models of either kind": frozenset({STANDARD}),
    r"\b[Ii]n muP\b|models of either kind": frozenset({MUP}),
}
UNSAID = "language models, of either kind or both"
MODELS = re.compile(r"\bLlamas?\b|[Ll]anguage models?\b")  # of either parametrization
BEGINS = {
    r"\*\*Standard\.\*\*": STANDARD,
    r"\*\*In muP\*\*|.*\bLlamas in muP\b": MUP,
}  # a paragraph that says which from there
NUMBERS = r"\d{1,2}[a-z]?(?:(?:, | and )\d{1,2}[a-z]?)*"
NAMED = re.compile(rf"\bClaims? ({NUMBERS})\b|\(({NUMBERS})\)")


@dataclass(frozen=True)
class Passage:
    """A paragraph or an item of a list. `section`: the tasks of its section, empty where it has none. `models`: which language
    models are meant there, as far as it is said. `judged`: number -> the tasks with such a claim in the document."""

    text: str
    numbers: frozenset[str]
    section: frozenset[str]
    models: str
    judged: Mapping[str, frozenset[str]]

    def is_on(self, claim: Claim) -> bool:
        """In doubt it is not."""
        whole = claim.number.rstrip("abcdefgh")
        if not self.numbers & {claim.number, whole}:
            return False
        judged = self.judged.get(claim.number, frozenset())
        return claim.task in (self._tasks(judged) or (judged if len(judged) == 1 else frozenset()))

    def _tasks(self, judged: frozenset[str]) -> frozenset[str]:
        """What it says that it is on; empty where it does not say."""
        lead = re.match(r"(?:- )?\*\*(.+?)\*\*", self.text)
        named = (lead and self._named(lead[1], judged)) or self._named(self.text, judged)
        if not self.section:
            return named
        models = {self.models} if self.models else frozenset()
        return self.section & named or (self.section - {STANDARD, MUP} | models)

    def _named(self, text: str, judged: frozenset[str]) -> frozenset[str]:
        named = frozenset().union(*(tasks for words, tasks in WORDS.items() if re.search(words, text)))
        if not MODELS.search(text) or named & {STANDARD, MUP}:
            return named
        of_models = judged & {STANDARD, MUP}
        return named | (of_models if len(of_models) == 1 else {self.models or UNSAID})

    @property
    def html(self) -> Markup:
        """Its text without links, in HTML."""
        text = str(escape(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", self.text.removeprefix("- "))))
        for mark, tag in ((r"\*\*(.+?)\*\*", "strong"), (r"\*(.+?)\*", "em"), (r"`(.+?)`", "code")):
            text = re.sub(mark, rf"<{tag}>\1</{tag}>", text)
        return Markup(text)


def passages(document: Path = DOCUMENT) -> list[Passage]:
    """In their order; none where the package is installed without its documentation."""
    whole = document.read_text() if document.is_file() else ""
    judged = _judged(whole)
    found, section, tasks, models, of_section = [], "", frozenset(), "", frozenset()
    for block in re.split(r"\n\s*\n|\n(?=- )", whole):
        block = block.strip()
        if block.startswith("#"):
            section = block if block.startswith("## ") else section
            tasks, models, of_section = SECTIONS.get(block, frozenset()), "", numbers(block)
        elif section and section not in ELSEWHERE and not block.startswith(("!", "|", "<!--", "See [")):
            text = " ".join(block.split())
            models = next((kind for begin, kind in BEGINS.items() if block[0] != "-" and re.match(begin, text)), models)
            found.append(Passage(text, numbers(text) | of_section, tasks, models, judged))
    return found


def _judged(document: str) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for number, task in re.findall(r"^\| (\d+[a-z]?) +\| ([^|]+?) +\|", document, flags=re.MULTILINE):
        found[number] = found.get(number, frozenset()) | {task}
    return found


def numbers(text: str) -> frozenset[str]:
    """The claims that a text names."""
    return frozenset(number for found in NAMED.findall(text) for number in re.findall(r"\d+[a-z]?", "".join(found)))
