package fs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
	"github.com/dfsnapshotter/dfsnapshotter/fs/profiles"
	oracle "github.com/dfsnapshotter/dfsnapshotter/script/oracle/compare"
)

const repo = "library/test"

// env is a node's file system over a registry with faults, with a keeper in
// this process.
type env struct {
	t        *testing.T
	root     string
	registry *origintest.Registry
	keeper   *keeper.Client
	config   func(*Config)

	origin  *origin.Client
	fetcher *fetcher.Fetcher
	indexes *indexes.Indexes
	fs      *FS
}

func newEnv(t *testing.T, config func(*Config)) *env {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	e := &env{t: t, root: t.TempDir(), config: config, registry: origintest.New(t, origintest.Options{})}
	socket := filepath.Join(t.TempDir(), "k.sock")
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- keeper.Serve(ctx, keeper.Config{Socket: socket, Log: slog.New(slog.DiscardHandler)}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	wait, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	var err error
	if e.keeper, err = keeper.Open(wait, keeper.ClientConfig{Socket: socket, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.keeper.Close() })
	e.open()
	e.noPoll()
	t.Cleanup(func() {
		if err := e.fs.Unmount(); err != nil {
			t.Error(err)
		}
		e.close()
	})
	return e
}

// open starts the file system on what is in root.
func (e *env) open() {
	e.t.Helper()
	log := slog.New(slog.NewTextHandler(e.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	if e.origin, err = origin.New(origin.Config{Log: log}); err != nil {
		e.t.Fatal(err)
	}
	e.fetcher, err = fetcher.New(fetcher.Config{Dir: e.root, Max: 1 << 30, Sources: []fetcher.Source{fetcher.Origin(e.origin)}, Documents: e.origin, Log: log})
	if err != nil {
		e.t.Fatal(err)
	}
	e.indexes, err = indexes.New(filepath.Join(e.root, "index"), false, log, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	starts, err := profiles.Open(filepath.Join(e.root, "profiles"), e.fetcher, log)
	if err != nil {
		e.t.Fatal(err)
	}
	c := Config{Root: e.root, Fetcher: e.fetcher, Indexes: e.indexes, Profiles: starts, Keeper: e.keeper, Unproven: true, Quiet: time.Hour, Log: log, Metrics: prometheus.NewRegistry()}
	if e.config != nil {
		e.config(&c)
	}
	if e.fs, err = Open(e.t.Context(), c); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) close() {
	e.t.Helper()
	if err := e.fs.Close(); err != nil {
		e.t.Error(err)
	}
	e.indexes.Close()
	if err := e.fetcher.Close(); err != nil {
		e.t.Error(err)
	}
	e.origin.Close()
}

// noPoll makes the kernel learn that the mounts have no POLL. Go's os.Open asks,
// in a way that keeps other goroutines from running: here those that answer.
func (e *env) noPoll() {
	e.t.Helper()
	for _, name := range []string{"m", "n"} {
		fd, err := unix.Open(filepath.Join(e.root, name, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			e.t.Fatal(err)
		}
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if cerr := unix.Close(fd); err != nil || cerr != nil {
			e.t.Fatal(err, cerr)
		}
	}
}

// want puts a layer into the registry and says what an image says of it.
func (e *env) want(l indextest.Layer) Want {
	e.registry.AddBlob(repo, l.Blob)
	ref := fetcher.Ref{Digest: l.Digest, Size: l.Size(), Repo: origin.Repo{Host: e.registry.Host(), Path: repo}}
	return Want{Desc: l.Descriptor(), DiffID: l.DiffID, Ref: ref}
}

// layer resolves and places a layer.
func (e *env) layer(w Want, below ...Below) *Layer {
	e.t.Helper()
	l, err := e.fs.Resolve(e.t.Context(), w)
	if err != nil {
		e.t.Fatal(err)
	}
	if l, err = e.fs.Place(e.t.Context(), l, below); err != nil {
		e.t.Fatal(err)
	}
	return l
}

// path is where new containers find the layer.
func (e *env) path(l *Layer, form Form) string {
	e.t.Helper()
	p, err := e.fs.Paths(e.t.Context(), []uint32{l.ID()}, form, false)
	if err != nil {
		e.t.Fatal(err)
	}
	return p[0]
}

// unpacked is the tree that containerd's overlayfs snapshotter would make.
func unpacked(t *testing.T, tarball []byte) string {
	t.Helper()
	dir := t.TempDir()
	_, err := archive.Apply(t.Context(), dir, bytes.NewReader(tarball), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// same fails the test where two trees differ, except for times that containerd
// leaves at the time of unpacking: of implied folders, and of the root and of
// whiteouts, which overlayfs does not show.
func same(t *testing.T, want, got string, implied map[string]bool) {
	t.Helper()
	diffs, stats, err := oracle.Trees(t.Context(), want, got, oracle.Options{IgnoreDirNlink: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diffs {
		if d.What == "mtime" && (d.Path == "." || implied[d.Path] || whiteout(filepath.Join(got, d.Path))) {
			continue
		}
		t.Error(d)
	}
	if stats.Entries == 0 {
		t.Error("nothing was compared")
	}
}

func whiteout(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// impliedPaths lists the folders of a layer that have no entry.
func impliedPaths(l *Layer) map[string]bool {
	m := map[string]bool{}
	for _, p := range l.index.Implied() {
		if p == "" {
			p = "."
		}
		m[p] = true
	}
	return m
}

// readers compares two trees as many readers in another process. In this one
// their page faults would keep the goroutines that answer them from running.
func readers(t *testing.T, want, got string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), "READERS_OF="+want+":"+got)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func runReaders(trees string) int {
	want, got, _ := strings.Cut(trees, ":")
	ops, diff, err := oracle.Readers(context.Background(), want, got, oracle.Load{Readers: 8, Seed: 1, Rounds: 300})
	if diff != nil || err != nil || ops == 0 {
		fmt.Println(ops, diff, err)
		return 1
	}
	return 0
}

func TestMain(m *testing.M) {
	if trees := os.Getenv("READERS_OF"); trees != "" {
		os.Exit(runReaders(trees))
	}
	goleak.VerifyTestMain(m)
}
