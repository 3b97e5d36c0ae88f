package peer

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"", "bytes=0-0", "bytes=5-", "bytes=-5", "bytes=9223372036854775807-", "bytes=1-2,3-4", "bytes= 1-2 "} {
		f.Add(s, int64(1000))
	}
	f.Fuzz(func(t *testing.T, s string, size int64) {
		size = max(size, -(size + 1)) // not negative
		off, n, err := parseRange(s, size)
		if err != nil {
			return
		}
		if off < 0 || n < 0 || off > size || n > size-off || n == 0 && s != "" {
			t.Errorf("%q of %d bytes is %d bytes at %d", s, size, n, off)
		}
		if n > 0 {
			o2, n2, s2, err := parseContentRange(contentRange(off, n, size))
			if err != nil || o2 != off || n2 != n || s2 != size {
				t.Errorf("%d bytes at %d of %d became %d at %d of %d, %v", n, off, size, n2, o2, s2, err)
			}
		}
	})
}

func FuzzParseContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 0-9/*")
	f.Fuzz(func(t *testing.T, s string) {
		if off, n, size, err := parseContentRange(s); err == nil && (off < 0 || n < 1 || n > size-off) {
			t.Errorf("%q is %d bytes at %d of %d", s, n, off, size)
		}
	})
}

// FuzzFrames reads any stream and checks that what was understood reads the
// same again when it is written.
func FuzzFrames(f *testing.F) {
	some := p2p.NewHave(100)
	for _, i := range []int{0, 1, 5, 98, 99} {
		some.Add(i)
	}
	f.Add(appendFrame(appendFrame(nil, frameWhole, p2p.FullHave(100)), frameAlive, nil), 100)
	f.Add(difference(nil, some, p2p.NewHave(100)), 100)
	f.Add(difference(nil, p2p.FullHave(100), some), 100)
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, 5)
	f.Fuzz(func(t *testing.T, b []byte, pieces int) {
		if pieces < 0 || pieces > p2p.MaxPieces {
			return
		}
		r := bufio.NewReader(bytes.NewReader(b))
		for {
			kind, have, err := readFrame(r, pieces)
			if err != nil {
				return
			}
			again, have2, err := readFrame(bufio.NewReader(bytes.NewReader(appendFrame(nil, kind, have))), pieces)
			if err != nil || again != kind || (have == nil) != (have2 == nil) || have != nil && !have.Equal(have2) {
				t.Fatalf("%d %v became %d %v, %v", kind, have, again, have2, err)
			}
		}
	})
}
