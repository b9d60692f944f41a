"""What the documentation says of a claim: the passages of docs/claims.md that name its number."""

import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from analysis.claims import Claim

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "claims.md"
ELSEWHERE = ("## The table", "## Verdicts", "## Predictions")  # sections that discuss nothing
TASKS = {
    "### Teacher–student": "teacher_student",
    "### Feature regression": "feature_regression",
    "### Language models": "language_model",
}
NUMBERS = r"\d{1,2}[a-z]?(?:(?:, | and )\d{1,2}[a-z]?)*"
NAMED = re.compile(rf"\bClaims? ({NUMBERS})\b|\(({NUMBERS})\)")


@dataclass(frozen=True)
class Passage:
    """A paragraph or an item of a list. `task`: the only one that it is about; empty where it may be about several."""

    text: str
    numbers: frozenset[str]
    task: str

    def is_on(self, claim: Claim) -> bool:
        whole = claim.number.rstrip("abcdefgh")
        return claim.task.startswith(self.task) and bool(self.numbers & {claim.number, whole})

    @property
    def html(self) -> Markup:
        """Its text without links, in HTML."""
        text = str(escape(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", self.text.removeprefix("- "))))
        for mark, tag in ((r"\*\*(.+?)\*\*", "strong"), (r"\*(.+?)\*", "em"), (r"`(.+?)`", "code")):
            text = re.sub(mark, rf"<{tag}>\1</{tag}>", text)
        return Markup(text)


def passages(document: Path = DOCUMENT) -> list[Passage]:
    """In their order; none where the package is installed without its documentation."""
    found, section, task, of_section = [], "", "", frozenset()
    for block in re.split(r"\n\s*\n|\n(?=- )", document.read_text()) if document.is_file() else ():
        block = block.strip()
        if block.startswith("#"):
            section = block if block.startswith("## ") else section
            task, of_section = TASKS.get(block, ""), numbers(block)
        elif section and section not in ELSEWHERE and not block.startswith(("!", "|", "<!--")):
            text = " ".join(block.split())
            found.append(Passage(text, numbers(text) | of_section, task))
    return found


def numbers(text: str) -> frozenset[str]:
    """The claims that a text names."""
    return frozenset(number for found in NAMED.findall(text) for number in re.findall(r"\d+[a-z]?", "".join(found)))
