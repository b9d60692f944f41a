"""The committed claims are those of the committed records."""

from pathlib import Path

import pytest
from conftest import rejects
from synthetic import sweep

from analysis import report
from analysis.tables.records import record_path
from analysis.tables.tables import Tables

ROOT = Path(__file__).resolve().parent.parent


def same_claims(outputs, text):
    """By the tables of the command, of the records alone: fresh runs would renew them."""
    listed = dict.fromkeys(name for key in report.CLAIMS for name in ([key] if isinstance(key, str) else key))
    tables, names = Tables(outputs), [name for name in listed if record_path(outputs, name).exists()]
    assert not (outputs / "runs").exists()
    claims = report.claims_of({name: tables.get(name) for name in names}, outputs)
    assert report.markdown(claims) == text.strip(), "run `make figures`"


@pytest.mark.parametrize("folder", ["outputs", "outputs/full"])
def test_committed_claims_are_those_of_the_committed_records(folder, tmp_path):
    (tmp_path / "records").symlink_to(ROOT / folder / "records")
    same_claims(tmp_path, (ROOT / folder / "claims.md").read_text())


def test_the_published_table_is_the_committed_one():
    published = (ROOT / "docs" / "claims.md").read_text().split(report.START)[1].split(report.END)[0]
    assert published.strip() == (ROOT / "outputs" / "claims.md").read_text().strip(), "run `make figures`"


def test_claims_of_other_records_are_others(tmp_path):
    (tmp_path / "records").mkdir()
    sweep().to_parquet(tmp_path / "records" / "width_exponents.parquet")
    same_claims(tmp_path, report.markdown(report.claims_of({"width_exponents": sweep()}, tmp_path)))
    rejects(
        same_claims, tmp_path, report.markdown(report.claims_of({"width_exponents": sweep(seeds=range(6))}, tmp_path))
    )


def test_a_claim_on_one_table_is_made_once():
    frame = sweep()
    once = report.claims_of({"lr_vs_width": frame}, Path("outputs"))
    both = report.claims_of({report.ANY: frame, "lr_vs_width": frame, "width_exponents": frame}, Path("outputs"))
    assert [c.number for c in both if c.number[:-1] != "1"] == [c.number for c in once]
    other = {"lr_vs_width": frame, "width_exponents": sweep(noise=0.03)}
    assert len(report.claims_of(other, Path("outputs"))) > 1.5 * len(once)  # some are exact, and so the same
    assert len(report.claims_of(other | {"width_exponents": frame.copy()}, Path("outputs"))) == len(once)
