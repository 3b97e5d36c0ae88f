package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// State says how far a layer has come.
type State string

// The states of a layer, in the order it goes through them.
const (
	Lazy     State = "lazy"     // read at random, filling
	Filled   State = "filled"   // all of it is on disk, not yet a directory
	Complete State = "complete" // an ordinary directory
	Refused  State = "refused"  // not what its image says; given to no new container
)

// Status is what a layer is doing.
type Status struct {
	ID      uint32        `json:"id"`
	Blob    digest.Digest `json:"blob"`
	Repo    string        `json:"repo"`
	Size    int64         `json:"size"` // of the blob, bytes
	Kind    string        `json:"kind"`
	State   State         `json:"state"`
	Chunks  int           `json:"chunks"`
	Filled  int           `json:"filled"` // chunks on disk
	Proven  bool          `json:"proven"`
	Reason  string        `json:"reason,omitempty"` // why it is refused, or why filling has stopped
	Sources fetcher.Stats `json:"sources"`          // since the daemon's start
}

// Status returns what each layer is doing, by slot.
func (f *FS) Status() []Status {
	var list []Status
	for _, l := range f.all() {
		if l.hold() {
			list = append(list, l.status())
			l.release()
		}
	}
	slices.SortFunc(list, func(a, b Status) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

func (l *Layer) status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.index.Info()
	s := Status{
		ID: l.id, Blob: l.rec.Blob, Repo: l.rec.Ref.Repo.Host + "/" + l.rec.Ref.Repo.Path, Size: i.BlobSize,
		Kind: i.Kind.String(), State: Lazy, Proven: l.rec.Proven, Reason: l.rec.Refused,
	}
	s.Filled, s.Chunks = l.filled.filled()
	switch {
	case l.rec.Refused != "":
		s.State = Refused
	case l.complete.Load():
		s.State, s.Filled = Complete, s.Chunks
	case s.Filled == s.Chunks:
		s.State = Filled
	}
	if s.Reason == "" && l.failure != nil && s.State != Complete {
		s.Reason = l.failure.Error()
	}
	s.Sources = l.stats
	if l.blob != nil {
		s.Sources = l.blob.Stats()
	}
	return s
}

// Form says which directories Paths may answer with.
type Form int

// The forms of an answer.
const (
	AnyForm   Form = iota // each layer as it is: its tree if complete, else in a session
	OneForm               // for id mappings: all trees, or all from the session m
	PlainForm             // all trees, when they are complete
)

// Paths returns directories to be overlayfs's lowerdirs: one for each layer, or,
// if ids is a whole chain (uppermost first) that is mounted lazily but for small
// layers, one for all together.
func (f *FS) Paths(ctx context.Context, ids []uint32, form Form, chain bool) ([]string, error) {
	f.touch()
	layers, err := f.usableLayers(ids)
	if err != nil {
		return nil, err
	}
	whole := !slices.ContainsFunc(layers, func(l *Layer) bool { return !l.complete.Load() })
	if form == OneForm && !whole && !f.idmap {
		form = PlainForm
	}
	if form == PlainForm && !whole {
		if err := f.awaitComplete(ctx, layers); err != nil {
			return nil, err
		}
		whole = true
	}
	session := form == OneForm && !whole
	isPlain := func(l *Layer) bool { return !session && l.complete.Load() && l.rec.Size >= minLazy }
	if chain && !whole && !slices.ContainsFunc(layers, isPlain) && mergeable(layers) {
		m, err := f.merge(layers)
		if err != nil {
			return nil, err
		}
		return []string{f.mountPoint(m.id, session || m.hasXattrs())}, nil
	}
	paths := make([]string, len(ids))
	for i, l := range layers {
		paths[i] = l.path(session)
	}
	return paths, nil
}

// usableLayers returns the layers of slots, or why they cannot be mounted.
func (f *FS) usableLayers(ids []uint32) ([]*Layer, error) {
	layers := make([]*Layer, len(ids))
	for i, id := range ids {
		l, ok := f.Layer(id)
		if !ok {
			return nil, fmt.Errorf("layer %d is not on this host any more; remove the image and pull it again", id)
		}
		if err := l.usable(); err != nil {
			return nil, err
		}
		layers[i] = l
	}
	return layers, nil
}

func (l *Layer) path(session bool) string {
	if l.complete.Load() && !session {
		return l.tree
	}
	return l.fs.mountPoint(l.id, session || l.hasXattrs())
}

// mountPoint is where a slot is seen, in the session m if there are xattrs to see.
func (f *FS) mountPoint(slot uint32, xattrs bool) string {
	name := "n"
	if xattrs {
		name = "m"
	}
	return filepath.Join(f.root, name, strconv.FormatUint(uint64(slot), 10))
}

// Owner returns the owner of the layer's root directory.
func (l *Layer) Owner() (uid, gid uint32) {
	if !l.hold() {
		return 0, 0
	}
	defer l.release()
	in, _ := l.index.Inode(rootIno)
	a := l.nodeAttr(in)
	return a.uid, a.gid
}

// IDs returns the slots of all layers, and of what is left of others, which can
// only be removed.
func (f *FS) IDs() []uint32 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	all := maps.Clone(f.remains)
	for id := range f.layers {
		all[id] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// NameContainers says who knows the names of the containers that have been given
// a layer, for when that turns out to be wrong.
func (f *FS) NameContainers(names func(slot uint32) []string) { f.containers.Store(&names) }

func (f *FS) containersOf(slot uint32) []string {
	if names := f.containers.Load(); names != nil {
		return (*names)(slot)
	}
	return nil
}

// quarantine refuses the layers that are read by a false index of the cluster,
// which hears what runs on them.
func (f *FS) quarantine(id digest.Digest, reason string) {
	for _, l := range f.all() {
		if !l.hold() {
			continue
		}
		if l.index.Info().ID == id && l.doubtful() {
			if err := l.refuse(fmt.Errorf("its index is false: %s", reason)); err != nil {
				l.log().Error("refused layer not noted", "err", err)
			}
			if len(f.containersOf(l.id)) > 0 {
				l.tell(errors.New(reason))
			}
		}
		l.release()
	}
}

// recheck refuses a new layer if its index was found false while it was made:
// quarantine has not seen it then.
func (f *FS) recheck(l *Layer) {
	if id := l.index.Info().ID; l.doubtful() {
		if reason, is := f.indexes.IsFalse(id); is {
			f.quarantine(id, reason)
		}
	}
}

// doubtful reports whether only another host vouches for the layer's index.
func (l *Layer) doubtful() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rec.Pack != (indexes.Pack{}) && !l.rec.Proven && l.rec.Refused == ""
}
