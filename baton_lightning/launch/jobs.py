"""State of SLURM jobs: jobs of all users that are in the queue, and the final state of jobs that have ended."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "RESIZING")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "REVOKED")
NEVER = "DependencyNeverSatisfied"
LAST_WORDS = {  # messages of slurmstepd in a job's log -> state
    "DUE TO TIME LIMIT": "TIMEOUT",
    "oom-kill": "OUT_OF_MEMORY",
    "Out Of Memory": "OUT_OF_MEMORY",
    "DUE TO NODE FAILURE": "NODE_FAIL",
    "CANCELLED AT": "CANCELLED",
}


@dataclass(frozen=True)
class Job:
    """A job or an array task.

    Args:
        number: Id, e.g. ``12`` or ``12_3``.
        state: State as SLURM names it, e.g. ``PENDING``; empty if unknown.
        reason: Why it is pending, or how it ended.
    """

    number: str
    state: str = ""
    reason: str = ""

    @property
    def busy(self) -> str:
        """``running`` or ``queued``; empty if the job has ended or its state is unknown. Any other state of SLURM counts as queued."""
        if not self.state or self.state in ENDED:
            return ""
        return "running" if self.state in RUNNING else "queued"

    def __str__(self) -> str:
        return " ".join(filter(None, (self.number, self.state, f"({self.reason})" if self.reason else "")))


def queue(numbers: Iterable[str]) -> dict[str, Job]:
    """Jobs among ``numbers`` that squeue lists, by id; empty on a machine without SLURM.

    Args:
        numbers: Ids of jobs and array tasks, of any user.

    Raises:
        ValueError: If squeue fails. If that counted as an empty queue, jobs would be submitted twice.
    """
    asked = sorted(set(numbers))
    if not asked or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--array", f"--jobs={','.join(asked)}", "--format=%i %T %r"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "Invalid job id" not in done.stderr:  # squeue does not know the ids of jobs that ended long ago
        raise ValueError(f"chain: squeue does not list the jobs ({done.stderr.strip()}); try again when it does")
    return parsed(done.stdout)


def named(names: dict[str, Path]) -> dict[Path, Job]:
    """Jobs in the queue that use these run folders but have no entry in a chain record, by folder.

    Args:
        names: Name of a job -> its run folder. A job matches if its comment is this folder.

    Raises:
        ValueError: If squeue fails.
    """
    if not names or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", f"--name={','.join(sorted(names))}", "--format=%i %T %r|%k"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"chain: squeue does not list the jobs ({done.stderr.strip()}); try again when it does")
    found: dict[Path, Job] = {}
    for line in done.stdout.splitlines():
        job, bar, comment = line.partition("|")
        for known in parsed(job).values() if bar else ():
            found |= {folder: known for folder in names.values() if str(folder.absolute()) == comment.strip() and known.busy}
    return found


def parsed(text: str) -> dict[str, Job]:
    """Jobs by id, parsed from lines ``id state reason``."""
    found: dict[str, Job] = {}
    for line in text.splitlines():
        number, _, rest = line.strip().partition(" ")
        state, _, reason = rest.partition(" ")
        if number:
            found[number] = Job(number, state, "" if reason in ("None", "N/A") else reason.strip("()"))
    return found


def ended(number: str, log: Path | None) -> Job:
    """Final state of a job: from sacct, otherwise from scontrol, otherwise from its log.

    Args:
        number: Id of the job or array task.
        log: Its log file, if known. The last line is added to the reason unless the job completed.
    """
    job = of_accounting(number) or of_controller(number) or Job(number)
    if log is not None and log.exists() and job.state != "COMPLETED":
        lines = tail(log)
        state = job.state or next((state for line in reversed(lines) for words, state in LAST_WORDS.items() if words in line), "")
        job = Job(number, state, ", ".join(filter(None, (job.reason, last_line(lines)))))
    return job


def of_accounting(number: str) -> Job | None:
    if shutil.which("sacct") is None:
        return None
    command = ["sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={number}", "--format=State,ExitCode"]
    done = subprocess.run(command, capture_output=True, text=True)
    line = done.stdout.strip().splitlines()[-1:] if done.returncode == 0 else []
    if not line:
        return None
    state, _, code = line[0].partition("|")
    return Job(number, state.split()[0], code if code not in ("", "0:0") else "")


def of_controller(number: str) -> Job | None:
    if shutil.which("scontrol") is None:
        return None
    done = subprocess.run(["scontrol", "--oneliner", "show", "job", number], capture_output=True, text=True)
    known = dict(re.findall(r"(JobState|Reason|ExitCode)=(\S+)", done.stdout))
    if done.returncode or "JobState" not in known:
        return None
    details = [known.get("Reason", "None"), known.get("ExitCode", "0:0")]
    return Job(number, known["JobState"], ", ".join(text for text in details if text not in ("None", "0:0", known["JobState"])))


def tail(log: Path) -> list[str]:
    """Non-empty lines in the last 4 KiB of a log, without text that a progress bar overwrote."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        text = file.read().decode(errors="replace")
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def last_line(lines: list[str]) -> str:
    """The last line that srun did not write. srun reports its own exit after all other output."""
    return next((line for line in reversed(lines) if not line.startswith("srun: ")), lines[-1] if lines else "")
