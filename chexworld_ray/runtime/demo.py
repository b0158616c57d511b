"""`chexworld demo`: the five steps on phantoms, one after the other, each as a user would call it."""

from chexworld_ray import recipes
from chexworld_ray.config import RunSettings, from_dict, to_dict
from chexworld_ray.evaluation.results_file import NAME as RESULTS
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.phantoms.dataset import TABLE, write_phantoms
from chexworld_ray.reports.data_card import describe_manifest
from chexworld_ray.reports.html import write_report
from chexworld_ray.reports.text import results_table
from chexworld_ray.runtime.cluster import connect, say
from chexworld_ray.runtime.evaluate import evaluate
from chexworld_ray.runtime.ingest import ingest
from chexworld_ray.runtime.pretrain import pretrain
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.storage import exists, fetch, place, write_bytes

PHANTOM_SIZE = 256
RUN = "world-model"


def demo(out_url: str, images: int, seed: int) -> str:
    """Write phantoms, shards, a run, results.parquet and report.html below `out_url`; returns the report's URL."""
    out = place(out_url)
    phantoms, shards = out / "phantoms", out / "shards"
    say(f"1/5 phantoms: {images} radiographs of {images // 2} imaginary patients")
    if not exists(phantoms / TABLE):
        write_phantoms(phantoms, images, seed, PHANTOM_SIZE)
    connect(out_url)
    say("2/5 ingest")
    source = read_source(phantoms.url, labels=TABLE)
    say(describe_manifest(ingest(source, shards.url, WriteSettings(row_group_images=64))))
    say("3/5 pretrain")
    settings = recipes.demo()
    record = to_dict(settings)
    record["science"]["seed"] = seed
    run = pretrain(from_dict(RunSettings, record, "demo"), [shards.url], (out / "runs").url, RUN)
    say("4/5 evaluate")
    rows = evaluate([run.root.url], shards.url, None, EvaluationSettings(checkpoints="all"))
    say(results_table([row for row in rows if row.task.endswith("/mean")]))
    say("5/5 report")
    write_bytes(out / RESULTS, fetch(run.root / RESULTS))
    report = write_report(run, (out / "report.html").url)
    say(f"done: open {report}")
    return report
