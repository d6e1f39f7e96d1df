"""Summarise a year of daily weather: `summarise_year.py YEAR.csv` writes summary.csv and prints JSON."""

import json
import sys

import pandas as pd

days = pd.read_csv(sys.argv[1], parse_dates=["date"])
months = days.groupby(days["date"].dt.month).agg(
    mean_max_celsius=("temp_max", "mean"),
    mean_min_celsius=("temp_min", "mean"),
    rain_mm=("precipitation", "sum"),
)
months.index.name = "month"
months.round(2).to_csv("summary.csv")
print(
    f"{len(days)} days from {days['date'].min():%Y-%m-%d} to {days['date'].max():%Y-%m-%d}", file=sys.stderr
)
print(
    json.dumps(
        {
            "year": int(days["date"].dt.year.iloc[0]),
            "days": len(days),
            "rain_mm": round(float(days["precipitation"].sum()), 1),
            "mean_max_celsius": round(float(days["temp_max"].mean()), 2),
            "monthly_rain_mm": [round(float(value), 1) for value in months["rain_mm"]],
        }
    )
)
