"""A real SLURM of two nodes with fake GPUs on this machine.

One folder holds its configuration, keys, sockets, logs and state, so it does not disturb a SLURM that the machine may
have.  Its daemons are children of the process that started it.  It has no accounting, which needs a data base.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from processes import status, wait_until

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")  # for Debian and Ubuntu
NODES = ("n1", "n2")
PARTITION = "cards"
SUPERVISED = "EMM_TEST_NODE"  # in the environment of a node's supervisors; that of jobs has SLURMD_NODENAME

# No cgroups, because containers and machines without systemd lack them.  Memory is polled, and jobs are process groups.
CONFIGURATION = """\
ClusterName=emm-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
PropagateResourceLimits=NONE
# Jobs start immediately, by processors, memory and GPUs, on the least loaded node (LLN)
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
GresTypes=gpu
# A step that exceeds its memory is killed
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
# Finished jobs stay visible in squeue.  A silent node is soon down, and up again when it answers
MinJobAge=3600
KillWait=30
SlurmdTimeout=10
ReturnToService=2
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
    "CPUs=4 RealMemory=16000 Gres=gpu:4 State=UNKNOWN\n"
)
# Devices that every machine has stand for the GPUs; no process opens them.
GPUS = "".join(f"NodeName={{name}} Name=gpu File=/dev/{device}\n" for device in ("null", "zero", "full", "random"))


class Unavailable(RuntimeError):
    """SLURM is not available on this machine; the message gives the reason."""


def install() -> None:
    """Install SLURM's packages if they are missing and this process has the right to.

    Raises:
        Unavailable: this process has no right to install packages, or the installation failed.
    """
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])  # the folders of daemons
    if not (missing := [name for name in PROGRAMS if shutil.which(name) is None]):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise Unavailable(f"{', '.join(missing)} not found; root on Debian or Ubuntu would install {PACKAGES}")
    with tempfile.TemporaryDirectory() as folder:
        # Otherwise packages would start their daemons, for which this machine has no configuration.
        policy = Path(folder, "policy-rc.d")
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "POLICYRCD": str(policy)}
        for step in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(["apt-get", "-qq", *step], env=environment, capture_output=True, text=True)
            if done.returncode:
                last = [line for line in done.stderr.splitlines() if line.startswith("E:")][-1:]
                raise Unavailable(f"apt-get {step[0]} failed: {' '.join(last)}")


def free_ports(count: int) -> list[int]:
    """Find ports on which no process listens now."""
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


@dataclass(frozen=True)
class Job:
    """A job as squeue lists it: waiting, running, or ended within the last hour."""

    number: str
    state: str
    node: str
    rule: str
    wildcards: str  # joined by _; empty if the job is a group of rules

    @property
    def over(self) -> bool:
        return self.state not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")


@dataclass(frozen=True)
class Process:
    """A process of a job, with its node."""

    number: int
    node: str
    command: list[str]

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.number, number)

    def stopped(self) -> bool:
        """True if SIGSTOP has stopped the process."""
        return status(self.number) == "T"


@dataclass
class Cluster:
    """A running cluster; `folder` holds all its files."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment with which a process uses this cluster and no other."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return {**inherited, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        controller, *ports = free_ports(1 + len(NODES))
        for name in ("controller", "bin", *NODES):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        user = pwd.getpwuid(os.geteuid()).pw_name
        text = CONFIGURATION.format(host=host, controller_port=controller, user=user, folder=self.folder)
        for name, port in zip(NODES, ports, strict=True):
            text += NODE.format(name=name, host=host, port=port)
        text += f"PartitionName={PARTITION} Nodes=ALL Default=YES MaxTime=UNLIMITED LLN=YES State=UP\n"
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("".join(GPUS.format(name=name) for name in NODES))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        # Snakemake's plugin removes SLURM_CONF from the environment of the srun that it starts inside a job.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)

    def launch(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground, as a child of this process."""
        environment = self.environment | ({SUPERVISED: name} if name in NODES else {})
        with open(self.folder / f"{name}.out", "ab") as output:
            self.daemons[name] = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def start_authentication(self) -> None:
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log",
                 "seed-file": "munge.seed"}  # fmt: skip
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self.launch("munged", "munged", "--foreground", "--force", "--num-threads=10", *options)
        wait_until((self.folder / "munge.socket").exists, 10, "munged answers")

    def start_controller(self) -> None:
        self.launch("controller", "slurmctld", "-D")

    def start_node(self, name: str) -> None:
        self.launch(name, "slurmd", "-D", "-N", name)

    def start(self) -> None:
        self.configure()
        self.start_authentication()
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        wait_until(lambda: self.idle() == set(NODES), 30, "both nodes are idle")

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a daemon and wait for its end."""
        process = self.daemons.pop(name)
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End all jobs and daemons."""
        with contextlib.suppress(subprocess.CalledProcessError, TimeoutError):
            for job in self.jobs():
                self.run("scancel", job.number)
            wait_until(lambda: not self.jobs(), 20, "all jobs have ended")
        for name in reversed(list(self.daemons)):
            self.end(name)
        for process in self.processes():
            process.kill()

    def run(self, *command: str) -> str:
        """Run one of SLURM's commands; return its standard output.

        Raises:
            CalledProcessError: the command failed.
        """
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def answers(self) -> bool:
        """True if the controller answers."""
        try:
            return "UP" in self.run("scontrol", "ping")
        except subprocess.CalledProcessError:
            return False

    def idle(self) -> set[str]:
        try:
            return set(self.run("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").split())
        except subprocess.CalledProcessError:
            return set()

    def jobs(self, over: bool = False) -> list[Job]:
        """List the jobs that have not ended, or all with `over`, in order of submission."""
        lines = self.run("squeue", "--noheader", "--states=all", "--sort=i", "--format=%i|%T|%N|%k").splitlines()
        jobs = []
        for line in lines:
            number, state, node, comment = line.split("|")
            rule, _, wildcards = comment.removeprefix("rule_").partition("_wildcards_")
            jobs.append(Job(number, state, node, rule, wildcards))
        return [job for job in jobs if over or not job.over]

    def processes(self, *words: str, node: str = "") -> list[Process]:
        """List processes of this cluster's jobs whose command has all `words`, SLURM's own supervisors first."""
        folders = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        processes = [process for folder in folders for process in self._process(folder)]
        matching = [p for p in processes if node in ("", p.node) and all(word in p.command for word in words)]
        return sorted(matching, key=lambda process: not process.command[0].startswith("slurmstepd"))

    def _process(self, folder: Path) -> list[Process]:
        """The process of a folder of /proc if it belongs to a job of this cluster; otherwise an empty list."""
        try:
            texts = [(folder / name).read_text(errors="replace").split("\0") for name in ("environ", "cmdline")]
        except OSError:  # has ended, or belongs to another user
            return []
        environment = dict(entry.split("=", 1) for entry in texts[0] if "=" in entry)
        node = environment.get("SLURMD_NODENAME") or environment.get(SUPERVISED)
        command = texts[1][:-1]
        ours = environment.get("SLURM_CONF") == str(self.folder / "slurm.conf")
        return (
            [Process(int(folder.name), node, command)] if ours and node and command and command[0] != "slurmd" else []
        )

    def crash(self, name: str) -> None:
        """Lose a node with all its processes at once."""
        self.end(name, signal.SIGKILL)
        for process in self.processes(node=name):
            process.kill()

    def job(self, number: str) -> dict[str, str]:
        """The controller's entries for a job, such as TimeLimit."""
        return dict(
            entry.split("=", 1) for entry in self.run("scontrol", "show", "job", number).split() if "=" in entry
        )
