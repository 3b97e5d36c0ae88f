package snapshot

import (
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// record is what the catalog keeps of a snapshot.
type record struct {
	id     string // of the metadata, names the directory
	name   string
	parent string // name
	ref    string // chain ID that containerd looks for, "" if none
	image  string // manifest digest of the image it was prepared for, "" if unknown
	kind   snapshots.Kind
	layer  uint32 // 0: has a directory of its own
}

// catalog is the metadata's content in memory, for what the metadata itself
// would have to be scanned for.
type catalog struct {
	mu     sync.RWMutex // guards all fields
	byName map[string]record
	byID   map[string]string   // name by ID
	byRef  map[string][]string // names by chain ID
}

func newCatalog() *catalog {
	return &catalog{byName: map[string]record{}, byID: map[string]string{}, byRef: map[string][]string{}}
}

// put adds r, in place of the record with the same ID, which it returns.
func (c *catalog) put(r record) (old record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name, ok := c.byID[r.id]; ok {
		old = c.drop(name)
	}
	c.byName[r.name] = r
	c.byID[r.id] = r.name
	if r.ref != "" {
		c.byRef[r.ref] = append(c.byRef[r.ref], r.name)
	}
	return old
}

func (c *catalog) remove(name string) record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drop(name)
}

// drop removes a record; the caller holds mu.
func (c *catalog) drop(name string) record {
	r := c.byName[name]
	delete(c.byName, name)
	delete(c.byID, r.id)
	names := c.byRef[r.ref]
	for i, n := range names {
		if n != name {
			continue
		}
		if names = append(names[:i:i], names[i+1:]...); len(names) == 0 {
			delete(c.byRef, r.ref)
		} else {
			c.byRef[r.ref] = names
		}
		break
	}
	return r
}

func (c *catalog) get(name string) (record, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r, ok := c.byName[name]
	return r, ok
}

func (c *catalog) hasID(id string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.byID[id]
	return ok
}

// refs returns the names of the snapshots with chain ID ref.
func (c *catalog) refs(ref string) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byRef[ref] // never changed in place
}

// targets returns the committed snapshots of chain ID ref above parent.
func (c *catalog) targets(ref, parent string) (rs []record) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, name := range c.byRef[ref] {
		if r := c.byName[name]; r.kind == snapshots.KindCommitted && r.parent == parent {
			rs = append(rs, r)
		}
	}
	return rs
}

// chain returns the committed snapshots from name down to the lowest; none if
// name is "".
func (c *catalog) chain(name string) ([]record, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var rs []record
	for ; name != ""; name = rs[len(rs)-1].parent {
		r, ok := c.byName[name]
		if !ok {
			return nil, fmt.Errorf("parent snapshot %q: %w", name, errdefs.ErrNotFound)
		}
		if r.kind != snapshots.KindCommitted {
			return nil, fmt.Errorf("parent snapshot %q is not committed: %w", name, errdefs.ErrInvalidArgument)
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// above returns the snapshots of containers that have a layer in their chain.
func (c *catalog) above(layer uint32) (rs []record) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, r := range c.byName {
		if r.kind == snapshots.KindCommitted || r.ref != "" {
			continue
		}
		for name := r.parent; name != ""; name = c.byName[name].parent {
			if c.byName[name].layer == layer {
				rs = append(rs, r)
				break
			}
		}
	}
	return rs
}

func (c *catalog) empty() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.byName) == 0
}

// each calls fn, which must not use the catalog, for every record.
func (c *catalog) each(fn func(record)) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, r := range c.byName {
		fn(r)
	}
}

// count returns how many snapshots of each kind there are.
func (c *catalog) count() map[string]int {
	n := map[string]int{kindRemote: 0, kindOrdinary: 0, kindActive: 0, kindView: 0}
	c.each(func(r record) { n[r.metric()]++ })
	return n
}

func (r record) metric() string {
	switch {
	case r.kind == snapshots.KindActive:
		return kindActive
	case r.kind == snapshots.KindView:
		return kindView
	case r.layer != 0:
		return kindRemote
	default:
		return kindOrdinary
	}
}
