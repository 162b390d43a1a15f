"""A Slurm cluster on this machine: two nodes with one GPU each, accounting in MariaDB, everything on 127.0.0.1.

All daemons run in the foreground as children of this process, so that they can be killed and ended by their ids, and
nothing that was running before is touched. Debian's packages: slurm-wlm, slurmdbd, munge, mariadb-server.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db", "mariadb", "sbatch", "sacct")
ETC = Path("/etc/slurm")
MARK = "# made by embedome's tests\n"
NODES = ("n1", "n2")
HOST = "127.0.0.1"
DATABASE_PORT, DBD_PORT, CONTROLLER_PORT, NODE_PORT = 33061, 16819, 16817, 17001
CLUSTER, ACCOUNT, PASSWORD = "embedome", "bio", "only-for-tests"

# Jobs read /etc/slurm/slurm.conf: they do not inherit SLURM_CONF. A requeued job waits until credentials have expired,
# two minutes by default.
SLURM_CONF = """{mark}ClusterName={cluster}
SlurmctldHost={host}({address})
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=15
SlurmctldTimeout=15
InactiveLimit=0
KillWait=5
MinJobAge=600
MaxArraySize=2001
MaxJobCount=20000
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5,requeue_delay=1
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={address}
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
AccountingStorageEnforce=associations
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL Default=NO MaxTime=INFINITE PriorityTier=10 State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr={address} Port={port} "
    "CPUs=4 RealMemory=16000 Gres=gpu:1 State=UNKNOWN"
)
DBD_CONF = """{mark}AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr={address}
DbdPort={dbd}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost={address}
StoragePort={database}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
"""


def why_not() -> str | None:
    """Why there can be no cluster here, if there cannot."""
    if os.geteuid() != 0:
        return "the tests on a real Slurm need root"
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm slurmdbd munge mariadb-server)"
    config = ETC / "slurm.conf"
    if config.exists() and not config.read_text().startswith(MARK):
        return f"{config} is there: this machine belongs to a cluster"
    return None


def run(*command: str, check: bool = True, **options: object) -> str:
    """Run a program; its output."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    if check and result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stdout} {result.stderr}")
    return result.stdout


def wait_for(what: str, ready: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until something is so; what `ready` gave then."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {seconds:.0f} s")
        time.sleep(0.2)
    return found


def listens(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Cluster:
    """The daemons, by name; `start` and `stop` work on each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Cluster":
        busy = [port for port in (DATABASE_PORT, DBD_PORT, CONTROLLER_PORT, NODE_PORT) if listens(port)]
        if busy:
            raise RuntimeError(f"ports {busy} are in use")
        self.folder.mkdir(parents=True)
        self.configure()
        try:
            self.start("munged")
            self.start_database()
            self.start("slurmdbd")
            self.add_account()
            self.start("slurmctld")
            for node in NODES:
                self.start(node)
            wait_for("nodes idle", lambda: self.states() == {"idle"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel_all()
        for name in reversed(list(self.daemons)):
            self.stop(name)
        for name in ("slurm.conf", "slurmdbd.conf", "gres.conf"):
            (ETC / name).unlink(missing_ok=True)

    def cancel_all(self) -> None:
        """End all jobs, and wait until their processes are gone."""
        if {"slurmctld", *NODES} <= set(self.daemons):
            run("scancel", "-u", "root", check=False)
            wait_for("an empty queue", lambda: not run("squeue", "-h", "-o", "%i", check=False).strip())

    def configure(self) -> None:
        """Write what the daemons read."""
        ETC.mkdir(exist_ok=True)
        for name in ("state", "database", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        host = socket.gethostname()
        values = {
            "mark": MARK,
            "cluster": CLUSTER,
            "host": host,
            "address": HOST,
            "folder": self.folder,
            "controller": CONTROLLER_PORT,
            "dbd": DBD_PORT,
            "database": DATABASE_PORT,
            "password": PASSWORD,
        }
        nodes = [
            NODE.format(name=name, host=host, address=HOST, port=NODE_PORT + number)
            for number, name in enumerate(NODES)
        ]
        (ETC / "slurm.conf").write_text(SLURM_CONF.format(nodes="\n".join(nodes), **values))
        (ETC / "slurmdbd.conf").write_text(DBD_CONF.format(**values))
        (ETC / "slurmdbd.conf").chmod(0o600)
        gpu = self.folder / "gpu"
        gpu.touch()
        (ETC / "gres.conf").write_text(MARK + "".join(f"NodeName={name} Name=gpu File={gpu}\n" for name in NODES))

    def command(self, name: str) -> list[str]:
        """How a daemon is started in the foreground."""
        here = self.folder
        if name in NODES:
            return ["slurmd", "-D", "-N", name]
        return {
            "munged": [
                "munged",
                "--foreground",
                "--force",
                f"--socket={here}/munge.socket",
                f"--key-file={here}/munge.key",
                f"--pid-file={here}/munged.pid",
                f"--log-file={here}/munged.log",
                f"--seed-file={here}/munged.seed",
            ],
            "mariadbd": [
                "mariadbd",
                "--no-defaults",
                "--user=root",
                f"--datadir={here}/database",
                f"--socket={here}/mariadb.socket",
                f"--pid-file={here}/mariadb.pid",
                f"--bind-address={HOST}",
                f"--port={DATABASE_PORT}",
                "--innodb-buffer-pool-size=64M",
            ],
            "slurmdbd": ["slurmdbd", "-D"],
            "slurmctld": ["slurmctld", "-D"],
        }[name]

    def start(self, name: str) -> None:
        """Start a daemon and wait until it answers."""
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                self.command(name), stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )
        ready = {
            "munged": lambda: (self.folder / "munge.socket").exists(),
            "mariadbd": lambda: (self.folder / "mariadb.socket").exists(),
            "slurmdbd": lambda: listens(DBD_PORT),
            "slurmctld": lambda: listens(CONTROLLER_PORT),
        }
        port = NODE_PORT + NODES.index(name) if name in NODES else 0
        wait_for(name, ready.get(name, lambda: listens(port)))

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        """End a daemon that was started here."""
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(how)
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def start_database(self) -> None:
        """Make the data base and the user of slurmdbd."""
        run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.folder}/database")
        self.start("mariadbd")
        statements = (
            f"create user slurm@'{HOST}' identified by '{PASSWORD}'; create user slurm@localhost identified by "
            f"'{PASSWORD}'; grant all on slurm_acct.* to slurm@'{HOST}'; grant all on slurm_acct.* to slurm@localhost"
        )
        run("mariadb", "--no-defaults", f"--socket={self.folder}/mariadb.socket", "-e", statements)

    def add_account(self) -> None:
        """Make the cluster, an account and this user known to the accounting."""
        wait_for("accounting", lambda: "Cluster" in run("sacctmgr", "show", "cluster", check=False), 20)
        run("sacctmgr", "-i", "add", "cluster", CLUSTER)
        run("sacctmgr", "-i", "add", "account", ACCOUNT, f"Cluster={CLUSTER}", "Description=x", "Organization=x")
        run("sacctmgr", "-i", "add", "user", "root", f"Account={ACCOUNT}", f"Cluster={CLUSTER}", check=False)

    def states(self) -> set[str]:
        """States of the nodes."""
        return set(run("sinfo", "-h", "-N", "-p", "main", "-o", "%t", check=False).split())

    def jobs(self) -> list[dict[str, str]]:
        """All jobs so far, as sacct tells of them, steps left out."""
        fields = ["JobID", "JobName", "State", "ExitCode", "NodeList", "AllocTRES", "Comment"]
        lines = run("sacct", "-X", "-P", "-n", "-D", "-S", "2020-01-01", "-o", ",".join(fields)).splitlines()
        return [dict(zip(fields, line.split("|"), strict=True)) for line in lines]

    def cpu_seconds(self, name: str) -> float:
        """Seconds of a core that a daemon has used."""
        fields = Path(f"/proc/{self.daemons[name].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def running(self, comment: str) -> list[str]:
        """Ids of running jobs whose comment has a word in it."""
        lines = run("squeue", "-h", "-t", "R", "-r", "-o", "%i|%k", check=False).splitlines()
        return [line.split("|")[0] for line in lines if comment in line]
