# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
INSTALLED := $(VENV)/.installed

.PHONY: demo test quick slow-test lint clean

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/genimg train --config configs/gan_digits_conditional.py --workdir $(DEMO)
	$(BIN)/genimg evaluate --workdir $(DEMO) --suite full --config.evaluate.features=pixels,classifier \
		--config.evaluate.classifier_tests=False
	$(BIN)/genimg sample --workdir $(DEMO) --count 100
	$(BIN)/genimg report --workdir $(DEMO)

SHARED_OUT := --numprocesses auto --maxprocesses 4 --dist loadgroup

test: $(INSTALLED)
	$(BIN)/python -m pytest $(SHARED_OUT)

# Under two minutes: the mathematics, and the contract of one family.
UNITS := objectives* samplers* metrics* networks_layers networks_runtime quantizers config
quick: $(INSTALLED)
	$(BIN)/python -m pytest $(SHARED_OUT) -k 'not test_contract.py or vae' tests/test_contract.py $(UNITS:%=tests/test_%.py)

slow-test: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) runs build *.egg-info
