.PHONY: test check
# Every test, from nothing.
test:
	scripts/bootstrap main
	.venv/bin/python -m pytest
# Format, lint, types, import contracts.
check:
	scripts/bootstrap main
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
