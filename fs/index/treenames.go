package index

import (
	"errors"
	"fmt"
	"hash/maphash"
	"path"

	"golang.org/x/sys/unix"
)

// find returns the position of the entry dir/name.
func (t *tree) find(dir uint32, name string) (int, bool) {
	_, e := t.probe(dir, name)
	return e, e >= 0 && t.ents[e].ino != 0
}

// probe returns the slot of dir/name and the entry in it: -1 for a free slot.
func (t *tree) probe(dir uint32, name string) (slot, e int) {
	mask := len(t.slots) - 1
	for slot = int(t.hash(dir, name)) & mask; t.slots[slot] != 0; slot = (slot + 1) & mask {
		e = int(t.slots[slot] - 1)
		if t.ents[e].dir == dir && string(t.name(e)) == name {
			return slot, e
		}
	}
	return slot, -1
}

func (t *tree) hash(dir uint32, name string) uint64 {
	return maphash.String(t.seed, name) ^ uint64(dir)*0x9e3779b97f4a7c15>>7
}

func (t *tree) name(e int) []byte {
	d := &t.ents[e]
	return t.names[d.name : d.name+uint32(d.nameLen)]
}

// insert names ino in dir, where name is free.
func (t *tree) insert(dir uint32, name string, ino uint32) error {
	slot, e := t.probe(dir, name)
	if e >= 0 {
		t.ents[e].ino = ino
		return nil
	}
	if len(t.ents) >= 2*t.lim.Inodes {
		return fmt.Errorf("more than %d names: %w", 2*t.lim.Inodes, ErrInvalid)
	}
	off, err := t.string(name)
	if err != nil {
		return err
	}
	t.ents = append(t.ents, dirent{dir: dir, ino: ino, next: t.nodes[dir].child, name: off, nameLen: uint8(len(name))})
	t.nodes[dir].child = uint32(len(t.ents))
	t.slots[slot] = uint32(len(t.ents))
	if len(t.ents)*3 > len(t.slots)*2 {
		t.grow()
	}
	return nil
}

func (t *tree) grow() {
	t.slots = make([]uint32, 2*len(t.slots))
	mask := len(t.slots) - 1
	for e := range t.ents {
		slot := int(t.hash(t.ents[e].dir, string(t.name(e)))) & mask
		for t.slots[slot] != 0 {
			slot = (slot + 1) & mask
		}
		t.slots[slot] = uint32(e + 1)
	}
}

// string keeps s in the arena.
func (t *tree) string(s string) (off uint32, err error) {
	if int64(len(t.names)+len(s))+t.extra > t.lim.Strings {
		return 0, fmt.Errorf("more than %d bytes of names: %w", t.lim.Strings, ErrInvalid)
	}
	off = uint32(len(t.names))
	t.names = append(t.names, s...)
	return off, nil
}

var errLinks = errors.New("too many symbolic links")

// rootPath follows the symbolic links in p, the last component's included, as
// containerd (through containerd/continuity) does when it unpacks: inside the
// layer, with names that do not exist taken as they are.
func (t *tree) rootPath(p string) (string, error) {
	walked := 0
	for p != "" {
		before := walked
		next, err := t.walkLinks(p, &walked)
		if err != nil {
			return "", err
		}
		p = next
		if before == walked {
			clean := path.Join("/", next)
			if p == clean {
				return clean, nil
			}
			p = clean
		}
	}
	return "/", nil
}

func (t *tree) walkLinks(p string, walked *int) (string, error) {
	if len(p) > 2*maxPath {
		return "", fmt.Errorf("path of %d bytes: %w", len(p), ErrInvalid)
	}
	dir, file := path.Split(p)
	switch {
	case dir == "":
		next, _, err := t.walkLink(file, walked)
		return next, err
	case file == "":
		if dir == "/" {
			return dir, nil
		}
		return t.walkLinks(dir[:len(dir)-1], walked)
	}
	newDir, err := t.walkLinks(dir, walked)
	if err != nil {
		return "", err
	}
	next, isLink, err := t.walkLink(path.Join(newDir, file), walked)
	if err != nil || !isLink || path.IsAbs(next) {
		return next, err
	}
	return path.Join(newDir, next), nil
}

func (t *tree) walkLink(p string, walked *int) (next string, isLink bool, err error) {
	if *walked > maxLinks {
		return "", false, fmt.Errorf("%w: %w", errLinks, ErrInvalid)
	}
	p = path.Join("/", p)
	e, ok, err := t.lstat(p)
	if err != nil || !ok || e < 0 {
		return p, false, err
	}
	n := &t.nodes[t.ents[e].ino]
	if n.mode&unix.S_IFMT != unix.S_IFLNK {
		return p, false, nil
	}
	*walked++
	return string(t.names[n.target : n.target+n.targetLen]), true, nil
}

// lstat returns the entry that the clean absolute path p names: -1 for the
// root. A symbolic link on the way counts as missing, because the callers
// resolve such paths again from the root.
func (t *tree) lstat(p string) (e int, ok bool, err error) {
	dir, e := uint32(rootIno), -1
	for name := range components(p) {
		switch t.nodes[dir].mode & unix.S_IFMT {
		case unix.S_IFLNK:
			return 0, false, nil
		case unix.S_IFDIR:
		default:
			return 0, false, fmt.Errorf("%q is below what is no folder: %w", shorten(p), ErrInvalid)
		}
		if len(name) > maxName {
			return 0, false, fmt.Errorf("name of %d bytes: %w", len(name), ErrInvalid)
		}
		if e, ok = t.find(dir, name); !ok {
			return 0, false, nil
		}
		dir = t.ents[e].ino
	}
	return e, true, nil
}

// follow returns the entry that p leads to, all symbolic links followed: -1 for the
// root.
func (t *tree) follow(p string) (e int, ok bool, err error) {
	if e, ok, err = t.lstat(p); err == nil && ok && e >= 0 && t.isDir(t.ents[e].ino) {
		return e, true, nil // there was none
	}
	if p, err = t.rootPath(p); err != nil {
		return 0, false, err
	}
	return t.lstat(p)
}

// linkTarget returns the entry a hard link's target names: its folder's
// symbolic links are followed, its own are not.
func (t *tree) linkTarget(target string) (e int, ok bool, err error) {
	dir, base := path.Split(target)
	if dir, err = t.rootPath(dir); err != nil {
		return 0, false, err
	}
	return t.lstat(path.Join(dir, base))
}
