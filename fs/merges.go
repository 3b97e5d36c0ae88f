package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// merged returns the merged tree of a slot, nil if it is none.
func (f *FS) merged(id uint32) *merged {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.merges[id]
}

func (f *FS) newMerged(id uint32, layers []*Layer) *merged {
	return &merged{id: id, layers: layers, stacks: map[uint32][]place{}}
}

// merge returns the merged tree of a chain, uppermost layer first. It takes a
// slot of its own and is kept, for a later process, as long as its layers are.
func (f *FS) merge(layers []*Layer) (*merged, error) {
	f.placing.Lock()
	defer f.placing.Unlock()
	f.mu.RLock()
	for _, m := range f.merges {
		if slices.Equal(m.layers, layers) {
			f.mu.RUnlock()
			return m, nil
		}
	}
	f.mu.RUnlock()
	id, err := f.slot()
	if err != nil {
		return nil, err
	}
	m := f.newMerged(id, layers)
	if err := f.saveMerged(m); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range layers {
		if f.layers[l.id] != l {
			return nil, errors.Join(errRemoved, os.Remove(f.mergedFile(id)))
		}
	}
	f.merges[id] = m
	return m, nil
}

func (f *FS) mergedFile(id uint32) string {
	return filepath.Join(f.root, "merged", strconv.FormatUint(uint64(id), 10))
}

// saveMerged writes down which layers a merged tree has. It need not outlive
// the machine's crash, as no mount does.
func (f *FS) saveMerged(m *merged) error {
	ids := make([]uint32, len(m.layers))
	for i, l := range m.layers {
		ids[i] = l.id
	}
	b, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	name := f.mergedFile(m.id)
	if err := os.WriteFile(name+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

// loadMerged brings back the merged trees that mounts of an earlier process may
// be of. One that lacks a layer can have no user.
func (f *FS) loadMerged() error {
	dir, err := os.ReadDir(filepath.Join(f.root, "merged"))
	if err != nil {
		return err
	}
	for _, e := range dir {
		id, err := strconv.ParseUint(e.Name(), 10, 32)
		var layers []*Layer
		if err == nil {
			layers, err = f.readMerged(uint32(id))
		}
		if err != nil {
			f.log.Info("merged tree dropped", "slot", e.Name(), "err", err)
			if err := os.Remove(filepath.Join(f.root, "merged", e.Name())); err != nil {
				return err
			}
			continue
		}
		f.merges[uint32(id)] = f.newMerged(uint32(id), layers)
		f.next = max(f.next, uint32(id)+1)
	}
	f.limit = max(f.limit, f.next)
	return nil
}

func (f *FS) readMerged(id uint32) (layers []*Layer, err error) {
	b, err := os.ReadFile(f.mergedFile(id))
	if err != nil {
		return nil, err
	}
	var ids []uint32
	if err := json.Unmarshal(b, &ids); err != nil {
		return nil, err
	}
	for _, id := range ids {
		l := f.layers[id]
		if l == nil {
			return nil, fmt.Errorf("layer %d: %w", id, errRemoved)
		}
		layers = append(layers, l)
	}
	if !mergeable(layers) {
		return nil, fmt.Errorf("layers %v cannot be merged", ids)
	}
	return layers, nil
}

// dropMerged forgets the merged trees that keep says no to.
func (f *FS) dropMerged(keep func(*merged) bool) error {
	f.mu.Lock()
	var gone []*merged
	for id, m := range f.merges {
		if !keep(m) {
			gone = append(gone, m)
			delete(f.merges, id)
		}
	}
	f.mu.Unlock()
	var err error
	for _, m := range gone {
		for _, s := range f.sessions {
			s.Server().EntryNotify(rootIno, strconv.FormatUint(uint64(m.id), 10))
		}
		if rerr := os.Remove(f.mergedFile(m.id)); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
