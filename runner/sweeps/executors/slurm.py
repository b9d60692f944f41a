"""Slurm: stacks are jobs of an array, submitted through submitit. Jobs claim and store their runs themselves, so that the command
may be closed and called again: it then waits for what is in the queue.

`outputs/slurm` holds, by job, what is submitted, which runs that is (`<job>.runs.json`), and a log (`<job>_0_log.err`), kept
where a job failed. What jobs do is asked of `squeue`: `sacct` knows nothing where accounting is off.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner.config import Config, ConfigError
from runner.config.identity import run_id, with_values
from runner.config.options import Allowed, choices, option
from runner.config.schema import ExecutorOptions, RemoteOptions, TrackerOptions
from runner.store.files import read_file
from runner.sweeps.executors.base import Executor, Listener, StackResult, Stream, executor
from runner.sweeps.executors.job import SAVING_SECONDS, Job
from runner.sweeps.plan import cost, memory_budget

POLL_SECONDS = 2.0
JOB_COST = 5e9  # `cost` up to which stacks share a job: some 20 seconds of training, against half as many of a start
MOST_IN_ARRAY = 1000  # jobs; clusters allow 1001 and more
MOST_REQUEUED = 1_000_000  # times that a job goes on after its time limit
KNOWN = "*.runs.json"

NAME = Allowed("a name without spaces", lambda x: bool(x) and not any(c.isspace() for c in x))
MINUTES = Allowed("an integer from 2 to 525600", lambda x: 2 <= x <= 525600)
FLAGS = Allowed(
    "options of sbatch as name=value, such as [qos=high,constraint=a100]", lambda xs: all("=" in x for x in xs)
)


@dataclass
class SlurmOptions(RemoteOptions):
    partition: str | None = option("null: the cluster's default", NAME)
    account: str | None = option("null: your default", NAME)
    minutes: int = option("time limit of a job, which saves its state before, and goes on in the queue", MINUTES)
    setup: list[str] = option("lines of shell that a job begins with, such as [module load cuda]")
    sbatch: list[str] = option("further options of sbatch, such as [qos=high]", FLAGS)
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
        self.folder = (Path(config.outputs) / "slurm").absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.max_bytes = memory_budget(config)
        self.waiting: list[tuple[list[Config], set[str]]] = []  # stacks, and the jobs that have their runs
        self.to_submit: list[tuple[list[Config], set[str]]] = []  # what of them has none yet
        self.earlier = self._in_queue()

    def has_room(self) -> bool:
        return True

    def submit(self, stack: list[Config], ahead: int) -> None:
        """Those that a job of an earlier command has are waited for."""
        names = {name(config) for config in stack}
        jobs = {job for job, runs in self.earlier.items() if runs & names}
        self.waiting.append((stack, jobs))
        theirs = set().union(*(self.earlier[job] for job in jobs))
        if left := [config for config in stack if name(config) not in theirs]:
            self.to_submit.append((left, jobs))

    def ended(self, listener: Listener, stream: Stream) -> list[StackResult]:
        if self.to_submit:
            self._submit_all()
        time.sleep(POLL_SECONDS)
        if (states := squeue()) is None:
            listener.waits("Slurm's controller does not answer")
            return []
        listener.waits(told([states[job] for job in self.jobs & states.keys()]))
        over = {job: _how_it_ended(job) for job in self.jobs - states.keys()}
        for job in over:
            self.earlier.pop(job, None)
            _forget(self.folder, job, keep_log=over[job] != COMPLETED)
        ended = [(stack, jobs) for stack, jobs in self.waiting if not jobs & states.keys()]
        self.waiting = [(stack, jobs) for stack, jobs in self.waiting if jobs & states.keys()]
        return [StackResult(stack, error=self._why(jobs, over)) for stack, jobs in ended]

    def close(self) -> str | None:
        """On Ctrl-C."""
        left, self.waiting, self.to_submit = sorted(self.jobs), [], []
        if not left:
            return None
        if self.options.on_interrupt == "leave":
            return f"{len(left)} jobs are left in the queue; the same command waits for them, and `scancel` ends them"
        subprocess.run(["scancel", *left], capture_output=True)
        return f"{len(left)} jobs were cancelled; the same command goes on"

    @property
    def jobs(self) -> set[str]:
        """That are waited for."""
        return set().union(*(jobs for _, jobs in self.waiting))

    def _why(self, jobs: set[str], over: dict[str, str]) -> str:
        """What to say of a run that these jobs, the last of which are just over, did not store."""
        last = max(jobs & over.keys())
        return f"its job {last} ended without it ({over[last]}); see {self.folder / f'{last}_0_log.err'}"

    def _in_queue(self) -> dict[str, set[str]]:
        """The jobs of earlier commands, with the names of their runs; what is there of those that have ended is removed."""
        jobs = jobs_of(self.folder)
        if jobs and (states := squeue()) is None:
            raise ConfigError("executor=slurm: Slurm's controller does not answer (squeue); try again once it does")
        for job in jobs:
            if job not in states:
                _forget(self.folder, job, keep_log=_how_it_ended(job) != COMPLETED)
        return {job: runs for job, runs in jobs.items() if job in states}

    def _submit_all(self) -> None:
        """As arrays of jobs, each with stacks enough to be worth its start."""
        packed: list[list[tuple[list[Config], set[str]]]] = []
        room = 0.0
        for each in self.to_submit:
            needed = sum(map(cost, each[0]))
            if needed > room:
                packed.append([])
                room = JOB_COST
            packed[-1].append(each)
            room -= needed
        self.to_submit = []
        for first in range(0, len(packed), MOST_IN_ARRAY):
            array = packed[first : first + MOST_IN_ARRAY]
            submitted = self._sbatch([self._job([stack for stack, _ in each]) for each in array])
            for each, job in zip(array, submitted, strict=True):
                runs = sorted(name(config) for stack, _ in each for config in stack)
                (self.folder / KNOWN.replace("*", job)).write_text(json.dumps(runs))
                for _, jobs in each:
                    jobs.add(job)

    def _job(self, stacks: Sequence[list[Config]]) -> Job:
        """What is trained there, in stacks as they are here."""
        there = {
            "executor": ExecutorOptions(name="local"),
            "tracker": TrackerOptions(name="none"),
            "workers": 1,
            "stack.max_bytes": self.max_bytes,
        }
        return Job([with_values(config, there) for stack in stacks for config in stack], self.options.cpus)

    def _sbatch(self, jobs: Sequence[Job]) -> list[str]:
        """Their names. Raises ConfigError."""
        own = self.options
        slurm = self.submitit.SlurmExecutor(self.folder, max_num_timeout=MOST_REQUEUED)
        wanted = {"partition": own.partition, "account": own.account, "setup": own.setup or None}
        wanted |= {"gpus_per_node": own.gpus or None}
        slurm.update_parameters(
            job_name=self.folder.parent.name[:50] or "runner",
            time=own.minutes,
            cpus_per_task=own.cpus,
            mem=f"{int(own.memory * 1024)}MB",
            signal_delay_s=SAVING_SECONDS,
            array_parallelism=len(jobs) if self.workers == "auto" else self.workers,
            additional_parameters={"requeue": True} | dict(flag.split("=", 1) for flag in own.sbatch),
            **{name: value for name, value in wanted.items() if value is not None},
        )
        try:
            with slurm.batch():
                submitted = [slurm.submit(job) for job in jobs]
        except Exception as error:  # what sbatch says, in an exception of submitit's
            raise ConfigError(f"executor=slurm: sbatch refused the jobs: {_last_line(error)}") from error
        return [job.job_id for job in submitted]


COMPLETED = "COMPLETED"


def name(config: Config) -> str:
    """A run's, among all of a store."""
    return f"{config.experiment}/{run_id(config)}"


def jobs_of(folder: Path) -> dict[str, set[str]]:
    """The jobs that commands have submitted and not seen end, and the names of their runs."""
    jobs = {}
    for path in sorted(folder.glob(KNOWN)):
        with suppress(OSError, ValueError):
            jobs[path.name.removesuffix(KNOWN[1:])] = set(json.loads(read_file(path)))
    return jobs


def squeue() -> dict[str, tuple[str, str]] | None:
    """State and machine of each job of this user that has not ended, by name; None where the controller does not answer."""
    answer = _asked("--me", "--array", "--format=%i|%T|%N")
    rows = (line.split("|") for line in (answer or "").split() if line.count("|") == 2)
    return None if answer is None else {job: (state, machine) for job, state, machine in rows}


def _asked(*options: str) -> str | None:
    """What squeue says; None where it says nothing."""
    try:
        answer = subprocess.run(["squeue", "--noheader", *options], capture_output=True, text=True)
    except OSError:  # Slurm is not here
        return None
    return None if answer.returncode else answer.stdout


def told(jobs: Sequence[tuple[str, str]]) -> str:
    """How many of these jobs are queued, and where the others run."""
    machines = sorted({machine for state, machine in jobs if state == "RUNNING"})
    running = sum(state == "RUNNING" for state, _ in jobs)
    shown = ", ".join(machines[:4]) + ", …" * (len(machines) > 4)
    parts = [f"{len(jobs) - running} jobs queued"] * (running < len(jobs))
    parts += [f"{running} running on {shown}"] * bool(running)
    return ", ".join(parts)


def _how_it_ended(job: str) -> str:
    """Its last state, as far as the controller still knows it."""
    return (_asked("--states=all", "--format=%T", f"--jobs={job}") or "").strip() or "the controller has forgotten how"


def _forget(folder: Path, job: str, keep_log: bool) -> None:
    """Remove what is kept of a job that has ended."""
    for path in folder.glob(f"{job}_*"):
        if path.suffix == ".pkl" or path.suffix == ".sh" or not keep_log:
            path.unlink(missing_ok=True)
    (folder / KNOWN.replace("*", job)).unlink(missing_ok=True)
    if not any(folder.glob(KNOWN)):
        for path in (*folder.glob(".submission_file_*"), *folder.glob("*_submission.sh")):
            path.unlink(missing_ok=True)


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
