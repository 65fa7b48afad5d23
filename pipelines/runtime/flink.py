"""Flink: what must be there before a pipeline is sent to it, its end with ours, and room to sort in one process."""

import json
import os
import shutil
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.utils.subprocess_server import JavaJarServer

from schemas.errors import StageError, UsageError

IN_PROCESS = ("[auto]", "[local]")
MEMORY = "2g"
ANSWER_SECONDS = 20.0
UNANSWERED = (OSError, HTTPException, ValueError, LookupError, TypeError)  # also by something that is no Flink
ENDED = ("FINISHED", "FAILED", "CANCELED", "CANCELLING")


def check_flink(options: PipelineOptions) -> None:
    """Raise UsageError where these options ask for Flink, and it lacks something.

    It needs its cluster, Beam's job server and Java. Beam would try to download the job server, and to reach the
    cluster, for minutes, and fail with a trace.
    """
    if options.view_as(StandardOptions).runner != "FlinkRunner" or options.view_as(PortableOptions).job_endpoint:
        return
    flink = options.view_as(FlinkRunnerOptions)
    version = flink.flink_version
    master = master_of(options)
    of_cluster = version_of(master) if master else ""
    if of_cluster and flink.flink_submit_uber_jar:
        version = of_cluster
    elif not shutil.which(java := options.view_as(JobServerOptions).job_server_java_launcher):
        raise UsageError(f"--runner=FlinkRunner: there is no {java} here; install Java 11 or newer")
    check_job_server(flink.flink_job_server_jar, version)


def master_of(options: PipelineOptions) -> str:
    """Return the REST address of the cluster that these options name.

    It is empty where Flink runs here, or not at all.
    """
    master = options.view_as(FlinkRunnerOptions).flink_master
    if options.view_as(StandardOptions).runner != "FlinkRunner" or master in IN_PROCESS:
        return ""
    return FlinkRunner.add_http_scheme(master).rstrip("/")


def version_of(master: str) -> str:
    """Return the cluster's Flink version, major and minor; UsageError where none answers."""
    try:
        return ".".join(ask(master, "config")["flink-version"].split(".")[:2])
    except UNANSWERED as error:
        reason = getattr(error, "reason", error)
        raise UsageError(f"--flink_master={master}: no Flink answers at this REST address ({reason})") from error


def ask(master: str, path: str, method: str = "GET") -> Any:
    """Return what the cluster's REST interface answers; one of UNANSWERED is raised where it does not."""
    request = urllib.request.Request(f"{master}/v1/{path}", method=method)
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as page:
        return json.load(page)


def check_job_server(jar: str | None, version: str) -> None:
    """Raise UsageError where Beam's job server is neither named nor where Beam looks.

    It is named as a file or a URL.
    """
    if jar is None:
        url = JavaJarServer.path_to_beam_jar(f":runners:flink:{version}:job-server:shadowJar")
        cached = Path(JavaJarServer.JAR_CACHE, os.path.basename(url))
        if not (cached.is_file() or os.path.isfile(url)):
            raise UsageError(
                f"--runner=FlinkRunner: Beam's job server for Flink {version} is not here; nothing is downloaded "
                f"unasked. Get it from {url} and name it: -- --flink_job_server_jar=FILE"
            )
    elif "://" not in jar and not os.path.isfile(jar):
        raise UsageError(f"--flink_job_server_jar={jar}: no such file")


@contextmanager
def cancelled_if_interrupted(options: PipelineOptions) -> Iterator[None]:
    """End the job on the cluster, too, on a KeyboardInterrupt within the block.

    It would go on without us. Beam's own way asks for an address that Flink does not have; so the job gets a name by
    which it is found.
    """
    if not (master := master_of(options)):
        yield
        return
    named = options.view_as(GoogleCloudOptions)
    named.job_name = f"{named.job_name or 'alignbeam'}-{uuid.uuid4().hex[:8]}"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        try:
            for job in ask(master, "jobs/overview")["jobs"]:
                if job["name"] == named.job_name and job["state"] not in ENDED:
                    ask(master, f"jobs/{job['jid']}?mode=cancel", "PATCH")
        except UNANSWERED as error:
            raise StageError(f"{master}: job {named.job_name} goes on; cancel it there ({error})") from interrupt
        raise


@contextmanager
def roomy_flink(options: PipelineOptions) -> Iterator[None]:
    """Give a Flink that Beam starts here MEMORY to sort in, within the block.

    Flink makes one record of all that meets under a key, and it must fit a sorter's share, which by default is 3 MB.
    A FLINK_CONF_DIR of the user's own wins.
    """
    of_flink = options.view_as(FlinkRunnerOptions)
    is_ours = options.view_as(StandardOptions).runner == "FlinkRunner" and of_flink.flink_master in IN_PROCESS
    if not is_ours or "FLINK_CONF_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="alignbeam-flink-") as folder:
        Path(folder, "config.yaml").write_text(f"taskmanager: {{memory: {{managed: {{size: {MEMORY}}}}}}}\n")
        os.environ["FLINK_CONF_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["FLINK_CONF_DIR"]
