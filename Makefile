# Everything reseal needs is made from here. `make help` lists the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
GOBUILD     := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false
LDFLAGS     := -s -w -X main.version=$(VERSION)
BIN         := $(CURDIR)/bin
PEERS       := $(BIN)/peers
TOOLS       := $(BIN)/tools
FUZZTIME    ?= 60s

export GOTOOLCHAIN := local

.PHONY: help build build-pkcs11 drill test e2e peers bench lint fuzz race vuln clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## build bin/reseal, one static binary
	@mkdir -p $(BIN)
	$(GOBUILD) -ldflags "$(LDFLAGS)" -o $(BIN)/reseal ./cmd/reseal

build-pkcs11: ## build bin/reseal-pkcs11, with keys in hardware tokens; needs cgo
	@mkdir -p $(BIN)
	CGO_ENABLED=1 $(GO) build -trimpath -buildvcs=false -tags pkcs11key -ldflags "$(LDFLAGS)" -o $(BIN)/reseal-pkcs11 ./cmd/reseal

drill: build ## rehearse the recovery from a leaked signing key; needs no server
	$(BIN)/reseal drill signing-key

test: lint race ## all checks that need no server: vet, staticcheck, tests with the race detector

lint: $(TOOLS)/staticcheck ## gofmt, vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "not formatted: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags e2e,bench ./...
	$(TOOLS)/staticcheck -tags e2e,bench ./...

race: ## tests with the race detector
	CGO_ENABLED=1 $(GO) test -race -buildvcs=false -timeout 30m ./...

e2e: build build-pkcs11 peers ## inventory and recover images signed by the real cosign in a real registry
	$(GO) test -buildvcs=false -count=1 ./internal/registry
	$(GO) test -buildvcs=false -count=1 -run '^TestPostgres$$' ./internal/store # installs PostgreSQL, as root, for the tests below
	CGO_ENABLED=1 $(GO) test -tags pkcs11key -buildvcs=false -count=1 ./internal/pkcs11
	$(GO) test -tags e2e -buildvcs=false -count=1 -timeout 30m -v -run '^(TestConformance|TestPeers|TestDifferences)$$' ./tuf/rehearsal # every rotation before every recovery; real clients
	$(GO) test -tags e2e -buildvcs=false -count=1 -timeout 45m -v -run 'TestInventory|TestRecovery|TestKill|TestWorkers|TestResign|TestWriters|TestTUF' ./cmd/reseal

bench: build peers ## benchmarks beside the peers, into bin/bench.json
	@rm -f $(BIN)/bench.jsonl $(BIN)/bench.json
	RESEAL_BENCH_OUT=$(BIN)/bench.jsonl $(GO) test -tags bench -buildvcs=false -count=1 -p 1 -timeout 60m -v -run '^TestBench$$' ./internal/store ./inventory/scan ./verify ./tuf
	$(GO) test -buildvcs=false -count=1 -run '^TestPostgres$$' ./internal/store # installs PostgreSQL, as root, for the next
	RESEAL_BENCH_OUT=$(BIN)/bench.jsonl $(GO) test -tags bench -buildvcs=false -count=1 -timeout 60m -v -run '^TestBenchResign$$' ./cmd/reseal
	RESEAL_BENCH_OUT=$(BIN)/bench.jsonl $(GO) test -tags bench -buildvcs=false -count=1 -timeout 60m -v -run '^TestBench$$' ./cmd/reseal

fuzz: ## fuzz every parser for FUZZTIME each
	@grep -rHoE '^func Fuzz[A-Za-z0-9_]+' --include '*_test.go' . | sort | while IFS=: read -r file func; do \
	  target=$${func#func }; echo "$${file%/*} $$target"; \
	  $(GO) test -buildvcs=false -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x "$${file%/*}" </dev/null || exit 1; \
	done

vuln: $(TOOLS)/govulncheck ## govulncheck, where its database can be reached
	@if curl -sSf -o /dev/null --max-time 10 https://vuln.go.dev/index/db.json; then $(TOOLS)/govulncheck ./...; \
	else echo "the vulnerability database (vuln.go.dev) cannot be reached from here: nothing was checked"; fi

# The tools and peers are pinned: newer ones may want a newer Go.
$(TOOLS)/staticcheck:
	GOBIN=$(TOOLS) $(GO) install -buildvcs=false honnef.co/go/tools/cmd/staticcheck@v0.8.2

$(TOOLS)/govulncheck:
	GOBIN=$(TOOLS) $(GO) install -buildvcs=false golang.org/x/vuln/cmd/govulncheck@v1.9.0

peers: $(PEERS)/cosign2 $(PEERS)/cosign3 $(PEERS)/registry $(PEERS)/crane $(PEERS)/timestamp-server $(PEERS)/fulcio $(PEERS)/rekor-tiles $(PEERS)/pctester $(PEERS)/miniskopeo $(PEERS)/tuf-js/node_modules ## build the real peers, pinned, into bin/peers

# peer NAME,MODULE_PATH,VERSION: go install under another name.
define peer
$(PEERS)/$(1):
	@mkdir -p $(PEERS)
	@tmp=$$$$(mktemp -d) && CGO_ENABLED=0 GOBIN=$$$$tmp $(GO) install -trimpath -buildvcs=false -ldflags "-s -w" $(2)@$(3) \
	  && mv $$$$tmp/* $$@ && rmdir $$$$tmp && echo "$(1) $(3)"
endef
$(eval $(call peer,cosign2,github.com/sigstore/cosign/v2/cmd/cosign,v2.6.5))
$(eval $(call peer,cosign3,github.com/sigstore/cosign/v3/cmd/cosign,v3.1.3))
$(eval $(call peer,registry,github.com/distribution/distribution/v3/cmd/registry,v3.1.2))
$(eval $(call peer,crane,github.com/google/go-containerregistry/cmd/crane,v0.22.1))
$(eval $(call peer,timestamp-server,github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server,v2.1.3))
$(eval $(call peer,fulcio,github.com/sigstore/fulcio,v1.8.8))
$(eval $(call peer,rekor-tiles,github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix,v2.3.0))

# module NAME,DIRECTORY,PACKAGE,FLAGS: a peer that is built from a module of its
# own, so that what it requires stays out of ours.
define module
$(PEERS)/$(1): $(wildcard $(2)/*)
	@mkdir -p $(PEERS)
	@CGO_ENABLED=0 $(GO) -C $(2) build -trimpath -buildvcs=false -ldflags "-s -w" $(4) -o $$@ $(3) && echo "$(1)"
endef
$(eval $(call module,pctester,testdata/policy-tester,github.com/sigstore/policy-controller/cmd/tester))
$(eval $(call module,miniskopeo,testdata/image-policy,.,-tags "containers_image_openpgp containers_image_storage_stub containers_image_docker_daemon_stub exclude_graphdriver_btrfs exclude_graphdriver_devicemapper"))

# tuf-js runs on the Node.js of Debian 12, which is installed where there is none and root can do it.
$(PEERS)/tuf-js/node_modules: $(wildcard testdata/tuf-js/*)
	@command -v npm >/dev/null || { export DEBIAN_FRONTEND=noninteractive; apt-get -q update && apt-get -q install -y --no-install-recommends nodejs npm; } \
	  || { echo "Node.js is not installed (apt-get install nodejs npm) and only root can install it"; exit 1; }
	@mkdir -p $(PEERS)/tuf-js && cp testdata/tuf-js/* $(PEERS)/tuf-js/
	@npm ci --prefix $(PEERS)/tuf-js --omit optional --ignore-scripts --no-audit --no-fund --loglevel error && touch $@ && echo "tuf-js"

clean: ## remove everything that was built
	rm -rf $(BIN)
