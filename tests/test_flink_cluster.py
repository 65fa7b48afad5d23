"""A squad on a real Flink cluster: a task manager dies, the tables are those of the local runner; the real vLLM there.

make test-flink
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import yaml

from schemas.command_line import DONE, INTERRUPTED, WRONG_USE
from schemas.tables import RESPONSES
from tests.flink_cluster import HOSTS, FlinkCluster
from transforms.generation import cache_index
from transforms.generation.response_cache import FLUSH_ROWS
from transforms.tables.write import write_tables

ROOT = Path(__file__).parent.parent
LOG = "ALIGNBEAM_TEST_LOG"
INSPECTORS = {"long": "scripted:tests.scripted_models:lengths", "open": "scripted:tests.scripted_models:vowels"}
SHARDS, SHARD_ROWS = 6, 500
DELAY_SECONDS, THREADS = 0.02, 4  # a request of a scripted model, and how many at once
CACHED_AT_KILL = 1200

pytestmark = [pytest.mark.slow, pytest.mark.flink, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, flink_jar):
    home = Path(os.environ.get("ALIGNBEAM_FLINK_HOME") or ROOT / ".flink")
    if not (home / "pyflink").is_dir():
        pytest.skip(f"no Flink in {home}; run make test-flink, or set ALIGNBEAM_FLINK_HOME")
    flink_jar()
    folder = tmp_path_factory.mktemp("flink")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(LOG, str(folder / "asked.log"))  # of what the workers on the cluster ask
        with FlinkCluster(home, folder / "cluster") as started:
            yield started


@pytest.fixture
def on_cluster(cluster, flink_jar):
    return ["--", *cluster.arguments, f"--flink_job_server_jar={flink_jar()}"]


def start(*arguments: str | Path, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines.commands.align", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a script starts with `&`
    )


def finish(process: subprocess.Popen, code: int = DONE) -> str:
    _, said = process.communicate()
    assert process.returncode == code, said[-3000:]
    return said


def write_corpus(folder: Path, shards: int, shard_rows: int) -> Path:
    folder.mkdir()
    for shard in range(shards):
        numbers = range(shard * shard_rows, (shard + 1) * shard_rows)
        rows = [{"question": f"q{n}?", "response": "bcd" * (n % 40 + 1) + "aei" * (n % 7)} for n in numbers]
        (folder / f"{shard}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def write_table(folder: Path, shards: int, shard_rows: int) -> Path:
    rows = [
        {"id": f"{n:03d}", "question": f"q{n}?", "response": "bcd" * (n % 9 + 1)} for n in range(shards * shard_rows)
    ]
    write_tables(str(folder), {"responses": pa.Table.from_pylist(rows, RESPONSES)}, {"stage": "made"}, shard_rows)
    return folder


def write_squad(path: Path, **aligners: dict) -> Path:
    members = [{"criterion": name, "inspector": INSPECTORS[name], **aligner} for name, aligner in aligners.items()]
    path.write_text(yaml.safe_dump({"members": members}))
    return path


def scripted(name: str, delay_seconds: float = DELAY_SECONDS) -> dict:
    settings = {"function": f"tests.scripted_models:{name}", "delay_seconds": delay_seconds, "threads": THREADS}
    return {"aligner": name, "engine": {"engine": "scripted", "args": settings}}


def tables(output: Path) -> dict[str, bytes]:
    """The bytes of what aligning wrote, by file."""
    return {str(path.relative_to(output)): path.read_bytes() for path in output.glob("align/*/*/*.parquet")}


def asked(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def cached(output: Path) -> set[str]:
    """The requests whose answers are on disk: a scripted answer names its own."""
    texts = []
    for name in cache_index.segment_names(str(output / "cache")):
        with cache_index.open_segment(str(output / "cache"), name) as segment:
            for number in range(segment.num_record_batches):
                texts += segment.get_batch(number).column("text").to_pylist()
    return {text.split()[-2] for text in texts}


def test_a_task_manager_dies_and_the_tables_are_those_of_the_local_runner(tmp_path, cluster, on_cluster):
    corpus = write_corpus(tmp_path / "corpus", SHARDS, SHARD_ROWS)
    squad = write_squad(tmp_path / "squad.yaml", long=scripted("first"), open=scripted("second"))
    command = [corpus, "--squad", squad, "-o"]
    finish(start(*command, tmp_path / "local", **{LOG: str(tmp_path / "local.log")}))

    log, output = Path(os.environ[LOG]), tmp_path / "cluster"
    others = len(asked(log))
    process = start(*command, output, *on_cluster)
    while len(known := cached(output)) < CACHED_AT_KILL:
        assert process.poll() is None, finish(process)
        time.sleep(0.2)
    before = len(asked(log)) - others
    cluster.restart_task_manager(HOSTS[0])
    finish(process)

    assert tables(output) == tables(tmp_path / "local")
    assert len(tables(output)) == 2 * SHARDS
    requests = asked(log)[others:]
    assert set(requests) == set(asked(tmp_path / "local.log")) == cached(output)
    assert len(requests) > before
    assert not known & set(requests[before:])
    # A job that restarts ends every worker: each may lose what it worked on, and what it had not written yet.
    again = sum(times - 1 for times in Counter(requests).values())
    assert 0 < again <= len(HOSTS) * (2 * THREADS + FLUSH_ROWS)


def test_the_real_engine_with_two_adapters(tmp_path, cluster, on_cluster):
    pytest.importorskip("vllm")
    from peft import LoraConfig, get_peft_model
    from random_model import write_random_model
    from transformers import AutoModelForCausalLM

    base = write_random_model(tmp_path / "base")
    members = {}
    for name, rank in (("long", 4), ("open", 16)):
        lora = LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(tmp_path / name)
        members[name] = {"aligner": name, "engine": {"args": {"dtype": "float32", "max_num_seqs": 8}}}
    corpus = write_table(tmp_path / "corpus", 4, 8)
    squad = write_squad(tmp_path / "squad.yaml", **members)
    command = [corpus, "--squad", squad, "--set", "sampling.max_tokens=24", "-o"]
    finish(start(*command, tmp_path / "local"))

    process, hosts = start(*command, tmp_path / "cluster", *on_cluster), set()
    while process.poll() is None:
        hosts |= {child for child in cluster.children() if "transforms.engines.vllm_host" in command_line(child)}
        time.sleep(0.5)
    finish(process)
    assert hosts
    _, alive = psutil.wait_procs(hosts, timeout=60)
    assert not alive
    assert tables(tmp_path / "cluster") == tables(tmp_path / "local")


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_what_a_worker_refuses_is_said_plainly(tmp_path, on_cluster):
    corpus = write_table(tmp_path / "corpus", 1, 4)
    squad = write_squad(tmp_path / "squad.yaml", long=scripted("refused"))
    said = finish(start(corpus, "--squad", squad, "-o", tmp_path / "out", *on_cluster), WRONG_USE)
    assert "error: http://gone: no server answers there" in said
    assert "Traceback" not in said


def test_an_interrupted_command_ends_its_job(tmp_path, cluster, on_cluster):
    table = write_table(tmp_path / "table", 4, 2000)
    squad = write_squad(tmp_path / "squad.yaml", long=scripted("first", delay_seconds=0.2))  # minutes of work
    before, others = len(asked(Path(os.environ[LOG]))), {job["jid"] for job in cluster.jobs()}
    process = start(table, "--squad", squad, "-o", tmp_path / "out", *on_cluster)
    while len(asked(Path(os.environ[LOG]))) < before + 100:
        assert process.poll() is None, finish(process)
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert "the same command goes on from there" in finish(process, INTERRUPTED)
    [state] = [job["state"] for job in cluster.jobs() if job["jid"] not in others]
    assert state in ("CANCELLING", "CANCELED")
