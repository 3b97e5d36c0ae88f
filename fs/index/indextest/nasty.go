package indextest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Time is the modification time that entries made here have unless they say
// otherwise: without a fraction, which not every format keeps.
var Time = time.Date(2024, 2, 29, 12, 34, 56, 0, time.UTC)

// File returns a regular file, 0644.
func File(name string, data []byte) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: Time}, Data: data}
}

// Dir returns a folder, 0755.
func Dir(name string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: 0o755, ModTime: Time}}
}

// Symlink returns a symbolic link to target.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: Time}}
}

// Link returns a hard link to target, which must come earlier. It carries the
// attributes of File, as a tar of such files would.
func Link(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644, ModTime: Time}}
}

// Node returns a device (tar.TypeChar, tar.TypeBlock) or a FIFO (tar.TypeFifo).
func Node(name string, typ byte, major, minor int64) Entry {
	return Entry{Header: tar.Header{Typeflag: typ, Name: name, Mode: 0o600, Devmajor: major, Devminor: minor, ModTime: Time}}
}

// Mode returns e with another mode.
func (e Entry) Mode(mode int64) Entry { e.Header.Mode = mode; return e }

// Owner returns e with another owner.
func (e Entry) Owner(uid, gid int) Entry { e.Uid, e.Gid = uid, gid; return e }

// At returns e with another modification time.
func (e Entry) At(t time.Time) Entry { e.ModTime = t; return e }

// Xattr returns e with one more extended attribute.
func (e Entry) Xattr(name, value string) Entry {
	m := map[string]string{"SCHILY.xattr." + name: value}
	for k, v := range e.PAXRecords {
		m[k] = v
	}
	e.PAXRecords = m
	return e
}

// Capability returns e with cap_net_bind_service, as setcap writes it.
func (e Entry) Capability() Entry {
	return e.Xattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
}

// Random returns n bytes that do not compress, the same for a seed.
func Random(seed uint64, n int) []byte {
	var key [32]byte
	copy(key[:], fmt.Sprintf("indextest %d", seed))
	b := make([]byte, n)
	_, err := rand.NewChaCha8(key).Read(b)
	must(err)
	return b
}

// Text returns n bytes that compress about as well as program text does.
func Text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([]string, 500)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", r.Uint64()>>uint(20+r.IntN(36)))
	}
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(b, words[int(r.ExpFloat64()*60)%len(words)]...)
	}
	return b[:n]
}

// Nasty returns a layer of tar corner cases that containerd unpacks and that
// every form can hold.
func Nasty() []Entry {
	return slices.Concat(Lowest(), whiteouts())
}

// Lowest returns what Nasty does without that which hides layers below, as the
// lowest layer of an image has it.
func Lowest() []Entry {
	return slices.Concat([]Entry{Dir("./")}, names(), attributes(), links(), contents(), twice())
}

// Many returns a folder "many" with n small files, not in name order.
func Many(n int) []Entry {
	e := []Entry{Dir("many")}
	for i := range n {
		e = append(e, File(fmt.Sprintf("many/f%05d", i*7919%n), fmt.Appendf(nil, "%d\n", i)))
	}
	return e
}

func names() []Entry {
	long := strings.Repeat("n", 255)
	deep := strings.Repeat("deeper/", 60)
	return []Entry{
		Dir("names"),
		File("names/"+long, []byte("255 bytes")),
		File("names/"+strings.Repeat("é", 127), []byte("254 bytes of UTF-8")),
		Symlink("names/long-target", strings.Repeat("t/", 400)+"end"),
		Dir("names/" + deep),
		File("names/"+deep+"file", []byte("deep")),
		File("names/ünï çødé 日本 🦊", []byte("unicode")),
		File("names/new\nline\ttab \\ \"quote\" *?", []byte("odd")),
		File("names/ leading and trailing ", []byte("spaces")),
		File("names/-rf", []byte("dash")),
		File("names/...", []byte("three dots")),
		File("./names/./dotted//slashes", []byte("cleaned")),
		File("names/.wh", []byte("no whiteout: too short a prefix")),
		File("/absolute/file", []byte("absolute")),
		File("implied/by/this/file", []byte("implied")),
		Dir("implied/by"), // late: no longer implied
	}
}

func attributes() []Entry {
	return []Entry{
		Dir("attr"),
		File("attr/suid", []byte("#!suid")).Mode(0o4755),
		File("attr/sgid", []byte("#!sgid")).Mode(0o2711),
		File("attr/none", []byte("mode 0")).Mode(0),
		File("attr/type-bits", []byte("mode with S_IFREG")).Mode(0o100640),
		Dir("attr/sticky").Mode(0o1777),
		Dir("attr/sgid-dir").Mode(0o2770).Owner(0, 50),
		File("attr/owned", []byte("owned")).Owner(1000, 1001),
		File("attr/high-ids", []byte("high")).Owner(4_000_000_000, 4_294_967_294),
		File("attr/cap", []byte("cap")).Mode(0o755).Owner(12, 34).Capability(),
		File("attr/user-xattr", []byte("x")).Xattr("user.one", "1").Xattr("user.two", "").Xattr("user.bin", "\x00\xff\n=\x00"),
		File("attr/big-xattr", []byte("x")).Xattr("user.big", strings.Repeat("v", 2000)),
		Dir("attr/dir-xattr").Xattr("user.dir", "d").Xattr("trusted.t", "t"),
		Symlink("attr/symlink-xattr", "nowhere").Xattr("trusted.link", "l").Owner(3, 4),
		File("attr/epoch", nil).At(time.Unix(0, 0)),
		File("attr/future", nil).At(time.Unix(1<<32+5, 0)),
		File("attr/before-1970", nil).At(time.Unix(-86400, 0)),
	}
}

func links() []Entry {
	return []Entry{
		Dir("links"),
		File("links/a", []byte("linked content")),
		Link("links/b", "links/a"),
		Link("links/c", "./links/b"),
		Link("links/d", "/links/a"),
		File("links/owned", []byte("x")).Owner(1, 1).Mode(0o600),
		Link("links/reowned", "links/owned").Owner(2, 2).Mode(0o4755).At(Time.Add(time.Hour)),
		Symlink("links/sym", "a"),
		Link("links/link-to-sym", "links/sym").Mode(0o777),
		Symlink("links/absolute", "/etc/passwd"),
		Symlink("links/dangling", "../../../nowhere"),
		Symlink("links/loop", "loop"),
		Node("links/null", tar.TypeChar, 1, 3).Mode(0o666),
		Node("links/big", tar.TypeChar, 300, 70_000),
		Node("links/disk", tar.TypeBlock, 8, 1).Mode(0o660).Owner(0, 6),
		Node("links/fifo", tar.TypeFifo, 0, 0).Mode(0o622),
		Link("links/fifo2", "links/fifo").Mode(0o622),
	}
}

func whiteouts() []Entry {
	return []Entry{
		File("gone/.wh.file", nil),
		File("gone/.wh.folder", nil),
		Dir("opaque"),
		File("opaque/.wh..wh..opq", nil),
		File("opaque/kept", []byte("kept")),
		File("late-opaque/first", []byte("first")),
		File("late-opaque/.wh..wh..opq", nil),
		File(".wh.at-root", nil),
	}
}

func contents() []Entry {
	zeros := make([]byte, 100_000)
	holes := bytes.Clone(zeros)
	copy(holes[50_000:], "an island")
	return []Entry{
		Dir("data"),
		File("data/empty", nil),
		File("data/one", []byte("1")),
		File("data/block", Text(1, 512)),
		File("data/chunk", Text(2, 4096)),
		File("data/chunk-and-one", Text(3, 4097)),
		File("data/zeros", zeros),
		File("data/island", holes),
		File("data/random", Random(4, 150_000)),
		File("data/text", Text(5, 400_000)),
		File("data/empty2", nil),
		File("data/tail", Random(6, 1000)),
	}
}

func twice() []Entry {
	return []Entry{
		File("twice/file", Text(7, 5000)),
		File("twice/file", Text(8, 9000)).Mode(0o600).Owner(7, 8),
		Dir("twice/dir").Mode(0o700).Owner(5, 5),
		File("twice/dir/kept", []byte("kept")),
		Dir("twice/dir").Mode(0o751).Owner(6, 6),
		File("twice/becomes-dir", []byte("file")),
		Dir("twice/becomes-dir"),
		File("twice/becomes-dir/inside", []byte("inside")),
		Dir("twice/becomes-file"),
		File("twice/becomes-file/lost", Text(9, 3000)),
		File("twice/becomes-file", []byte("file now")),
		Symlink("twice/sym", "file"),
		File("twice/sym", []byte("no longer a symlink")),
		File("twice/file-last", []byte("end")),
	}
}
