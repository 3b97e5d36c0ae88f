// Package profiles keeps what containers of this host have read first of the
// layers of their images, and shares it with the cluster: who prepares the image
// next fetches that before its container asks.
//
// A profile is a hint. Nothing here knows whether a layer has such chunks; who
// uses a profile checks that.
package profiles

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A Profile says which chunks of a layer the containers of an image read first.
type Profile = p2p.Profile

// A Blob is where a boot pack is.
type Blob = p2p.Blob

// A Run is some neighbouring chunks.
type Run = p2p.Run

// What a profile has at most.
const (
	MaxRuns   = p2p.MaxRuns
	MaxChunks = p2p.MaxProfiled
	MaxPack   = p2p.MaxBootPack // bytes
)

// How many profiles are kept at most, and how many of them, used last, when there
// were more.
const (
	maxKept  = 1024
	maxAfter = 896
)

// Profiles is this host's. Its methods may be called concurrently.
type Profiles struct {
	dir     string
	log     *slog.Logger
	fetcher *fetcher.Fetcher

	mu    sync.Mutex // held while the folder is changed
	count int        // files, at most; guarded by mu
}

// kept is a profile in its file.
type kept struct {
	Layer digest.Digest `json:"layer"`
	Image digest.Digest `json:"image"`
	Index digest.Digest `json:"index"`
	Runs  []byte        `json:"runs"` // p2p.AppendRuns
	Pack  Blob          `json:"pack,omitzero"`
}

// Open returns the profiles kept in dir, which it makes if need be, and tells the
// cluster of them. The fetcher may be part of none.
func Open(dir string, f *fetcher.Fetcher, log *slog.Logger) (*Profiles, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	p := &Profiles{dir: dir, log: log, fetcher: f}
	if err := p.sweep(); err != nil {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	files, err := p.list("*-*")
	if err != nil {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	p.count = len(files)
	for _, name := range files {
		x, err := p.read(name)
		if err != nil {
			continue
		}
		if x.Pack != (Blob{}) && !f.Has(x.Pack.Digest, x.Pack.Size) {
			x.Pack = Blob{} // others may have it, or nobody
		}
		f.LearnProfile(x, true)
	}
	return p, nil
}

// sweep removes what an earlier process was about to write.
func (p *Profiles) sweep() error {
	names, err := filepath.Glob(filepath.Join(p.dir, packName))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// Learn keeps what a container has read of a layer, and tells the cluster. It is
// worth no error: the next start is watched, too.
func (p *Profiles) Learn(x Profile) {
	if err := x.Validate(); err != nil {
		p.log.Warn("what a container has read is not kept", "blob", x.Layer, "err", err)
		return
	}
	if err := p.keep(x); err != nil {
		p.log.Warn("what a container has read is not kept", "blob", x.Layer, "err", err)
	}
	p.fetcher.LearnProfile(x, false)
}

// Pack makes the boot pack that write writes, puts it where others can get it, and
// notes it in x. It makes none if there are no others.
func (p *Profiles) Pack(x *Profile, write func(w io.Writer) error) error {
	if !p.fetcher.Shares() {
		return nil
	}
	f, err := os.CreateTemp(p.dir, packName)
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	sum := sha256.New()
	if err := write(io.MultiWriter(f, sum)); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size > MaxPack {
		return fmt.Errorf("boot pack of %d bytes", size)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	pack := Blob{Digest: digest.NewDigest(digest.SHA256, sum), Size: size}
	if err := p.fetcher.Keep(pack.Digest, size, f); err != nil {
		return err
	}
	x.Pack = pack
	return nil
}

// Find returns what containers of an image read first of a layer; if the image was
// never seen, what those of another one did. It reports false, in a moment, if
// that is not known. from says who has seen it: "cluster" or "host".
func (p *Profiles) Find(ctx context.Context, layer, image digest.Digest) (x Profile, from string, ok bool) {
	theirs, known := p.fetcher.FindProfile(ctx, layer, image)
	if known && theirs.Image == image {
		return theirs, "cluster", true
	}
	ours, ok := p.find(layer, image)
	if known && (!ok || ours.Image != image) {
		return theirs, "cluster", true
	}
	return ours, "host", ok
}

// find returns the profile of an image that is kept here, or of another one.
func (p *Profiles) find(layer, image digest.Digest) (x Profile, ok bool) {
	files, err := p.list(layer.Encoded() + "-*")
	if err != nil || len(files) == 0 {
		return Profile{}, false
	}
	name := p.path(layer, image)
	if !slices.Contains(files, name) {
		name = files[len(files)-1]
	}
	x, err = p.read(name)
	if err != nil || x.Layer != layer {
		return Profile{}, false
	}
	now := time.Now()
	_ = os.Chtimes(name, now, now) // only the order in which they go suffers
	return x, true
}

func (p *Profiles) path(layer, image digest.Digest) string {
	return filepath.Join(p.dir, layer.Encoded()+"-"+image.Encoded())
}

// Names of files that are being written. No profile's name is like them.
const (
	nextName = "next"
	packName = ".pack.*"
)

// list returns the profiles whose names match, the one used last at the end.
func (p *Profiles) list(pattern string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(p.dir, pattern))
	if err != nil {
		return nil, err
	}
	used := make(map[string]time.Time, len(names))
	for _, name := range names {
		if fi, err := os.Stat(name); err == nil {
			used[name] = fi.ModTime()
		}
	}
	slices.SortFunc(names, func(a, b string) int { return used[a].Compare(used[b]) })
	return names, nil
}

// read reads a file; one that is no good is removed.
func (p *Profiles) read(name string) (Profile, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return Profile{}, err
	}
	x, err := parse(b)
	if err != nil {
		p.log.Warn("a profile cannot be used; it is removed", "file", name, "err", err)
		return Profile{}, errors.Join(err, os.Remove(name))
	}
	return x, nil
}

// parse reads what keep has written.
func parse(b []byte) (Profile, error) {
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return Profile{}, err
	}
	runs, err := p2p.ParseRuns(k.Runs)
	if err != nil {
		return Profile{}, err
	}
	x := Profile{Layer: k.Layer, Image: k.Image, Index: k.Index, Runs: runs, Pack: k.Pack}
	return x, x.Validate()
}

// keep writes a profile in place of an earlier one, and drops those used longest
// ago.
func (p *Profiles) keep(x Profile) error {
	b, err := json.Marshal(kept{x.Layer, x.Image, x.Index, p2p.AppendRuns(nil, x.Runs), x.Pack})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	next := filepath.Join(p.dir, nextName)
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return err
	}
	if err := os.Rename(next, p.path(x.Layer, x.Image)); err != nil {
		return err
	}
	if p.count++; p.count <= maxKept {
		return nil
	}
	files, err := p.list("*-*")
	for len(files) > maxAfter {
		err = errors.Join(err, os.Remove(files[0]))
		files = files[1:]
	}
	p.count = len(files)
	return err
}
