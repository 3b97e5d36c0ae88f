package index

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	paxXattr        = "SCHILY.xattr."
	capabilityXattr = "security.capability"
)

// setAttr gives ino the owner, mode, extended attributes and time of h, in the
// order (owner, attributes, mode, time) of which the effects can be seen.
func (t *tree) setAttr(ino uint32, h *tar.Header) error {
	n := &t.nodes[ino]
	setOwner(n, h)
	if !t.isDir(ino) { // chown takes capabilities away: a hard link's too
		t.dropXattr(ino, capabilityXattr)
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if keep, err := t.keepsXattr(ino, name, value); err != nil {
			return err
		} else if !keep {
			continue
		}
		if err := t.setXattr(ino, name, value); err != nil {
			return err
		}
	}
	if n.mode&unix.S_IFMT != unix.S_IFLNK {
		n.mode = n.mode&unix.S_IFMT | uint32(h.Mode)&0o7777
	}
	n.mtime, n.nsec = boundTime(h.ModTime)
	return nil
}

// setOwner: IDs are 32 bits wide to the kernel, and -1 means "as it is".
func setOwner(n *node, h *tar.Header) {
	if id := uint32(h.Uid); id != math.MaxUint32 {
		n.uid = id
	}
	if id := uint32(h.Gid); id != math.MaxUint32 {
		n.gid = id
	}
}

// boundTime is the time that containerd sets for m: the epoch for what lies
// before it or cannot be said in nanoseconds since then.
func boundTime(m time.Time) (sec int64, nsec uint32) {
	if m.Before(time.Unix(0, 0)) || m.After(time.Unix(0, math.MaxInt64)) {
		return 0, 0
	}
	return m.Unix(), uint32(m.Nanosecond())
}

// keepsXattr reports whether an attribute would be on disk after containerd has
// tried to set it: it passes over what the file system does not support.
func (t *tree) keepsXattr(ino uint32, name, value string) (bool, error) {
	mode := t.nodes[ino].mode & unix.S_IFMT
	file := mode == unix.S_IFREG || mode == unix.S_IFDIR
	switch prefix, rest, _ := strings.Cut(name, "."); {
	case name == "" || len(name) > maxXattrKey || strings.IndexByte(name, 0) >= 0:
		return false, fmt.Errorf("extended attribute %q: %w", shorten(name), ErrInvalid)
	case prefix == "trusted":
		return false, nil
	case len(value) > maxXattr:
		return false, fmt.Errorf("extended attribute %q of %d bytes: %w", name, len(value), ErrInvalid)
	case (prefix == "user" || prefix == "security") && rest == "":
		return false, fmt.Errorf("extended attribute %q: %w", name, ErrInvalid)
	case name == capabilityXattr && !validCapability(value):
		return false, fmt.Errorf("extended attribute %q is malformed: %w", name, ErrInvalid)
	case prefix == "user":
		return file, nil
	case prefix == "security":
		return true, nil
	case name == "system.posix_acl_access":
		return mode != unix.S_IFLNK, nil
	case name == "system.posix_acl_default":
		return mode == unix.S_IFDIR, nil
	}
	return false, nil
}

// validCapability accepts the two forms that the kernel accepts.
func validCapability(v string) bool {
	if len(v) != 20 && len(v) != 24 {
		return false
	}
	const effective, revision = 1, 0xFF000000
	magic := binary.LittleEndian.Uint32([]byte(v[:4]))
	return magic&^effective&^revision == 0 && magic>>24 == uint32(len(v)/4-3)
}

func (t *tree) setXattr(ino uint32, name, value string) error {
	t.extra += int64(len(name) + len(value))
	if t.extra+int64(len(t.names)) > t.lim.Strings {
		return fmt.Errorf("more than %d bytes of extended attributes: %w", t.lim.Strings, ErrInvalid)
	}
	x := xattr{t.unique(name), t.unique(value)}
	set := t.xattrs[ino]
	i, ok := slices.BinarySearchFunc(set, name, func(a xattr, b string) int { return strings.Compare(a.name, b) })
	if ok {
		set[i] = x
		return nil
	}
	if len(set) >= maxXattrs {
		return fmt.Errorf("more than %d extended attributes: %w", maxXattrs, ErrInvalid)
	}
	t.xattrs[ino] = slices.Insert(set, i, x)
	return nil
}

func (t *tree) dropXattr(ino uint32, name string) {
	if set, ok := t.xattrs[ino]; ok {
		t.xattrs[ino] = slices.DeleteFunc(set, func(x xattr) bool { return x.name == name })
	}
}

// unique returns s without the header it is part of, one copy of each.
func (t *tree) unique(s string) string {
	if u, ok := t.intern[s]; ok {
		return u
	}
	s = strings.Clone(s)
	t.intern[s] = s
	return s
}

// finish ends the tree: folders get their times, inodes their names.
func (t *tree) finish() error {
	for _, d := range t.dirs {
		e, ok, err := t.follow(d.name)
		if err == nil && !ok {
			err = fmt.Errorf("folder is gone at the end of the layer: %w", ErrInvalid)
		}
		if err != nil {
			return fmt.Errorf("entry %q: %w", shorten(d.name), err)
		}
		if e >= 0 {
			n := &t.nodes[t.ents[e].ino]
			n.mtime, n.nsec = d.mtime, d.nsec
		}
	}
	for e := range t.ents {
		d := &t.ents[e]
		if d.ino == 0 {
			continue
		}
		if n := &t.nodes[d.ino]; n.parent == 0 {
			n.parent, n.entry = d.dir, uint32(e)
		}
	}
	t.inheritTimes()
	return nil
}

// inheritTimes makes folders that the tar only implies, and the root, as young
// as their youngest entry. (On disk their time is that of the unpacking.) A
// folder has a higher number than the one it is in.
func (t *tree) inheritTimes() {
	for ino := len(t.nodes) - 1; ino > rootIno; ino-- {
		n := &t.nodes[ino]
		if n.flags&flagDead != 0 {
			continue
		}
		d := &t.nodes[n.parent]
		if n.parent != rootIno && d.flags&flagImplied == 0 {
			continue
		}
		if n.mtime > d.mtime || n.mtime == d.mtime && n.nsec > d.nsec {
			d.mtime, d.nsec = n.mtime, n.nsec
		}
	}
}
