# Everyday commands; `make` alone lists them. They use the active environment (see CONTRIBUTING.md).
.DEFAULT_GOAL := help
.PHONY: help test slow lint generate bench

help: ## list the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

test: ## the default suite; cluster tests run where KUBEBUILDER_ASSETS is set (docs/development.md)
	pytest

slow: ## training runs of minutes, compared with the README's figures
	pytest -m "slow and not long"

lint: ## format, lint, types and import contracts
	ruff format --check .
	ruff check .
	mypy api operator cli trainer tools benchmarks
	lint-imports

generate: ## write what is generated: the CRD and the reference pages
	python -m tools.generate

bench: ## every benchmark in its quick form; each ends with one JSON line
	@set -e; for script in $(wildcard benchmarks/*.py); do echo "$$script"; python $$script --quick; done
