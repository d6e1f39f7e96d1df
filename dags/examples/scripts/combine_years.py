# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib>=3.9,<4"]
# ///
"""Draw the rain of several years: `combine_years.py JSON` takes a list of summaries and writes rain.png."""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

summaries = sorted(json.loads(sys.argv[1]), key=lambda summary: summary["year"])
figure, axes = plt.subplots(figsize=(8, 4))
for summary in summaries:
    axes.plot(range(1, 13), summary["monthly_rain_mm"], marker="o", label=str(summary["year"]))
axes.set(title="Rain in Seattle", xlabel="month", ylabel="mm", xticks=range(1, 13))
axes.legend()
figure.savefig("rain.png", dpi=100)
total_mm = sum(summary["rain_mm"] for summary in summaries)
print(json.dumps({"years": [summary["year"] for summary in summaries], "rain_mm": round(total_mm, 1)}))
