// Package dfsnapshotter_test holds what is true of the module as a whole: who
// may import whom.
package dfsnapshotter_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/dfsnapshotter/dfsnapshotter/"

// below lists, for each package of the product, the packages of the product it
// may import. A lower layer that must call up declares a small interface, and
// cmd connects them. A "/..." stands for the package and all below it; the
// first entry that matches counts.
var below = []struct {
	pkg     string
	imports []string
	why     string
}{
	{"cmd/dfsnapshotter/imageservice", []string{"fetcher/origin"}, "calls between kubelet and containerd, and what they say of credentials"},
	{"cmd/dfsnapshotter/...", []string{"cmd/dfsnapshotter/...", "cmd/internal/...", "deploy/systemd", "snapshot", "fs", "fs/index", "fs/indexes", "fs/keeper", "fs/profiles", "fetcher", "fetcher/...", "p2p/..."}, "flags, configuration and wiring: it knows all parts, and no part knows it"},
	{"cmd/dfget/containerd", nil, "a client of containerd's"},
	{"cmd/dfget/doctor", []string{"cmd/dfget/containerd", "cmd/internal/agent"}, "what is wrong; the command line prints it"},
	{"cmd/dfget/...", []string{"cmd/dfget/...", "cmd/internal/...", "fs/index", "fs/indexes", "fetcher/origin", "fetcher/origin/s3", "p2p", "p2p/bucket"}, "the command line: it asks the local agent, or a registry by itself, and runs nothing that stays"},
	{"snapshot", []string{"fs", "fetcher", "fetcher/origin"}, "containerd's contract; it says which layers, not where bytes come from"},
	{"fs", []string{"fs/index", "fs/indexes", "fs/keeper", "fs/profiles", "fetcher", "fetcher/origin"}, "files from blobs; it does not know containerd"},
	{"fs/index/indextest", []string{"fs/index", "fs/index/flate"}, "test layers"},
	{"fs/indexes", []string{"fs/index", "fetcher", "fetcher/origin", "p2p"}, "indexes on their way between hosts and from registries; it mounts nothing, so that seeds have it, too"},
	{"fs/profiles", []string{"fetcher", "p2p"}, "what starts read, on its way between hosts"},
	{"fs/index/flate", nil, "one stream; it does not know layers"},
	{"fs/index/ztoc", nil, "what SOCI writes, as it is"},
	{"fs/index", []string{"fs/index/flate", "fs/index/ztoc"}, "bytes in, bytes out"},
	{"fs/keeper", nil, "the keeper process must stay tiny: it is what survives"},
	{"fetcher/origin/origintest", []string{"fetcher/origin"}, "a registry with faults"},
	{"fetcher/origin/s3", []string{"fetcher/origin"}, "objects become files of a web server"},
	{"fetcher/origin", nil, "one attempt at one registry"},
	{"fetcher/store", []string{"p2p"}, "bytes on disk"},
	{"fetcher/mirror", []string{"fetcher", "fetcher/origin"}, "a front of the fetcher"},
	{"fetcher", []string{"fetcher/store", "fetcher/origin", "p2p", "p2p/peer", "p2p/swarm", "p2p/wire"}, "decides where bytes come from, so it knows the sources and nobody else does"},
	{"p2p/sched", []string{"p2p"}, "the scheduler's decisions, pure"},
	{"p2p/swarm", []string{"p2p"}, "a host's decisions, pure"},
	{"p2p/wire/internal/pb", nil, "generated"},
	{"p2p/wire/manage/internal/pb", nil, "generated"},
	{"p2p/wire/manage", []string{"p2p", "p2p/wire", "p2p/wire/manage/internal/pb"}, "what nodes and managers say"},
	{"p2p/wire/wiretest", []string{"p2p", "p2p/wire"}, "certificates for tests"},
	{"p2p/wire", []string{"p2p", "p2p/wire/internal/pb"}, "what hosts and schedulers say, as it crosses the network, and to whom"},
	{"p2p/peer", []string{"p2p", "p2p/swarm", "p2p/wire"}, "where decisions meet connections"},
	{"p2p/bucket", []string{"p2p"}, "a limit in bytes per second"},
	{"p2p/p2ptest", []string{"p2p", "p2p/sched", "p2p/swarm"}, "the network in memory; it must stay as pure as what it runs"},
	{"p2p", nil, "the vocabulary of the piece network"},
	{"cmd/internal/file", []string{"fetcher/origin", "p2p"}, "which file dfget means, for the agent and for dfget without one"},
	{"cmd/internal/...", []string{"cmd/internal/...", "p2p", "p2p/wire", "p2p/wire/manage"}, "what daemons have in common; it knows none of them"},
	{"cmd/dfscheduler/...", []string{"cmd/dfscheduler/...", "cmd/internal/...", "p2p", "p2p/sched", "p2p/wire", "p2p/wire/manage"}, "the scheduler's server; it moves no pieces"},
	{"cmd/dfmanager/store/...", []string{"cmd/dfmanager/store"}, "what the manager remembers; it knows nobody who asks"},
	{"cmd/dfmanager/clustertest", []string{"p2p", "p2p/wire", "p2p/wire/wiretest"}, "runs the programs of a cluster"},
	{"cmd/dfmanager/...", []string{"cmd/dfmanager/...", "cmd/internal/...", "fetcher/origin", "p2p", "p2p/peer", "p2p/wire", "p2p/wire/manage"}, "the manager, which asks web servers for versions of files as hosts do; nothing needs it to move a byte, so nothing imports it"},
	{"deploy/systemd", nil, "files"},
	{"script/...", []string{"..."}, "tools and tests, not part of the product"},
}

// doors lists the outside technologies that have one door each.
var doors = []struct {
	outside string
	through []string
	why     string
}{
	{"github.com/containerd/containerd/v2/core/snapshots/...", []string{"snapshot"}, "containerd's snapshot API changes with containerd; one package follows it"},
	{"github.com/containerd/containerd/v2/contrib/snapshotservice", []string{"snapshot"}, "the same API over gRPC"},
	{"github.com/containerd/containerd/api/...", []string{"snapshot", "cmd/dfget/containerd"}, "the same API over gRPC; dfget is a client of containerd's, in one package"},
	{"github.com/containerd/containerd/v2/core/content/...", []string{"cmd/dfget/containerd"}, "containerd's content store has one client"},
	{"k8s.io/cri-api/...", []string{"cmd/dfget/containerd", "cmd/dfsnapshotter/imageservice"}, "CRI has one client and one server"},
	{"github.com/containerd/containerd/v2/core/remotes/...", []string{"fetcher/origin"}, "hosts.toml and registry authentication"},
	{"github.com/docker/docker-credential-helpers/...", []string{"fetcher/origin"}, "registry credentials"},
	{"github.com/minio/minio-go/...", []string{"fetcher/origin/s3"}, "signatures of object stores"},
	{"k8s.io/kubelet/...", []string{"fetcher/origin"}, "registry credentials"},
	{"github.com/hanwen/go-fuse/v2/...", []string{"fs"}, "how the kernel asks is one package's business"},
	{"go.etcd.io/bbolt", []string{"snapshot"}, "only containerd's snapshot storage is a database"},
	{"github.com/containerd/stargz-snapshotter/estargz/...", []string{"fs/index/..."}, "layer formats"},
	{"github.com/klauspost/compress/...", []string{"fs/index/..."}, "layer formats"},
	{"google.golang.org/grpc/...", []string{"cmd/dfsnapshotter", "cmd/dfsnapshotter/imageservice", "cmd/dfscheduler", "cmd/dfget/containerd", "snapshot", "p2p/wire/..."}, "RPC at the edges only"},
	{"google.golang.org/protobuf/...", []string{"p2p/wire/...", "cmd/dfget/containerd", "cmd/dfsnapshotter/imageservice"}, "RPC at the edges only"},
	{"github.com/spf13/...", []string{"cmd/..."}, "flags belong to commands"},
	{"flag", []string{"cmd/..."}, "flags belong to commands"},
	{"github.com/pelletier/go-toml/...", []string{"cmd/...", "fetcher/origin"}, "configuration files belong to commands, hosts.toml to its reader"},
	{"os/signal", []string{"cmd/...", "fs/keeper"}, "signals belong to commands; the keeper is a process of its own that ignores some"},
	{"database/sql/...", []string{"cmd/dfmanager/store/..."}, "SQL has one owner"},
	{"github.com/jackc/pgx/...", []string{"cmd/dfmanager/store"}, "SQL has one owner"},
	{"modernc.org/sqlite/...", []string{"cmd/dfmanager/store"}, "SQL has one owner"},
	{"github.com/coreos/go-oidc/...", []string{"cmd/dfmanager/openid"}, "who vouches for people is one package's business"},
	{"golang.org/x/oauth2/...", []string{"cmd/dfmanager/openid"}, "who vouches for people is one package's business"},
	{"github.com/zitadel/oidc/...", []string{"cmd/dfmanager/openid/openidtest"}, "a provider for tests"},
	{"log", []string{"fs"}, "log/slog, injected; go-fuse takes a log.Logger"},
	{"github.com/sirupsen/logrus", []string{"fetcher/origin"}, "log/slog, injected; containerd's hosts.toml reader logs by itself and is silenced"},
	{"github.com/stretchr/testify/...", nil, "testing and go-cmp are enough"},
	{"net/http/pprof", nil, "it registers itself for everybody"},
	{"github.com/prometheus/client_golang/prometheus/promauto", nil, "metrics go to an injected Registerer, not to a global one"},
}

type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// matches reports whether pkg is what pattern names.
func matches(pattern, pkg string) bool {
	if pattern == "..." {
		return true
	}
	root, tree := strings.CutSuffix(pattern, "/...")
	return pkg == root || tree && strings.HasPrefix(pkg, root+"/")
}

func matchesAny(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if matches(p, pkg) {
			return true
		}
	}
	return false
}

// violation checks one import of a package of the product, both without the
// module's path where they are ours.
func violation(pkg, imported string, ours bool) string {
	if strings.HasPrefix(pkg, "script/") {
		return ""
	}
	if ours {
		for _, r := range below {
			if !matches(r.pkg, pkg) {
				continue
			}
			if !matchesAny(r.imports, imported) {
				return fmt.Sprintf("%s must not import %s: %s", pkg, imported, r.why)
			}
			return ""
		}
		return fmt.Sprintf("%s imports %s and has no rule: say in below what it may import", pkg, imported)
	}
	for _, d := range doors {
		if matches(d.outside, imported) && !matchesAny(d.through, pkg) {
			return fmt.Sprintf("%s must not import %s (only %v may): %s", pkg, imported, d.through, d.why)
		}
	}
	return ""
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		pkg, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok {
			continue // this package: it is only a test
		}
		for _, imported := range p.Imports {
			name, ours := strings.CutPrefix(imported, module)
			if v := violation(pkg, name, ours); v != "" {
				t.Error(v)
			}
			if strings.HasSuffix(name, "test") && ours && !strings.HasSuffix(pkg, "test") && !strings.HasPrefix(pkg, "script/") {
				t.Errorf("%s imports %s: test packages are for tests", pkg, name)
			}
		}
		for _, imported := range append(p.TestImports, p.XTestImports...) {
			if strings.HasPrefix(imported, "github.com/stretchr/testify") {
				t.Errorf("tests of %s import %s: testing and go-cmp are enough", pkg, imported)
			}
		}
	}
}

func TestViolation(t *testing.T) {
	t.Parallel()
	type imp struct {
		pkg, imported string
		ours          bool
	}
	got := map[imp]bool{}
	want := map[imp]bool{
		{"fs", "fs/index", true}:                                                false,
		{"fs", "snapshot", true}:                                                true,
		{"fs/index", "fs", true}:                                                true,
		{"fetcher", "fs", true}:                                                 true,
		{"unheard/of", "fs", true}:                                              true,
		{"cmd/dfsnapshotter", "snapshot", true}:                                 false,
		{"fs", "github.com/hanwen/go-fuse/v2/fuse", false}:                      false,
		{"snapshot", "github.com/hanwen/go-fuse/v2/fuse", false}:                true,
		{"fs", "github.com/containerd/containerd/v2/core/snapshots", false}:     true,
		{"fetcher", "flag", false}:                                              true,
		{"fetcher", "log/slog", false}:                                          false,
		{"script/images", "flag", false}:                                        false,
		{"snapshot", "github.com/containerd/containerd/v2/core/mount", false}:   false,
		{"fs/keeper", "github.com/hanwen/go-fuse/v2/fuse", false}:               true,
		{"fetcher/origin", "github.com/containerd/containerd/v2/core/x", false}: false,
	}
	for i := range want {
		got[i] = violation(i.pkg, i.imported, i.ours) != ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
