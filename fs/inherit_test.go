package fs

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// acl is an ACL of POSIX as its xattr has it: user 1000 may read and write as
// far as the mask lets it.
func acl() string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, ^uint32(0)}, {2, 6, 1000}, {4, 4, ^uint32(0)}, {16, 6, ^uint32(0)}, {32, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

const accessACL, defaultACL = "system.posix_acl_access", "system.posix_acl_default"

// TestInherit: what is made below a directory with setgid or an ACL comes out
// as with containerd, whether the directory's entry comes first or last.
func TestInherit(t *testing.T) {
	e := newEnv(t, nil)
	tarball := indextest.Tar(append(content(60),
		indextest.Dir("shared").Mode(0o2775).Owner(7, 50),
		indextest.Dir("shared/dir"), indextest.File("shared/file", []byte("1")), indextest.Symlink("shared/link", "file"),
		indextest.Dir("shared/dir/deep"), indextest.File("shared/implied/again/file", []byte("2")),
		indextest.Dir("late/dir"), indextest.File("late/file", []byte("3")), indextest.File("late/implied/file", nil),
		indextest.Dir("late").Mode(0o2775).Owner(7, 50),
		indextest.File("own", []byte("4")).Mode(0o660).Xattr(accessACL, acl()),
		indextest.Dir("both").Mode(0o2660).Xattr(accessACL, acl()).Xattr(defaultACL, acl()),
		indextest.Dir("last/dir"), indextest.File("last/file", []byte("5")),
		indextest.Dir("last").Xattr(defaultACL, acl()),
	)...)
	for _, form := range []indextest.Layer{indextest.Gzip(tarball, indextest.GzipOptions{}), indextest.EStargz(tarball, indextest.EStargzOptions{})} {
		want := unpacked(t, form.Tar)
		l := e.layer(e.want(form))
		same(t, want, filepath.Join(e.root, "m", l.name()), impliedPaths(l))
		if err := l.hurry(); err != nil {
			t.Fatal(err)
		}
		same(t, want, l.tree, impliedPaths(l))
	}
}

// TestDefaultACL: files have the ACLs that the tar gives them, though they lie
// in a directory that would hand down its own to new ones.
func TestDefaultACL(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(indextest.Gzip(indextest.Tar(
		indextest.Dir("d").Xattr(defaultACL, acl()), indextest.Dir("d/dir"), indextest.File("d/file", nil), indextest.File("d/implied/file", nil),
		indextest.File("odd", nil).Mode(0o604).Xattr(accessACL, acl()), // the mode wins, as with containerd
	), indextest.GzipOptions{})))
	if err := l.hurry(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(e.root, "m", l.name()), l.tree} {
		for _, path := range []string{"d/dir", "d/file", "d/implied", "d/implied/file"} {
			for _, name := range []string{accessACL, defaultACL} {
				if _, err := unix.Getxattr(filepath.Join(dir, path), name, nil); !errors.Is(err, unix.ENODATA) {
					t.Errorf("%s has %s: %v", filepath.Join(dir, path), name, err)
				}
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "odd"), &st); err != nil || st.Mode&0o7777 != 0o604 {
			t.Errorf("mode of odd in %s is %o: %v", dir, st.Mode&0o7777, err)
		}
	}
}
