# What a person types. Each target installs what it needs.

.PHONY: demo test chaos lint

AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Three Redis servers with the actors in them, and the balancer on http://127.0.0.1:1310/
demo:
	bash load_data.sh
	cargo run --quiet --release --locked --bin lb

# Everything, with real Redis servers on free ports.
test:
	bash load_data.sh --install
	bash tests/clients/install.sh
	command -v curl >/dev/null || $(AS_ROOT) apt-get install -y curl
	cargo test --locked

# Servers fail in every way for minutes, while clients compare every reply. LB_TEST_SEED repeats a run.
chaos:
	bash load_data.sh --install
	LB_CHAOS_SECONDS=$${LB_CHAOS_SECONDS:-300} cargo test --locked --test suite -- --nocapture chaos::

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet
