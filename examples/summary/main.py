"""Sums up numbers, and keeps the table as a file of the run."""

import csv
import io
import statistics


def handler(payload, context):
    rows = payload.get("rows") or [{"name": "a", "value": 1}, {"name": "b", "value": 2}, {"name": "c", "value": 6}]
    values = [float(row["value"]) for row in rows]
    print(f"{len(values)} rows, {context.get_remaining_time_ms()} ms left")

    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=["name", "value"])
    writer.writeheader()
    writer.writerows({"name": row["name"], "value": row["value"]} for row in rows)
    context.write_artifact("rows.csv", table.getvalue(), "text/csv")

    mean, median = statistics.fmean(values), statistics.median(values)
    return {"count": len(values), "sum": sum(values), "mean": mean, "median": median}
