# What a person types. Each target installs what it needs.

.PHONY: demo test pictures chaos soak scenes fuzz bench lint

AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# How long each target of `make fuzz` runs.
FUZZ_SECONDS ?= 60

# Three Redis servers with the actors in them, and the balancer on http://127.0.0.1:1310/
demo:
	bash load_data.sh
	cargo run --release --locked --bin lb

# Everything, with real Redis servers on free ports.
test:
	bash load_data.sh --install
	bash tests/clients/install.sh
	command -v curl >/dev/null || $(AS_ROOT) apt-get install -y curl
	cargo test --locked

# The pictures in docs/pictures, from the running program; takes six minutes.
pictures:
	bash load_data.sh --install
	bash tests/clients/install.sh
	cargo build --quiet --release --locked
	NODE_PATH=target/test-clients/node_modules target/test-clients/node docs/pictures.js

# Servers fail in every way for minutes, while clients compare every reply. LB_TEST_SEED repeats a run.
chaos:
	bash load_data.sh --install
	LB_CHAOS_SECONDS=$${LB_CHAOS_SECONDS:-300} cargo test --locked --test suite -- --nocapture chaos::

# 500 clients, random pipelines and HTTP requests, every byte of so many replies compared, while clients
# leave in the worst moments. For SOAK_SECONDS at most, an hour if it is not set.
SOAK_REPLIES ?= 100000000
soak:
	bash load_data.sh --install
	command -v python3 >/dev/null || $(AS_ROOT) apt-get install -y python3
	cargo build --release --locked --bin lb
	cargo build --release --locked --manifest-path bench/load/Cargo.toml --target-dir target/bench/load
	SOAK_REPLIES=$(SOAK_REPLIES) python3 bench/soak.py

# Clients that ask for slow reads, kill servers or run scripts without end, servers that freeze or lose
# their keys: each beside clients that compare every reply. Twenty minutes for all;
# SCENES="slow-sort frozen" for some, SCENES_SECONDS for how long an event lasts.
SCENES ?=
SCENES_SECONDS ?= 60
scenes:
	bash load_data.sh --install
	command -v python3 >/dev/null || $(AS_ROOT) apt-get install -y python3
	cargo build --release --locked --bin lb
	python3 bench/scenes.py --seconds $(SCENES_SECONDS) $(SCENES)

# Bytes at random, and ever more of those that reach new code, against all that reads bytes of
# others. Without a sanitizer, as those need a nightly compiler; there is no unsafe code here.
fuzz:
	command -v c++ >/dev/null || $(AS_ROOT) apt-get install -y g++
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz@0.13.2
	@set -e; for target in $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))); do \
		mkdir -p fuzz/found/$$target; \
		echo "== $$target, for $(FUZZ_SECONDS) s"; \
		cargo fuzz run --sanitizer none $$target fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=512 \
			-verbosity=0 -print_final_stats=1 \
		|| { echo "make fuzz: $$target failed; the input and how to repeat it are above" >&2; exit 1; }; \
	done

# Beside other proxies, on this machine; writes docs/BENCHMARKS.md. Takes under 20 minutes, less with
# BENCH_SECONDS=1 or with BENCH_ONLY=resp,http (or half, idle, seed, scaling, start).
bench:
	bash bench/install.sh
	cargo build --release --locked
	cargo build --release --locked --manifest-path bench/load/Cargo.toml --target-dir target/bench/load
	python3 bench/bench.py

lint:
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo fmt --check --manifest-path bench/load/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet
