package snapshot

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// idMap is how user and group IDs of a container are mapped to the host's, in
// the form of the labels: "container:host:size", several separated by commas.
type idMap struct{ uid, gid string }

// newIDMap reads the labels of a snapshot; they may be absent.
func newIDMap(labels map[string]string) (idMap, error) {
	m := idMap{uid: labels[snapshots.LabelSnapshotUIDMapping], gid: labels[snapshots.LabelSnapshotGIDMapping]}
	if !m.set() {
		return m, nil
	}
	_, _, err := m.root()
	return m, err
}

func (m idMap) set() bool { return m.uid != "" || m.gid != "" }

// options returns m as options of a mount for containerd.
func (m idMap) options() (options []string) {
	if m.uid != "" {
		options = append(options, "uidmap="+m.uid)
	}
	if m.gid != "" {
		options = append(options, "gidmap="+m.gid)
	}
	return options
}

// root returns the host's IDs of the container's root user.
func (m idMap) root() (uid, gid int, err error) {
	if uid, err = hostRoot(m.uid); err != nil {
		return 0, 0, err
	}
	gid, err = hostRoot(m.gid)
	return uid, gid, err
}

func hostRoot(mapping string) (int, error) {
	if mapping == "" {
		return 0, nil
	}
	for part := range strings.SplitSeq(mapping, ",") {
		var n [3]uint64 // container, host, size
		fields := strings.Split(part, ":")
		if len(fields) != len(n) {
			return 0, fmt.Errorf("ID mapping %q: %w", mapping, errdefs.ErrInvalidArgument)
		}
		for i, f := range fields {
			var err error
			if n[i], err = strconv.ParseUint(f, 10, 32); err != nil {
				return 0, fmt.Errorf("ID mapping %q: %w: %w", mapping, err, errdefs.ErrInvalidArgument)
			}
		}
		if n[0] == 0 && n[2] > 0 {
			return int(n[1]), nil
		}
	}
	return 0, fmt.Errorf("ID mapping %q has no root user: %w", mapping, errdefs.ErrInvalidArgument)
}
