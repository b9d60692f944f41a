"""Slurm: stacks are jobs of an array, submitted through submitit. Jobs claim and store their runs themselves, so that the command
may be closed and called again: it then waits for what is in the queue.
"""

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.config import Config, ConfigError
from runner.config.identity import with_values
from runner.config.options import Allowed, choices, integers, option
from runner.config.schema import ExecutorOptions, RemoteOptions, TrackerOptions
from runner.core.machine import interruptions_wait
from runner.store.runs import run_name
from runner.sweeps.executors.base import Executor, Listener, StackResult, Stream, executor
from runner.sweeps.executors.job import SAVING_SECONDS, Job
from runner.sweeps.executors.slurm_queue import (
    COMPLETED,
    NO_ANSWER,
    folder_of,
    forget,
    how_it_ended,
    jobs_of,
    keep,
    squeue,
    told,
)
from runner.sweeps.plan import cost, memory_budget

POLL_SECONDS = 2.0
RETRY_SECONDS = 60.0  # after which jobs that were refused are submitted again
JOB_COST = 5e9  # `cost` up to which stacks share a job: some 20 seconds of training, against half as many of a start
MOST_IN_ARRAY = 1000  # jobs; clusters allow 1001 and more
MOST_REQUEUED = 1_000_000  # times that a job goes on after its time limit

NAME = Allowed("a name without spaces", lambda x: bool(x) and not any(c.isspace() for c in x))
MINUTES = integers(5, 525600)
FLAGS = Allowed(
    "options of sbatch as name=value, each in quotes, such as ['qos=high']", lambda xs: all("=" in x for x in xs)
)


@dataclass
class SlurmOptions(RemoteOptions):
    partition: str | None = option("null: the cluster's default", NAME)
    account: str | None = option("null: your default", NAME)
    minutes: int = option("time limit of a job, which saves its state before, and goes on in the queue", MINUTES)
    setup: list[str] = option("lines of shell that a job begins with, such as ['module load cuda']")
    sbatch: list[str] = option("further options of sbatch, such as ['qos=high']", FLAGS)
    on_interrupt: str = option(
        "what Ctrl-C does with jobs: leave them in the queue, or cancel them", choices("leave", "cancel")
    )


@executor("slurm", SlurmOptions)
class Slurm(Executor):
    """Jobs are begun by the cluster when it likes, so there is always room."""

    stores = True

    def __init__(self, stacks: Sequence[list[Config]], streams: bool):
        config = stacks[0][0]
        self.submitit, self.options, self.workers = _submitit(), config.executor, config.workers
        self.folder = folder_of(Path(config.outputs))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.retrains = config.retrain is not None
        self.next_submission = 0.0
        self.begun: set[int] = set()  # ids of configurations that have been submitted
        self.max_bytes = memory_budget(config)
        self.waiting: list[tuple[list[Config], set[str]]] = []  # stacks, and the jobs that have their runs
        self.to_submit: list[tuple[list[Config], set[str]]] = []  # what of them has none yet
        self.earlier = self._in_queue()

    def has_room(self) -> bool:
        return True

    def submit(self, stack: list[Config], ahead: int) -> None:
        """Those that a job of an earlier command has are waited for."""
        names = {run_name(config) for config in stack}
        jobs = {job for job, runs in self.earlier.items() if runs & names}
        self.waiting.append((stack, jobs))
        theirs = set().union(*(self.earlier[job] for job in jobs))
        if left := [config for config in stack if run_name(config) not in theirs]:
            self.to_submit.append((left, jobs))

    def ended(self, listener: Listener, stream: Stream) -> list[StackResult]:
        if self.to_submit and time.monotonic() >= self.next_submission:
            self._submit_or_wait(listener)
        time.sleep(POLL_SECONDS)
        if (states := squeue()) is None:
            listener.waits(NO_ANSWER)
            return []
        listener.waits(told([states[job] for job in self.jobs & states.keys()]))
        over = {job: how_it_ended(job) for job in self.jobs - states.keys()}
        for job in over:
            self.earlier.pop(job, None)  # its runs may come again
            forget(self.folder, job, keep_log=over[job] != COMPLETED or self.retrains)
        unsubmitted = {id(jobs) for _, jobs in self.to_submit}
        waits = [bool(jobs & states.keys()) or id(jobs) in unsubmitted for _, jobs in self.waiting]
        ended = [each for each, still in zip(self.waiting, waits, strict=True) if not still]
        self.waiting = [each for each, still in zip(self.waiting, waits, strict=True) if still]
        return [StackResult(stack, error=self._why(jobs, over)) for stack, jobs in ended]

    def close(self) -> str | None:
        """On Ctrl-C."""
        left, self.waiting, self.to_submit = sorted(self.jobs), [], []
        if not left:
            return None
        if self.options.on_interrupt == "leave":
            return f"{len(left)} jobs are left in the queue; the same command waits for them, and `scancel` ends them"
        refused = subprocess.run(["scancel", *left], capture_output=True, text=True)
        if refused.returncode:
            return f"not all of {len(left)} jobs were cancelled: {refused.stderr.strip()}"
        return f"{len(left)} jobs were cancelled; the same command goes on"

    @property
    def jobs(self) -> set[str]:
        """That are waited for."""
        return set().union(*(jobs for _, jobs in self.waiting))

    def _why(self, jobs: set[str], over: dict[str, str]) -> str:
        """What to say of a run that these jobs, the last of which are just over, did not store."""
        last = max(jobs & over.keys(), key=lambda job: [int(part) for part in job.split("_")])
        return f"its job {last} ended without it ({over[last]}); see {self.folder / f'{last}_0_log.err'}"

    def _in_queue(self) -> dict[str, set[str]]:
        """The jobs of earlier commands, with the names of their runs; what is there of those that have ended is removed."""
        jobs = jobs_of(self.folder)
        if jobs and (states := squeue()) is None:
            raise ConfigError(f"executor=slurm: {NO_ANSWER} (squeue); try again once it does")
        for job in jobs:
            if job not in states:
                forget(self.folder, job, keep_log=how_it_ended(job) != COMPLETED)
        return {job: runs for job, runs in jobs.items() if job in states}

    def _submit_or_wait(self, listener: Listener) -> None:
        """What is refused while other jobs are in the queue, as for a limit of their number, is submitted later."""
        try:
            with interruptions_wait():  # a job that nobody knows of would train beside the next command's
                self._submit_all()
        except ConfigError as error:
            if not self.jobs:
                raise
            listener.waits(str(error))
            self.next_submission = time.monotonic() + RETRY_SECONDS

    def _submit_all(self) -> None:
        """As arrays of jobs."""
        packed = self._packed()
        for first in range(0, len(packed), MOST_IN_ARRAY):
            array = packed[first : first + MOST_IN_ARRAY]
            submitted = self._sbatch([self._job([stack for stack, _ in each]) for each in array])
            for each, job in zip(array, submitted, strict=True):
                keep(self.folder, job, (run_name(config) for stack, _ in each for config in stack))
                for stack, jobs in each:
                    jobs.add(job)
                    self.begun.update(map(id, stack))
            there = {id(each) for several in array for each in several}
            self.to_submit = [each for each in self.to_submit if id(each) not in there]

    def _packed(self) -> list[list[tuple[list[Config], set[str]]]]:
        """What is to be submitted, by job: stacks enough to be worth a start. One that was lost before has a job to itself."""
        packed: list[list[tuple[list[Config], set[str]]]] = []
        room = 0.0
        for each in self.to_submit:
            needed, again = sum(map(cost, each[0])), not self.begun.isdisjoint(map(id, each[0]))
            if needed > room or again:
                packed.append([])
                room = 0.0 if again else JOB_COST
            packed[-1].append(each)
            room -= needed
        return packed

    def _job(self, stacks: Sequence[list[Config]]) -> Job:
        """What is trained there, in stacks as they are here."""
        there = {
            "executor": ExecutorOptions(name="local"),
            "tracker": TrackerOptions(name="none"),
            "workers": 1,
            "stack.max_bytes": self.max_bytes,
        }
        return Job([with_values(config, there) for stack in stacks for config in stack], self.options)

    def _sbatch(self, jobs: Sequence[Job]) -> list[str]:
        """Their names. Raises ConfigError."""
        own = self.options
        slurm = self.submitit.SlurmExecutor(self.folder, max_num_timeout=MOST_REQUEUED)
        wanted = {"partition": own.partition, "account": own.account, "setup": own.setup or None}
        wanted |= {"gpus_per_node": own.gpus or None}
        slurm.update_parameters(
            job_name=self.folder.parent.parent.name[:50],  # that of `outputs`
            time=own.minutes,
            cpus_per_task=own.cpus,
            mem=f"{int(own.memory * 1024)}MB",
            signal_delay_s=SAVING_SECONDS,
            srun_args=[f"--cpus-per-task={own.cpus}"],  # which srun does not take from its job
            array_parallelism=len(jobs) if self.workers == "auto" else self.workers,
            additional_parameters={"requeue": True} | dict(flag.split("=", 1) for flag in own.sbatch),
            **{name: value for name, value in wanted.items() if value is not None},
        )
        before = set(self.folder.iterdir())
        try:
            with slurm.batch():
                submitted = [slurm.submit(job) for job in jobs]
        except Exception as error:  # what sbatch says, in an exception of submitit's
            for path in set(self.folder.iterdir()) - before:
                path.unlink(missing_ok=True)
            raise ConfigError(f"executor=slurm: sbatch refused the jobs: {_last_line(error)}") from error
        return [job.job_id for job in submitted]


def _submitit() -> object:
    """Raises ConfigError where it, or Slurm, is not here."""
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            "executor=slurm: submitit is not installed; pip install submitit, or use executor=local"
        ) from error
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "executor=slurm: there is no sbatch here; use a machine that submits jobs to Slurm, or executor=local"
        )
    return submitit


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
