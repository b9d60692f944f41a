"""What is submitted to Slurm, and what is said of its queue, with its commands pretended; `tests/clusters` has a real one."""

import subprocess

import pytest
from conftest import configure

from runner import status
from runner.config import ConfigError
from runner.sweeps import plan
from runner.sweeps.executors import slurm, slurm_queue

QUEUE = "7_0|RUNNING|node1|None\n7_1|PENDING||Resources\n9|RUNNING|node2|None\n"


@pytest.fixture
def answers(monkeypatch) -> dict[str, tuple[int, str]]:
    """What commands of Slurm answer, by their name: exit code and text."""
    answers = {"scontrol": (0, "ClusterName             = here\n"), "squeue": (0, QUEUE)}

    def run(command, **more):
        code, text = answers[command[0]]
        return subprocess.CompletedProcess(command, code, text, "")

    monkeypatch.setattr(slurm_queue.subprocess, "run", run)
    monkeypatch.setattr(slurm_queue.getpass, "getuser", lambda: "me")
    return answers


def test_what_is_in_the_queue_is_told(tmp_path, answers, capsys, cli):
    outputs = tmp_path / "outputs"
    assert status.main(["some", f"--outputs={outputs}"]) == 2
    assert "nothing of it is in" in capsys.readouterr().err
    cli("steps=1", "task.width=8", "experiment=some")
    (folder := outputs / "slurm" / "here-me").mkdir(parents=True)
    for job, runs in {"7_0": ["some/a", "some/b"], "7_1": ["other/a"], "8": ["some/c"]}.items():
        slurm_queue.keep(folder, job, runs)
    (folder / "9.runs.json").write_text("not JSON")
    assert status.main(["some", f"--outputs={outputs}"]) == status.main(["other", f"--outputs={outputs}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "stored: 1 finished",
        "job 7_0: running on node1, 2 runs",
        "job 8: ended, 1 runs",
        "stored: none",
        "job 7_1: pending (Resources), 1 runs",
    ]
    assert (
        slurm_queue.told(list(slurm_queue.squeue().values())) == "1 jobs queued (Resources), 2 running on node1, node2"
    )
    for name in ("squeue", "scontrol"):
        answers[name] = (1, "")
        assert status.main(["some", f"--outputs={outputs}"]) == 2
        assert "does not answer" in capsys.readouterr().err


class Queue(slurm.Slurm):
    """Submits to a list."""

    def __init__(self, stacks, streams=False):
        self.arrays = []
        super().__init__(stacks, streams)

    def _sbatch(self, jobs):
        if isinstance(self.arrays, ConfigError):
            raise self.arrays
        self.arrays.append([[config.seed for config in job.configs] for job in jobs])
        return [f"{len(self.arrays)}_{i}" for i in range(len(jobs))]


class Silent:
    """A listener."""

    def __init__(self):
        self.said = []

    def waits(self, activity):
        self.said.append(activity)


@pytest.fixture
def queue(tmp_path, answers, monkeypatch):
    """A maker of executors, stacks of two short runs each, and what `squeue` answers."""
    monkeypatch.setattr(slurm, "_submitit", lambda: None)
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "RETRY_SECONDS", 0.0)
    runs = [configure("executor=slurm", f"seed={seed}", f"outputs={tmp_path}") for seed in range(6)]
    stacks = [runs[:2], runs[2:4], runs[4:]]
    monkeypatch.setattr(slurm, "JOB_COST", 2.5 * sum(map(plan.cost, stacks[0])))
    answers["squeue"] = (0, "")
    return lambda: Queue(stacks), stacks, answers


def in_queue(*jobs):
    return 0, "".join(f"{job}|RUNNING|node1|None\n" for job in jobs)


def test_short_stacks_share_a_job_and_one_that_was_lost_has_its_own(queue):
    make, stacks, answers = queue
    there = make()
    for stack in stacks:
        there.submit(stack, 0)
    answers["squeue"] = in_queue("1_1")
    ended = there.ended(Silent(), None)
    assert there.arrays == [[[0, 1, 2, 3], [4, 5]]]
    assert [each.stack for each in ended] == stacks[:2] and "its job 1_0 ended without it" in ended[0].error
    for stack in stacks[:2]:
        there.submit(stack, 0)
    answers["squeue"] = in_queue("1_1", "2_0", "2_1")
    assert there.ended(Silent(), None) == [] and there.arrays[1] == [[0, 1], [2, 3]]
    assert there.close() == "3 jobs are left in the queue; the same command waits for them, and `scancel` ends them"


def test_what_is_in_the_queue_is_not_submitted_again(queue):
    """Stacks may be put together in another way: the first waits for both jobs."""
    make, stacks, answers = queue
    before = make()
    before.submit(stacks[0], 0)
    before.submit([stacks[1][0]], 0)
    answers["squeue"] = in_queue("1_0")
    before.ended(Silent(), None)
    there = make()
    there.submit(stacks[0], 0)
    there.submit(stacks[1], 0)
    answers["squeue"] = in_queue("1_0", "1_1")  # the second is its own, of the run that is in none
    there.arrays.append([])
    answers["squeue"] = in_queue("1_0", "2_0")
    assert there.ended(Silent(), None) == [] and there.arrays[1] == [[3]]
    answers["squeue"] = in_queue("2_0")
    assert [each.stack for each in there.ended(Silent(), None)] == [stacks[0]]
    answers["squeue"] = in_queue()
    assert [each.stack for each in there.ended(Silent(), None)] == [stacks[1]]
    assert there.close() is None and not list(there.folder.iterdir())


def test_what_is_refused_while_jobs_are_in_the_queue_is_submitted_later(queue):
    make, stacks, answers = queue
    there, listener = make(), Silent()
    there.submit(stacks[0], 0)
    answers["squeue"] = in_queue("1_0")
    there.ended(listener, None)
    arrays, there.arrays = there.arrays, ConfigError("too many jobs")
    there.submit(stacks[1], 0)
    assert there.ended(listener, None) == [] and "too many jobs" in listener.said
    there.arrays = arrays
    answers["squeue"] = in_queue("1_0", "2_0")
    assert there.ended(listener, None) == [] and there.arrays[1] == [[2, 3]]
    alone = make()
    alone.earlier, alone.arrays = {}, ConfigError("no such partition")
    alone.submit(stacks[2], 0)
    with pytest.raises(ConfigError, match="no such partition"):
        alone.ended(listener, None)
