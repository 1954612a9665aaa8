# make demo     everything on this machine with keys that are thrown away; a page at http://127.0.0.1:8080/demo
# make test     format, lints, tests, documentation, the page in a browser; installs what is missing
# make bench    figures beside a floor (ARGS=--quick for a smoke test)
# make build    target/release/lastmile

.PHONY: demo test bench build

demo:
	cargo run --release --locked -- demo

test:
	tests/run

bench: build
	benches/setup
	benches/run $(ARGS)

build:
	cargo build --release --locked
