SHELL := /bin/bash
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help build test lint verify demo bench bench-many faults soak e2e fuzz release man install-deps clean
.DEFAULT_GOAL := help

help: ## show this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## static binaries in bin/
	script/build bin

test: install-deps ## all tests, those that need root and FUSE included (PKG=./fs/... for some)
	script/test $(PKG)

lint: ## vet, format and golangci-lint
	script/verify lint

verify: ## tidy, format, lint: no diff
	script/verify tidy lint

demo: ## pull and run an image lazily and with overlayfs, side by side (IMAGE=… for a public one)
	@script/install-deps demo
	script/demo $(IMAGE)

bench: install-deps ## the figures of the README on one node (ROUNDS=3)
	script/bench one-node $(ROUNDS)

bench-many: install-deps ## the figures of many hosts at once (about an hour; FLAGS=… as of script/bench many-nodes -help)
	script/bench many-nodes $(FLAGS)

faults: install-deps ## what the piece network must survive, on eight hosts (about an hour; RUN=… for some of it)
	script/bench faults $(RUN)

soak: install-deps ## an hour of simulated clusters, then ten minutes of real hosts: nothing may grow
	go test ./p2p/p2ptest -run TestSoak -soak 1h -timeout 2h -v
	script/bench many-nodes -soak 10m -nodes 4

e2e: install-deps ## the tests on a real containerd only (RUN=… for some of them)
	script/test -run '$(or $(RUN),.)' ./script/e2e/...

fuzz: ## each fuzz target for FUZZTIME (default 30s)
	script/fuzz $(PKG)

release: ## archives and Debian packages for amd64 and arm64, SBOM and SHA256SUMS in out/release
	@script/install-deps release
	script/release out/release

man: ## manual pages in out/man
	for p in cmd/df*; do HOME=/root go run ./$$p man out/man || exit; done

install-deps: ## what the targets above need: apt packages and pinned tools in .tools/ (repeatable)
	@script/install-deps

clean: ## remove what was built (.tools/ stays)
	rm -rf bin out
