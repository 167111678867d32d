# What a person types. `make demo` and `make test` need nothing but Rust and Debian or Ubuntu.

.PHONY: demo demo-clips demo-model demo-score test check setup setup-cuda setup-test golden families test-export soak release export-env install

# DEMO="--for 60s" ends it by itself.
demo: setup
	cargo build --bin lookout
	target/debug/lookout demo $(DEMO)

# What is right of what it says of scenes that nobody has seen, through the whole daemon: a table.
demo-score: setup export-env
	target/export-env/bin/python models/demo/render.py target/held-out --held-out 12
	cargo build --bin lookout
	target/debug/lookout demo --score --clips target/held-out --for 210s

# Trains the demo's model from nothing and exports it to models/demo/package: hours. A run that was
# stopped goes on; `rm -r target/demo-model` begins anew.
demo-model: export-env
	nice target/export-env/bin/python models/demo/train.py

# The clips of the demo's cameras.
demo-clips: export-env
	target/export-env/bin/python models/demo/render.py
	target/export-env/bin/python models/demo/cases.py

test: golden families test-export
	cargo test

# Formatting, lints and docs, as CI wants them.
check: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

setup:
	@.ci/setup

# onnxruntime with CUDA and NVIDIA's libraries, 2 GB on disk, where the daemon finds them by itself.
setup-cuda: setup
	@.ci/setup cuda

# Exports the checkpoints of a folder of golden data, and holds lookout against all of it.
GOLDEN ?= tests/golden
golden: setup-test export-env
	target/export-env/bin/python models/export/golden.py $(GOLDEN) target/golden-packages
	target/export-env/bin/python models/export/golden.py $(GOLDEN) target/golden-packages-plain --decoder plain
ifneq ($(GOLDEN),tests/golden)
	LOOKOUT_GOLDEN=$(abspath $(GOLDEN)) cargo test --test golden
endif

# Small checkpoints of every model family, their packages, and transformers' answers.
families: setup-test export-env
	target/export-env/bin/python models/export/families.py target/families

test-export: export-env
	target/export-env/bin/python models/export/test_export.py

# Ten minutes of real footage: rate, memory, evidence.
soak: setup-test
	LOOKOUT_SOAK=600 cargo test --test footage -- --nocapture

release: setup
	cargo build --release --bin lookout

# Into /usr, or under DESTDIR for a package; a config that is there stays. Needs root, not Rust.
install:
	@test -x target/release/lookout || { echo "first: make release"; exit 1; }
	install -D target/release/lookout $(DESTDIR)/usr/bin/lookout
	install -D -m 644 target/onnxruntime/libonnxruntime.so $(DESTDIR)/usr/lib/lookout/libonnxruntime.so
	test ! -e target/onnxruntime-cuda/version || \
		{ install -d $(DESTDIR)/usr/lib/lookout/cuda && \
		install -m 644 target/onnxruntime-cuda/*.so* $(DESTDIR)/usr/lib/lookout/cuda; }
	install -D -m 644 systemd/lookout.service $(DESTDIR)/lib/systemd/system/lookout.service
	test -e $(DESTDIR)/etc/lookout/lookout.toml || \
		{ install -d $(DESTDIR)/etc/lookout && \
		sed 's|"../models/|"/usr/share/lookout/|' configs/example.toml >$(DESTDIR)/etc/lookout/lookout.toml; }
	mkdir -p $(DESTDIR)/usr/share/lookout/demo
	cp -R models/demo/package models/demo/package-fp16 models/demo/cameras $(DESTDIR)/usr/share/lookout/demo

setup-test:
	@.ci/setup test

# Python for exporting models; the daemon and the demo never need it.
export-env: setup-test
	@models/export/setup.sh
