"""README and docs: every command runs, scaled down, in the order of its page; every target, link and claim is there."""

import glob
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import processes
import pytest
from models import checkpoint, rows

from analysis import figures, report
from analysis.__main__ import main as analysis_main
from runner.config.experiments import experiment_names
from runner.export import main as export
from runner.push import main as push
from runner.sweeps.cli import main as runner_main

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
TOYS = ["steps=2", "task.train_points=20"]
MODELS = ["steps=12", "task.sequence_length=16", "task.eval_sequences=2"]
PRETRAINED_HERE = ["task.width=32", "task.layers=1", "task.pretrain_steps=2"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    """The words of each line, comments left out."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def scaled(arguments: list[str]) -> list[str]:
    """The command with few steps, points and seeds."""
    text = " ".join(arguments)
    if "--help" in arguments:
        return arguments
    of_models = "task=language_model" in text or "task=classification" in text or "experiment=lm_" in text
    of_models = of_models or "experiment=coordinate_check" in text
    small = MODELS if of_models else TOYS
    small = small + PRETRAINED_HERE * (of_models and "task.model=" not in text)
    experiment = re.search(r"experiment=(\w+)", text)
    if experiment and experiment[1] in experiment_names():
        small = [*small, "seed=0", *["optimizer.lr=1e-3,1e-2"] * (experiment[1] != "first_step"), "task.width=32"]
    trials = ["hydra.sweeper.n_trials=2"] * ("hydra/sweeper=optuna" in arguments)
    return arguments + small + trials


def run(words: list[str], monkeypatch) -> int:
    """`python -m MODULE …`, in this process."""
    assert words[:2] == ["python", "-m"], words
    module, arguments = words[2], words[3:]
    if module != "runner":
        arguments = [name for word in arguments for name in (sorted(glob.glob(word)) or [word])]
        return {"analysis": analysis_main, "runner.export": export, "runner.push": push}[module](arguments)
    if any(word.startswith("hydra/sweeper=") for word in arguments):  # Hydra loads such plugins for the whole process
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", module, *scaled(arguments)]
        return processes.run(command, env=environment, capture_output=True).returncode
    monkeypatch.setattr(sys, "argv", ["runner", *scaled(arguments)])
    try:
        runner_main()
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder with what the pages take for granted: records, checkpoints and data of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "records").mkdir(parents=True)
    for name in ("first_step", "lr_vs_width"):
        shutil.copy(ROOT / "outputs" / "records" / f"{name}.parquet", tmp_path / "outputs" / "records")
    return tmp_path


def with_own_models(folder: Path) -> None:
    import pandas as pd

    checkpoint(folder / "checkpoints" / "mine", "llama")
    checkpoint(folder / "checkpoints" / "roberta", "roberta", 5)
    (folder / "data").mkdir()
    rows(folder / "data" / "some.jsonl", 60)
    table = pd.read_json(rows(folder / "reviews.jsonl", 400), lines=True)
    table.assign(stars=table.index % 5).to_parquet(folder / "reviews.parquet")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")])
def test_every_command_of_the_page_runs(page, workplace, monkeypatch, capsys, undrawn):
    if "checkpoints/" in "".join(blocks(page, "bash")):
        with_own_models(workplace)
    for words in [words for block in blocks(page, "bash") for words in commands(block)]:
        if words == ["python", "-m", "analysis"]:  # every figure takes minutes
            (workplace / "outputs" / "records" / "lr_vs_width.parquet").unlink()
        code = run(words, monkeypatch)
        captured = capsys.readouterr()
        assert code == 0, (words, captured.out, captured.err)
        assert not re.search(r"[1-9]\d* failed", captured.out), (words, captured.out)


def test_commands_for_clusters_can_be_asked_for(workplace, monkeypatch, capsys):
    """As far as a machine without one can tell; `tests/clusters` has real ones."""
    found = re.findall(r"python -m (runner .*executor=.*?)'?$", PAGES["docs/clusters.md"], re.MULTILINE)
    fields = re.findall(r"`(\"executor\.\w+=.*?)`", PAGES["docs/clusters.md"])
    assert len(found) >= 3 and len(fields) >= 2
    for words in map(shlex.split, [*found, *(f"runner steps=2 executor=slurm {field}" for field in fields)]):
        assert run(["python", "-m", *words, "--dry-run"], monkeypatch) == 0, (words, capsys.readouterr().err)


def test_a_command_that_rots_is_found(workplace, monkeypatch, capsys):
    assert run(["python", "-m", "runner", "optimiser.lr=1"], monkeypatch) == 2
    with pytest.raises(SystemExit):
        run(["python", "-m", "analysis", "no_such_figure"], monkeypatch)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_of_the_page_runs(page, workplace, capsys):
    for block in blocks(page, "python"):
        if not block.startswith("# "):  # fragments of files, which test_extension runs
            exec(block, {})
    assert page.endswith("extending.md") or capsys.readouterr().out


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for text in PAGES.values() for name in re.findall(r"`?\bmake ([a-z-]+)\b(?=`|   )", text)}
    assert {"first", "reproduce", "test"} <= named <= targets


def anchors(text: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place.read_text()), target


def test_the_readme_is_short():
    text = PAGES["README.md"]
    assert len(text.split()) <= 1500 and text.count("\n") <= 200


def test_the_page_of_figures_shows_every_figure_with_its_caption():
    page = PAGES["docs/figures.md"]
    for name in figures.NAMES:
        caption = (ROOT / "outputs" / "figures" / f"{name}.md").read_text().strip()
        assert f"(../outputs/figures/{name}.png)\n\n{caption}\n" in page, f"{name}: run `make figures`"


def test_the_page_of_claims_shows_those_of_the_committed_records():
    shown = PAGES["docs/claims.md"].split(report.START)[1].split(report.END)[0].strip()
    assert shown == (ROOT / "outputs" / "claims.md").read_text().strip(), "run `make figures`"
