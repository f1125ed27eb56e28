.DEFAULT_GOAL := help
SOAK ?= 50
.PHONY: help check format test soak demo pins wheel built instrumentations collector nannyml docs audit fuzz pictures

help: ## show this
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-8s %s\n", $$1, $$2}'

check: ## lint, types, rules of the house
	uv run ruff check .
	uv run ruff format --check .
	uv run mypy
	uv run lint-imports

format: ## format the code
	uv run ruff check --fix .
	uv run ruff format .

test: ## run all tests
	uv run pytest

soak: ## what takes hours: SOAK times the kills, examples and seeds of the suite, every fault of the demo
	SOAK=$(SOAK) uv run pytest -m "soak or scaled or hypothesis" --timeout 20000

audit: ## ask OSV for known vulnerabilities of every pinned package (needs https://api.osv.dev)
	uv audit

FUZZ ?= 60
fuzz: ## FUZZ minutes of every parser, guided by coverage (Linux; atheris 3.0.0 is the last one for Python 3.11)
	uv run --with atheris==3.0.0 python -m tests.fuzz --minutes $(FUZZ)

demo: ## watch a bad version being rolled back
	uv run lastgood demo

pins: ## resolve anew and write all transitive pins into pyproject.toml
	uv run --no-project python tools/pins.py

wheel: ## build the wheel through the sdist
	uv build

built: ## build the committed rules, boards, settings schema and reference anew
	uv run lastgood rules build --out conf/prometheus
	uv run lastgood dashboards build --out dashboards/built
	uv run lastgood config schema --out conf/lastgood.schema.json
	uv run python -m tools.reference docs/reference
	uv run python -m tools.vocabulary

pictures: ## make the screenshots of docs/images anew, by the tests that walk the pages
	PICTURES_OF_LASTGOOD=docs/images uv run pytest -n 0 tests/real/test_chromium.py tests/real/test_weeks_chromium.py

docs: ## build the documentation site into build/site
	uv run mkdocs build

instrumentations: ## install the packages whose spans tests/instrumentations reads, beside our own environment
	uv venv --quiet --clear --python 3.11 .instrumentations
	uv --directory / pip install --quiet --python $(CURDIR)/.instrumentations/bin/python --requirement $(CURDIR)/tests/instrumentations/requirements.txt
	mkdir -p .instrumentations/node && cp tests/instrumentations/package.json .instrumentations/node/
	npm install --silent --no-audit --no-fund --prefix .instrumentations/node

nannyml: ## install NannyML, which benchmarks.performance compares with, beside our own environment
	uv venv --quiet --clear --python 3.11 .nannyml
	uv --directory / pip install --quiet --python $(CURDIR)/.nannyml/bin/python nannyml==0.13.1 statsmodels "pandas<3" "numpy<2.1" "scikit-learn<1.6"

collector: ## build the OpenTelemetry Collector that benchmarks.ingest compares with (needs Go)
	bash benchmarks/collector.sh
