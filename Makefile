.PHONY: demo test check bench report soak airflow clean

# The whole way on real data, from nothing: a script, a batch, an Airflow DAG, and what they cost.
demo:
	scripts/bootstrap main airflow3
	.venv/bin/python scripts/demo.py

# Every test, both Airflows and a real browser included, from nothing.
test:
	scripts/bootstrap all
	.venv/bin/python scripts/run_tests.py

# Format, lint, types, import contracts, documentation links.
check:
	scripts/bootstrap main
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python scripts/check_docs.py

# The tables of benchmarks/: ratios taken in one run on this machine.
bench:
	scripts/bootstrap main
	.venv/bin/python benchmarks/api_throughput.py
	.venv/bin/python benchmarks/command_line.py
	.venv/bin/python benchmarks/batch.py
	.venv/bin/python benchmarks/claims.py
	.venv/bin/python benchmarks/idle.py
	.venv/bin/python benchmarks/bulk_submit.py

# The old performance report's rows, then and now, from a fresh server.
report:
	scripts/bootstrap main
	.venv/bin/python scripts/report.py

# The fault and load programs for a long time, and the table of Airflow's faults on both majors.
soak:
	scripts/bootstrap all
	.venv/bin/python scripts/soak.py

# Airflow 3 with the provider, the cost view and an embedded server with a month of example spend.
airflow:
	scripts/bootstrap main airflow3
	.venv/bin/python scripts/airflow_demo.py

# Everything that the other targets made.
clean:
	rm -rf .venv .venv-airflow2 .venv-airflow3 .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
