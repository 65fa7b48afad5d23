"""A Flink cluster on this machine: a job manager, and two hosts with a task manager of one slot and a worker pool each.

A host is a loopback address: to its task manager, the name `pool` means its own pool. As on machines of their own they
share no pool, for Beam numbers the workers of every task manager from 1, and one would stop the other's. All listens
on localhost, on free ports; every process writes a log of its own into the cluster's folder.

    python -m tests.flink_cluster ADDRESS     # a worker pool there; Beam's own program listens on every address
"""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import yaml
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

from pipelines.runtime.flink import ask
from schemas.children import child_environment

JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
MEMORY = {  # of a task manager; Flink's start scripts, which PyPI's package does not have, would work it out
    "task.heap.size": "512m",
    "task.off-heap.size": "0b",
    "framework.heap.size": "128m",
    "framework.off-heap.size": "128m",
    "managed.size": "256m",  # what a slot sorts in
    "network.min": "64m",
    "network.max": "64m",
    "jvm-metaspace.size": "256m",
    "jvm-overhead.min": "192m",
    "jvm-overhead.max": "192m",
}
OPENED = ("util", "lang", "net", "io", "nio", "lang.reflect", "text", "time", "util.concurrent")  # Java 17 hides them
LOGGING = """
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
appender.out.name = out
appender.out.type = Console
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} %m%n
"""
START_SECONDS = 300
HOSTS = ("127.0.0.2", "127.0.0.3")


class FlinkCluster:
    """Use it as a context: at the end all its processes are dead, with whatever they started.

    flink: where the PyPI package `apache-flink-libraries` was installed. restarts: how often a job is tried again.
    """

    def __init__(self, flink: Path, folder: Path, restarts: int = 4):
        self.folder = folder
        self.task_managers: dict[str, subprocess.Popen] = {}
        self._classes = str(flink.resolve() / "pyflink" / "lib" / "*")
        self._processes: list[subprocess.Popen] = []
        rpc_port, rest_port, self._pool_port = free_ports(3)
        self._master = f"http://localhost:{rest_port}"
        here = "localhost"
        settings = {
            "jobmanager": {"rpc": {"address": here, "port": rpc_port}, "bind-host": here},
            "rest": {"address": here, "bind-address": here, "port": rest_port},
            "taskmanager": {"host": here, "bind-host": here, "numberOfTaskSlots": 1},
            "heartbeat": {"interval": 1000},  # milliseconds; a dead one is missed soon, a busy one has its usual time
            "pekko": {"ask": {"timeout": "60 s"}},
            "restart-strategy": {"type": "fixed-delay", "fixed-delay": {"attempts": restarts, "delay": "1 s"}},
            "io": {"tmp": {"dirs": str(folder)}},
            "web": {"tmpdir": str(folder)},
        }
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        (folder / "log4j2.properties").write_text(LOGGING)

    def __enter__(self) -> "FlinkCluster":
        try:
            self._start_java("jobmanager", ["-Xmx512m"], JOB_MANAGER)
            for host in HOSTS:
                pool = f"{host}:{self._pool_port}"
                self._start(f"pool-{host}", sys.executable, "-m", "tests.flink_cluster", pool)
                self.task_managers[host] = self._start_task_manager(host)
            self._wait_for_slots(len(HOSTS))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        children = self.children()
        for process in (*self._processes, *children):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self._processes:
            process.wait()

    def children(self) -> list[psutil.Process]:
        """The workers, and whatever they started."""
        running = [psutil.Process(process.pid) for process in self._processes if process.poll() is None]
        return [child for process in running for child in process.children(recursive=True)]

    @property
    def arguments(self) -> list[str]:
        """Beam's options for a pipeline that is to run here."""
        return [
            "--runner=FlinkRunner",
            f"--flink_master={self._master}",
            "--flink_submit_uber_jar",
            "--environment_type=EXTERNAL",
            f"--environment_config=pool:{self._pool_port}",
            "--parallelism=2",
        ]

    def restart_task_manager(self, host: str) -> None:
        """`kill -9`, and a new one in its place."""
        self.task_managers[host].kill()
        self.task_managers[host] = self._start_task_manager(host)

    def _start_task_manager(self, host: str) -> subprocess.Popen:
        names = self.folder / f"hosts-{host}"
        names.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{host} pool\n")
        memory = [f"-Dtaskmanager.memory.{name}={size}" for name, size in MEMORY.items()]
        options = ["-Xmx700m", f"-Djdk.net.hosts.file={names}"]
        return self._start_java(f"taskmanager-{host}", options, TASK_MANAGER, "-Dtaskmanager.cpu.cores=1", *memory)

    def _start_java(self, name: str, options: list[str], program: str, *settings: str) -> subprocess.Popen:
        opens = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in OPENED]
        log = f"-Dlog4j.configurationFile={self.folder}/log4j2.properties"
        command = ["java", *options, *opens, log, "-cp", self._classes, program]
        return self._start(name, *command, "--configDir", str(self.folder), *settings)

    def _start(self, name: str, *command: str) -> subprocess.Popen:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # the pool starts `python`
        with open(self.folder / f"{name}.log", "ab") as log:
            environment = child_environment() | {"PATH": path}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def _wait_for_slots(self, count: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._free_slots() < count:
            assert time.monotonic() < deadline, f"no {count} slots after {START_SECONDS} s; see {self.folder}/*.log"
            assert all(process.poll() is None for process in self._processes), f"one ended; see {self.folder}/*.log"
            time.sleep(0.5)

    def jobs(self) -> list[dict]:
        """Name and state, among others, of every job that this cluster was given."""
        return ask(self._master, "jobs/overview")["jobs"]

    def _free_slots(self) -> int:
        with suppress(OSError):
            return ask(self._master, "overview")["slots-available"]
        return 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    server = grpc.server(shared_unbounded_instance())
    pool = BeamFnExternalWorkerPoolServicer(use_process=True)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(sys.argv[1])
    server.start()
    server.wait_for_termination()
