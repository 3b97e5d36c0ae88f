package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

// fakeLayers keeps layers as plain directories: m/N stands for a lazy layer's
// directory in a FUSE session, l/N for the complete one.
type fakeLayers struct {
	root string

	mu       sync.Mutex
	trees    map[digest.Digest]tree          // what can be resolved, by blob
	faults   map[digest.Digest]error         // what cannot, and why
	gates    map[digest.Digest]chan struct{} // resolved only when closed
	resolved map[digest.Digest]int           // number of calls
	started  chan digest.Digest              // told of each call, if not nil
	byBlob   map[digest.Digest]uint32        // as the tar says
	byChain  map[string]uint32               // placed copies
	layers   map[uint32]*fakeLayer
	last     uint32
	starts   []start // what was about to start
	records  []start // what was started
	modes    map[digest.Digest]snapshot.Mode
	hides    map[digest.Digest]bool // blobs with whiteouts

	waits      chan struct{}   // told of each call of Complete, if not nil
	incomplete error           // what cannot be completed, and why
	born       []digest.Digest // blobs whose layers are complete from the start
}

// start is one call of Start.
type start struct {
	ids     []uint32
	program snapshot.Program
}

func (f *fakeLayers) Start(ids []uint32, p snapshot.Program) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts = append(f.starts, start{slices.Clone(ids), p})
}

func (f *fakeLayers) Record(ids []uint32, image digest.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records = append(f.records, start{slices.Clone(ids), snapshot.Program{Image: image}})
}

type fakeLayer struct {
	blob     digest.Digest
	complete chan struct{} // closed when l/N is the layer
}

// tree is the content of a layer by path; a name that ends in "/" is a folder.
// implied ones take a copy for each chain.
type tree struct {
	files   map[string]string
	implied bool
	lazy    bool
	uid     uint32
}

func newFakeLayers(t testing.TB) *fakeLayers { return newFakeLayersIn(t, t.TempDir()) }

func newFakeLayersIn(t testing.TB, root string) *fakeLayers {
	f := &fakeLayers{
		root: root, trees: map[digest.Digest]tree{}, faults: map[digest.Digest]error{},
		modes: map[digest.Digest]snapshot.Mode{}, hides: map[digest.Digest]bool{},
		gates: map[digest.Digest]chan struct{}{}, resolved: map[digest.Digest]int{},
		byBlob: map[digest.Digest]uint32{}, byChain: map[string]uint32{}, layers: map[uint32]*fakeLayer{},
	}
	for _, dir := range []string{"l", "m"} {
		if err := os.MkdirAll(filepath.Join(f.root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fakeLayers) Resolve(ctx context.Context, w snapshot.Want) (uint32, error) {
	d := w.Desc.Digest
	f.mu.Lock()
	f.resolved[d]++
	f.modes[d] = w.Mode
	gate, started := f.gates[d], f.started
	f.mu.Unlock()
	if started != nil {
		started <- d
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.faults[d]; err != nil {
		return 0, err
	}
	if id, ok := f.byBlob[d]; ok {
		return id, nil
	}
	id, err := f.add(d)
	f.byBlob[d] = id
	return id, err
}

func (f *fakeLayers) add(d digest.Digest) (uint32, error) {
	tr, ok := f.trees[d]
	if !ok {
		return 0, fmt.Errorf("blob %s: %w", d, origin.ErrNotFound)
	}
	f.last++
	l := &fakeLayer{blob: d, complete: make(chan struct{})}
	if !tr.lazy || slices.Contains(f.born, d) {
		close(l.complete)
	}
	f.layers[f.last] = l
	for _, dir := range []string{"l", "m"} {
		top := f.dir(dir, f.last)
		if err := errors.Join(os.Mkdir(top, 0o755), os.Chown(top, int(tr.uid), int(tr.uid)), writeTree(top, tr.files)); err != nil {
			return 0, err
		}
	}
	return f.last, nil
}

func writeTree(top string, files map[string]string) error {
	for name, content := range files {
		path := filepath.Join(top, name)
		if name[len(name)-1] == '/' {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeLayers) dir(kind string, id uint32) string {
	return filepath.Join(f.root, kind, strconv.FormatUint(uint64(id), 10))
}

func (f *fakeLayers) Place(_ context.Context, id uint32, below []snapshot.Below) (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.layers[id]
	if !ok {
		return 0, fmt.Errorf("place layer %d: no such layer", id)
	}
	for _, b := range below {
		if _, ok := f.layers[b.Layer]; !ok && b.Layer != 0 {
			return 0, fmt.Errorf("below layer %d: no layer %d", id, b.Layer)
		}
		if _, err := os.Stat(b.Dir); b.Layer == 0 && err != nil {
			return 0, err
		}
	}
	if !f.trees[l.blob].implied {
		return id, nil
	}
	key := fmt.Sprint(l.blob, below)
	if id, ok := f.byChain[key]; ok {
		return id, nil
	}
	id, err := f.add(l.blob)
	f.byChain[key] = id
	return id, err
}

func (f *fakeLayers) Complete(ctx context.Context, id uint32) error {
	f.mu.Lock()
	waits, err := f.waits, f.incomplete
	lazy := f.layers[id] != nil && !closed(f.layers[id].complete)
	f.mu.Unlock()
	if lazy && waits != nil {
		waits <- struct{}{}
	}
	if lazy && err != nil {
		return err
	}
	return f.completed(ctx, id)
}

// completed returns when a layer is complete.
func (f *fakeLayers) completed(ctx context.Context, id uint32) error {
	_, err := f.Paths(ctx, []uint32{id}, snapshot.PlainForm, false)
	return err
}

func (f *fakeLayers) Paths(ctx context.Context, ids []uint32, form snapshot.Form, _ bool) (paths []string, err error) {
	plain := true
	for _, id := range ids {
		f.mu.Lock()
		l, ok := f.layers[id]
		f.mu.Unlock()
		if !ok {
			return nil, fmt.Errorf("no layer %d", id)
		}
		if form == snapshot.PlainForm {
			select {
			case <-l.complete:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		plain = plain && closed(l.complete)
	}
	for _, id := range ids {
		f.mu.Lock()
		l := f.layers[id]
		f.mu.Unlock()
		if plain || form == snapshot.AnyForm && closed(l.complete) {
			paths = append(paths, f.dir("l", id))
		} else {
			paths = append(paths, f.dir("m", id))
		}
	}
	return paths, nil
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (f *fakeLayers) Layer(id uint32) (snapshot.Layer, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.layers[id]
	if !ok {
		return snapshot.Layer{}, false
	}
	tr := f.trees[l.blob]
	return snapshot.Layer{Size: 4096 * int64(len(tr.files)), Inodes: int64(len(tr.files)), UID: tr.uid, GID: tr.uid}, true
}

func (f *fakeLayers) Hides(id uint32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.layers[id]
	return ok && f.hides[l.blob]
}

func (f *fakeLayers) List() (ids []uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.layers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (f *fakeLayers) Remove(ctx context.Context, id uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	delete(f.layers, id)
	forget(f.byBlob, id)
	forget(f.byChain, id)
	return errors.Join(os.RemoveAll(f.dir("l", id)), os.RemoveAll(f.dir("m", id)))
}

func forget[K comparable](m map[K]uint32, id uint32) {
	for k, v := range m {
		if v == id {
			delete(m, k)
		}
	}
}

// complete fills every layer of a blob.
func (f *fakeLayers) complete(d digest.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.layers {
		if l.blob == d && !closed(l.complete) {
			close(l.complete)
		}
	}
}

// set changes what can be resolved.
func (f *fakeLayers) set(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

func (f *fakeLayers) calls(d digest.Digest) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.resolved[d]
}

// fakeImages is a registry's documents.
type fakeImages struct {
	mu    sync.Mutex
	docs  map[digest.Digest]document
	fault error
	reads int
}

type document struct {
	data      []byte
	mediaType string
}

func (f *fakeImages) Document(_ context.Context, _ origin.Repo, d digest.Digest, _ bool) ([]byte, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if f.fault != nil {
		return nil, "", f.fault
	}
	doc, ok := f.docs[d]
	if !ok {
		return nil, "", fmt.Errorf("document %s: %w", d, origin.ErrNotFound)
	}
	return doc.data, doc.mediaType, nil
}
