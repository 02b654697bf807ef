# Each target installs the programs that it needs.

.PHONY: demo test deb test-deb pictures screens chaos soak cache-soak scenes fuzz bench compare lint

AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Duration of each fuzz target.
FUZZ_SECONDS ?= 60

# Starts three Redis servers with the rows of actors.csv, and the balancer on http://127.0.0.1:1310/.
demo:
	bash load_data.sh
	env -u LB_BACKENDS cargo run --release --locked --bin lb

# Runs all tests, with real Redis servers on free ports: one more at a time than there are processors, because tests wait
# as much as they compute.
test:
	bash load_data.sh --install
	bash tests/clients/install.sh
	bash tests/unpack.sh
	for program in curl openssl haproxy; do \
		command -v $$program >/dev/null || $(AS_ROOT) apt-get install -y $$program; done
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((1 + $$(getconf _NPROCESSORS_ONLN)))} cargo test --locked

# Builds the Debian package, target/debian/redis-lb_*.deb.
deb:
	bash contrib/debian/build.sh

# Installs, runs, upgrades, removes and purges that package in a fresh Debian root.
test-deb: deb
	for program in debootstrap lintian mandoc; do \
		command -v $$program >/dev/null || $(AS_ROOT) apt-get install -y $$program; done
	$(AS_ROOT) bash tests/package.sh

# Takes the screenshots in docs/pictures from the running program. Takes six minutes.
pictures:
	bash load_data.sh --install
	bash tests/clients/install.sh
	cargo build --quiet --release --locked
	NODE_PATH=target/test-clients/node_modules target/test-clients/node docs/pictures.js

# Takes pictures of the pages in every scene, with real servers: target/screens/index.html shows them all. Fails if
# axe-core finds something, or if a page is too wide. Takes four minutes; SCREENS="busy syncing" takes some of them.
SCREENS ?=
screens:
	bash load_data.sh --install
	bash tests/clients/install.sh
	cargo build --quiet --release --locked
	NODE_PATH=target/test-clients/node_modules target/test-clients/node docs/screens.js $(SCREENS)

# Breaks servers in every way for five minutes, while clients compare every reply. LB_TEST_SEED repeats a
# run, LB_CHAOS_SECONDS sets its duration.
chaos:
	bash load_data.sh --install
	LB_CHAOS_SECONDS=$${LB_CHAOS_SECONDS:-300} cargo test --locked --test suite -- --nocapture chaos::

# Compares every byte of SOAK_REPLIES replies to the random pipelines and HTTP requests of 500 clients, which
# disconnect at the worst moments. Ends after SOAK_SECONDS (default 3600) at the latest. SOAK_TLS=1 has TLS on both sides.
SOAK_REPLIES ?= 100000000
soak:
	bash load_data.sh --install
	command -v python3 >/dev/null || $(AS_ROOT) apt-get install -y python3
	cargo build --release --locked --bin lb
	cargo build --release --locked --manifest-path bench/load/Cargo.toml --target-dir target/bench/load
	SOAK_REPLIES=$(SOAK_REPLIES) python3 bench/soak.py

# Reads CACHE_READS times through the cache, by 50 clients, while the versions of 1000 keys are raised in every way on
# a primary with two replicas. Fails if a reply is older than one that its session has seen, or than promised. Ends after
# CACHE_SECONDS (default 3600) at the latest. CACHE_FAULTS=1 ends, holds up and black-holes tracking connections,
# and freezes servers; CACHE_SIZE is the size of the cache.
CACHE_READS ?= 100000000
cache-soak:
	bash load_data.sh --install
	command -v python3 >/dev/null || $(AS_ROOT) apt-get install -y python3
	cargo build --release --locked --bin lb
	cargo build --release --locked --manifest-path bench/load/Cargo.toml --target-dir target/bench/load
	CACHE_READS=$(CACHE_READS) python3 bench/cache_soak.py

# Plays scenes beside regular clients that compare every reply: slow reads, commands that kill servers,
# endless scripts, servers that freeze or lose their keys, slow links. Takes half an hour; SCENES="slow-sort frozen"
# plays some of them, SCENES_SECONDS sets the duration of an event.
SCENES ?=
SCENES_SECONDS ?= 60
scenes:
	bash load_data.sh --install
	command -v python3 >/dev/null || $(AS_ROOT) apt-get install -y python3
	cargo build --release --locked --bin lb
	python3 bench/scenes.py --seconds $(SCENES_SECONDS) $(SCENES)

# Fuzzes every parser of bytes from clients and servers. Runs without a sanitizer, because sanitizers need a
# nightly compiler and the program has no unsafe code.
fuzz:
	command -v c++ >/dev/null || $(AS_ROOT) apt-get install -y g++
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz@0.13.2
	@set -e; for target in $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))); do \
		mkdir -p fuzz/found/$$target; \
		echo "== $$target, for $(FUZZ_SECONDS) s"; \
		cargo fuzz run --sanitizer none $$target fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=512 \
			-verbosity=0 -print_final_stats=1 \
		|| { echo "make fuzz: $$target failed; see above for the input and how to repeat it" >&2; exit 1; }; \
	done

# Measures redis-lb and other proxies on this machine and writes docs/BENCHMARKS.md. Takes about 45 minutes;
# less with BENCH_SECONDS=1 or BENCH_ONLY=resp,http (parts: resp, http, open, cache, growth, idle, seed, scaling, start, tls).
bench:
	bash bench/install.sh
	cargo build --release --locked
	cargo build --release --locked --manifest-path bench/load/Cargo.toml --target-dir target/bench/load
	python3 bench/bench.py

# Compares two builds of lb in one run, to find regressions: make compare BEFORE=/tmp/lb-before. AFTER is the
# current tree by default. A round takes 20 seconds.
BEFORE ?= $(error BEFORE must name the lb program to compare with)
AFTER ?= target/release/lb
ROUNDS ?= 5
compare:
	bash load_data.sh --install
	command -v wrk >/dev/null || $(AS_ROOT) apt-get install -y wrk
	command -v python3 >/dev/null || $(AS_ROOT) apt-get install -y python3
	cargo build --release --locked
	cargo build --release --locked --manifest-path bench/load/Cargo.toml --target-dir target/bench/load
	python3 bench/compare.py --before $(BEFORE) --after $(AFTER) --rounds $(ROUNDS)

# Checks format, clippy's warnings and rustdoc's. (Clippy can't check fuzz/ without a C++ compiler.)
lint:
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo fmt --check --manifest-path bench/load/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --manifest-path bench/load/Cargo.toml --target-dir target/bench/load -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet
