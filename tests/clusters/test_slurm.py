"""Sweeps by way of Slurm, undisturbed and disturbed: the store is what one process leaves, to the bit."""

import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest
from conftest import RUNS, STACKS, ends_well, metas, same, training
from slurm import until

from runner.sweeps.executors.slurm_queue import folder_of, jobs_of, squeue

SLURM = ("executor=slurm", "executor.memory=1.5")


@pytest.fixture(autouse=True)
def quiet(cluster):
    """No job of another test."""
    yield
    cluster.call("scancel", "--user=root")
    until(lambda: squeue() == {}, "the queue is empty", 30)


def running() -> list[str]:
    return [job for job, (state, _) in (squeue() or {}).items() if state == "RUNNING"]


def test_a_command_that_is_killed_finds_its_jobs_again(cluster, start, alone, tmp_path):
    command = start(*SLURM)
    training(tmp_path)
    jobs = jobs_of(folder_of(tmp_path))
    assert len(jobs) == STACKS and sum(map(len, jobs.values())) == RUNS
    status = [sys.executable, "-m", "runner", "status", "some", f"--outputs={tmp_path}"]
    told = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    assert told.count("job ") == STACKS and "running on node" in told
    command.kill()
    command.wait()
    again = start(*SLURM)
    until(lambda: len(jobs_of(folder_of(tmp_path))) < STACKS, "a job has ended", 90)
    assert jobs_of(folder_of(tmp_path)).keys() <= jobs.keys()
    ends_well(again)
    same(tmp_path, alone)
    assert not list(folder_of(tmp_path).iterdir())


def test_jobs_that_are_told_to_save_and_go_or_are_cancelled_or_find_their_machine_drained(
    cluster, start, alone, tmp_path
):
    command = start(*SLURM)
    training(tmp_path)
    first, *_ = running()
    cluster.call("scancel", "--signal=USR2", first)  # as before its time limit
    until(lambda: squeue().get(first, ("", ""))[0] == "PENDING", "the job is queued again", 60)
    cluster.call("scontrol", "update", f"jobid={first}", "starttime=now")  # else it waits for two minutes
    cluster.call("scontrol", "update", "nodename=node1", "state=drain", "reason=test")
    try:
        until(running, "another job runs", 60)
        cancelled = running()[0]
        cluster.call("scancel", cancelled)
        ends_well(command)
    finally:
        cluster.call("scontrol", "update", "nodename=node1", "state=resume")
    same(tmp_path, alone)


def test_a_machine_that_dies_costs_no_run(cluster, start, alone, tmp_path):
    command = start(*SLURM)
    training(tmp_path)
    until(lambda: any(machine == "node2" for _, machine in squeue().values()), "node2 works", 60)
    [lost] = [job for job, (_, machine) in squeue().items() if machine == "node2"]
    cluster.daemons["node2"].kill()
    cluster.daemons["node2"].wait()
    killed = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURMD_NODENAME") == "node2":
                process.kill()
                killed += 1
    assert killed
    cluster.start("node2", "slurmd", "-D", "-N", "node2")  # it comes back, and knows nothing of its job
    ends_well(command)
    told = cluster.call("scontrol", "show", "job", lost)
    assert (
        "Restarts=1" in told or "JobState=COMPLETED" not in told
    )  # it was queued again, or its runs are another job's
    same(tmp_path, alone)


@pytest.mark.parametrize(("policy", "left"), [("leave", STACKS), ("cancel", 0)])
def test_ctrl_c_leaves_jobs_or_cancels_them(cluster, start, tmp_path, policy, left):
    command = start(*SLURM, f"executor.on_interrupt={policy}")
    until(running, "a job runs", 60)
    command.send_signal(signal.SIGINT)
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 130 and "Traceback" not in output
    assert f"{STACKS} jobs {'are left' if left else 'were cancelled'}" in output
    until(lambda: len(squeue()) == left, f"{left} jobs are in the queue", 30)


def test_what_slurm_refuses_is_one_message(cluster, start):
    command = start(*SLURM, "executor.partition=none_such")
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 2 and "Traceback" not in output
    assert "sbatch refused the jobs" in output and "partition" in output


def test_jobs_that_end_without_their_runs_are_tried_three_times(cluster, start, tmp_path):
    command = start(*SLURM, "executor.setup=[exit 3]")
    output, _ = command.communicate(timeout=120)
    assert command.returncode == 1 and f"{RUNS} failed" in output and "Traceback" not in output
    assert "ended without it (FAILED)" in output and "_0_log.err" in output
    [*_, last] = cluster.call("squeue", "-h", "--states=all", "--format=%A|%j", "--sort=i").splitlines()
    assert last.endswith(f"|{tmp_path.name[:50]}")
    assert not metas(tmp_path)
