"""The run's first report: one HTML file with tables, figures, parameters, versions and times.

It needs nothing but the file: figures are embedded. All text is escaped.

Source: our choice (DESIGN 6, "nbconvert + Jinja2 (report)"; here Jinja2 alone).
"""

import base64
from pathlib import Path
from typing import Any

from finer1_lib.chain import STAGES
from finer1_lib.contenders import label_of
from finer1_lib.files import atomic_write_text, read_json
from finer1_lib.signatures import is_current
from finer1_lib.summary import CATEGORIES, KEYS, labels_in, main_table

_TEMPLATE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Fine-R1 kit: run {{ run }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
thead th { border-bottom: 2px solid #888 } figure { margin: 1rem 0 2rem } img { max-width: 100% }
figcaption, .note { color: #555; font-size: .9rem } code { font-size: .9em } .scroll { overflow-x: auto }
</style></head><body>
<h1>Run {{ run }}</h1>
<p class="note">Numbers of this run only; they are never to be read against the paper's.
{% if absent %}Not in this report, because not finished or made from other inputs: {{ absent|join(", ") }}.
{% endif %}</p>
{% macro table(titles, rows) %}<div class="scroll"><table><thead><tr>
{% for title in titles %}<th>{{ title }}</th>{% endfor %}</tr></thead><tbody>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endmacro %}
{% for scorer, titles, rows in main %}
<h2>{{ "Main table" if loop.first else "The same" }}, {{ scorer }} scorer</h2>
<p class="note">Percent with 95 % interval, unweighted average over super-categories. Closed world: accuracy;
open world: text inclusion. n ={% for kind, n in pictures.items() %} {{ n }} {{ kind }}{% endfor %} pictures; one
training seed; intervals resample sub-categories.</p>
{{ table(titles, rows) }}{% endfor %}
{% for stage in stages|reverse %}{% if stage.figures %}<h2>{{ stage.name }}</h2>
{% for figure in stage.figures %}<figure>
<img alt="{{ figure.name }}" src="data:image/png;base64,{{ figure.data }}">
<figcaption>{{ figure.name }} (numbers: {{ stage.name }}/figures/{{ figure.name }}.csv)</figcaption></figure>
{% endfor %}{% endif %}{% endfor %}
{% if probing %}<h2>Probing</h2>
<p class="note">Averages over super-categories; each of them apart stands in the rows of summary.json below.</p>
{{ table(probing_titles, probing) }}{% endif %}
<h2>Cost</h2>
{{ table(["stage", "seconds", "sessions", "peak memory, GB", "device", "finished"], costs) }}
<h2>Parameters</h2>
{% for stage in stages %}<details><summary>{{ stage.name }}</summary>
{{ table(["name", "value"], stage.parameters) }}
</details>{% endfor %}
<h2>Versions</h2>{{ table(["what", "version"], versions) }}
{% if rows %}<details><summary>All {{ rows|length }} rows of summary.json</summary>
{{ table(keys, rows) }}</details>{% endif %}
</body></html>
"""


def write_report(run_dir: Path, rows: list[dict[str, Any]]) -> Path:
    """Write report.html from summary.json's rows and the records of the finished stages.

    Args:
        run_dir: folder of the run.
        rows: of summary.json.
    """
    import jinja2

    records = {
        stage: read_json(run_dir / stage / "stage.json") for stage in STAGES if is_current(run_dir, stage)
    }
    labels = labels_in(run_dir)
    main = [(scorer, *main_table(rows, scorer, labels)) for scorer in ("strict", "official")]
    probing = [
        [
            row["metric"],
            label_of(row["model"], labels),
            row["categories"],
            row["variant"] or "",
            _number(row),
            row["n"],
        ]
        for row in rows
        if row["setting"] == "probing" and row["dataset"] == "average"
    ]
    counts = {row["categories"]: row["n"] for row in rows if row["scorer"] and row["dataset"] == "average"}
    pictures = {kind: counts[kind] for kind in CATEGORIES if kind in counts}
    last = list(records.values())[-1] if records else {}
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(_TEMPLATE).render(
        run=run_dir.name,
        absent=[stage for stage in STAGES if stage not in records],
        main=[(scorer, titles, table) for scorer, titles, table in main if table],
        probing=probing,
        pictures=pictures,
        probing_titles=["metric", "model", "categories", "variant", "value", "n"],
        stages=[_stage(run_dir, stage, record) for stage, record in records.items()],
        costs=[_cost(stage, record) for stage, record in records.items()],
        versions=[*last.get("versions", {}).items(), ("git commit", last.get("git_commit") or "no checkout")],
        keys=KEYS,
        rows=[["" if row[key] is None else row[key] for key in KEYS] for row in rows],
    )
    atomic_write_text(run_dir / "report.html", text)
    return run_dir / "report.html"


def _stage(run_dir: Path, stage: str, record: dict[str, Any]) -> dict[str, Any]:
    figures = sorted((run_dir / stage / "figures").glob("*.png"))
    return {
        "name": stage,
        "parameters": list(record["parameters"].items()),
        "figures": [
            {"name": file.stem, "data": base64.b64encode(file.read_bytes()).decode("ascii")}
            for file in figures
        ],
    }


def _cost(stage: str, record: dict[str, Any]) -> list[Any]:
    memory = ", ".join(f"{name} {value:.2f}" for name, value in record["peak_memory_gb"].items())
    return [stage, record["seconds"], record["opened"], memory, record["device"], record["written"]]


def _number(row: dict[str, Any]) -> str:
    """Probing rows are not all percentages: as they are, with their interval."""
    if row["value"] is None:
        return "-"
    interval = "" if row["low"] is None or row["high"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}{interval}"
