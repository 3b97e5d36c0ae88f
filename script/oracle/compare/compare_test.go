package compare_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/script/oracle/compare"
)

// pair returns two equal trees of all types of files.
func pair(t *testing.T) (a, b string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: devices and owners")
	}
	for _, p := range []*string{&a, &b} {
		*p = t.TempDir()
		for _, err := range []error{
			os.MkdirAll(filepath.Join(*p, "dir/sub"), 0o755),
			os.WriteFile(filepath.Join(*p, "dir/file"), bytes.Repeat([]byte("content "), 100_000), 0o644),
			os.WriteFile(filepath.Join(*p, "dir/empty"), nil, 0o600),
			os.Link(filepath.Join(*p, "dir/file"), filepath.Join(*p, "dir/link")),
			os.WriteFile(filepath.Join(*p, "dir/other"), []byte("other"), 0o644),
			os.Link(filepath.Join(*p, "dir/other"), filepath.Join(*p, "dir/other-link")),
			os.Symlink("file", filepath.Join(*p, "dir/sym")),
			unix.Mknod(filepath.Join(*p, "dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
			unix.Setxattr(filepath.Join(*p, "dir/file"), "user.x", []byte("value"), 0),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		settle(t, *p)
	}
	return a, b
}

// settle gives everything below root one time.
func settle(t *testing.T, root string) {
	t.Helper()
	err := filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		ts := []unix.Timespec{{Sec: 1e9, Nsec: 123}, {Sec: 1e9, Nsec: 456}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTrees(t *testing.T) {
	tests := []struct {
		name   string
		change func(dir string) error
		want   string // path and what of the first difference
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"mode", func(d string) error { return os.Chmod(d+"/dir/empty", 0o601) }, "dir/empty: mode"},
		{"setuid", func(d string) error { return unix.Chmod(d+"/dir/empty", 0o4600) }, "dir/empty: mode"},
		{"uid", func(d string) error { return os.Lchown(d+"/dir/sym", 5, 0) }, "dir/sym: uid"},
		{"gid", func(d string) error { return os.Lchown(d+"/dev", 0, 5) }, "dev: gid"},
		{"target", func(d string) error { return relink(d+"/dir/sym", "life") }, "dir/sym: target"},
		{"xattr value", func(d string) error { return unix.Setxattr(d+"/dir/file", "user.x", []byte("other"), 0) }, "dir/file: xattr user.x"},
		{"xattr more", func(d string) error { return unix.Setxattr(d+"/dir/sub", "user.y", nil, 0) }, "dir/sub: xattr user.y"},
		{"xattr trusted", func(d string) error { return unix.Lsetxattr(d+"/dir/sym", "trusted.y", []byte("1"), 0) }, "dir/sym: xattr trusted.y"},
		{"xattr gone", func(d string) error { return unix.Removexattr(d+"/dir/file", "user.x") }, "dir/file: xattr user.x"},
		{"late byte", func(d string) error { return writeAt(d+"/dir/file", 799_999, "X") }, "dir/file: content at 799999"},
		{"early byte", func(d string) error { return writeAt(d+"/dir/file", 1, "X") }, "dir/file: content at 1"},
		{"longer", func(d string) error { return os.Truncate(d+"/dir/empty", 1) }, "dir/empty: content at 0"},
		{"missing", func(d string) error { return os.Remove(d + "/dir/empty") }, "dir/empty: entry"},
		{"extra", func(d string) error { return os.Mkdir(d+"/dir/sub/extra", 0o755) }, "dir/sub/extra: entry"},
		{"type", func(d string) error { return retype(d + "/dir/empty") }, "dir/empty: type"},
		{"rdev", func(d string) error { return renode(d+"/dev", unix.Mkdev(1, 5)) }, "dev: rdev"},
		{"links", func(d string) error { return relinkHard(d+"/dir/link", d+"/dir/other") }, "dir/file: links"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			if err := tt.change(b); err != nil {
				t.Fatal(err)
			}
			settle(t, b)
			diffs, stats, err := compare.Trees(t.Context(), a, b, compare.Options{IgnoreDirNlink: true})
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				if len(diffs) > 0 || stats.Entries != 10 || stats.Files != 5 {
					t.Errorf("equal trees: %v, %+v", diffs, stats)
				}
				return
			}
			if len(diffs) == 0 || !strings.HasPrefix(diffs[0].String(), tt.want+":") && !strings.HasPrefix(diffs[0].String(), tt.want+" ") {
				t.Errorf("found %v, want %q first", diffs, tt.want)
			}
		})
	}
}

func relink(p, target string) error {
	if err := os.Remove(p); err != nil {
		return err
	}
	return os.Symlink(target, p)
}

func relinkHard(p, target string) error {
	if err := os.Remove(p); err != nil {
		return err
	}
	return os.Link(target, p)
}

func retype(p string) error {
	if err := os.Remove(p); err != nil {
		return err
	}
	return os.Mkdir(p, 0o755)
}

func renode(p string, dev uint64) error {
	if err := os.Remove(p); err != nil {
		return err
	}
	return unix.Mknod(p, unix.S_IFCHR|0o600, int(dev))
}

func writeAt(p string, off int64, s string) error {
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(s), off)
	return errorsFirst(err, f.Close())
}

func errorsFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestHardLinkGroups tells trees apart whose link counts are equal.
func TestHardLinkGroups(t *testing.T) {
	a, b := pair(t)
	for _, p := range []string{"dir/file", "dir/link", "dir/other", "dir/other-link"} {
		if err := os.Remove(filepath.Join(b, p)); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(a, p)); err != nil {
			t.Fatal(err)
		}
	}
	for dir, links := range map[string][2]string{a: {"1", "2"}, b: {"2", "1"}} {
		for i, n := range []string{"1", "2"} {
			if err := os.WriteFile(filepath.Join(dir, n), []byte("same"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Link(filepath.Join(dir, n), filepath.Join(dir, "link-of-"+links[i])); err != nil {
				t.Fatal(err)
			}
		}
		settle(t, dir)
	}
	diffs, _, err := compare.Trees(t.Context(), a, b, compare.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(diffs) == 0 || diffs[0].What != "hard link to" {
		t.Errorf("differences: %v, want exchanged hard links", diffs)
	}
}

func TestTime(t *testing.T) {
	a, b := pair(t)
	ts := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9, Nsec: 457}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(b, "dir/sym"), ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
	diffs, _, err := compare.Trees(t.Context(), a, b, compare.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(diffs) != 1 || diffs[0].Path != "dir/sym" || diffs[0].What != "mtime" {
		t.Errorf("differences: %v, want the one nanosecond", diffs)
	}
}

func TestReaders(t *testing.T) {
	load := compare.Load{Readers: 4, Seed: 7, Rounds: 300}
	tests := []struct {
		name   string
		change func(dir string) error
		want   string
	}{
		{"same", func(string) error { return nil }, ""},
		{"content", func(d string) error { return os.WriteFile(d+"/dir/other", []byte("OTHER"), 0o644) }, "content at"},
		{"short", func(d string) error { return os.Truncate(d+"/dir/file", 4096) }, ""},
		{"attributes", func(d string) error { return os.Chmod(d+"/dir/empty", 0o640) }, "mode"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			if err := tt.change(b); err != nil {
				t.Fatal(err)
			}
			settle(t, b)
			ops, diff, err := compare.Readers(t.Context(), a, b, load)
			if err != nil {
				t.Fatal(err)
			}
			if tt.name == "same" {
				if diff != nil || ops != 4*300 {
					t.Errorf("equal trees: %d operations, %v", ops, diff)
				}
				return
			}
			if diff == nil || !strings.Contains(diff.What, tt.want) {
				t.Errorf("found %v, want %q", diff, tt.want)
			}
		})
	}
}

func TestReadersEnd(t *testing.T) {
	a, b := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, diff, err := compare.Readers(ctx, a, b, compare.Load{Readers: 2}); err != nil || diff != nil {
		t.Errorf("readers that ran out of time: %v, %v", diff, err)
	}
}
