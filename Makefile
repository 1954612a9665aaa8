# make check    format, clippy, unit tests, architecture, documents: no root, nothing installed, under a minute once built
# make setup    installs what the tests need (ARGS=--yes: without asking)
# make test     everything; installs what is missing first. One part alone: tests/run PART (tests/run --list)
# make demo     everything on this machine with temporary keys; a page at http://127.0.0.1:8080/demo
# make bench    figures beside a floor (ARGS=--quick for a smoke test)
# make build    target/release/lastmile

.PHONY: check setup test demo bench build

check:
	tests/run --no-install lints unit

setup:
	tests/setup $(ARGS)

test:
	tests/run $(ARGS)

demo:
	cargo run --release --locked -- demo

bench: build
	benches/setup
	benches/run $(ARGS)

build:
	cargo build --release --locked
