package store

import (
	"bytes"
	"os"
	"testing"
)

// RewriteBoot makes the map file at path one of another boot.
func RewriteBoot(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	m, err := decodeMap(b)
	if err != nil {
		return err
	}
	m.boot[0] ^= 1
	return os.WriteFile(path, m.encode(), 0o600)
}

// FuzzMap holds that the decoder takes what encode makes and nothing else, and
// that what it takes can be relied on.
func FuzzMap(f *testing.F) {
	f.Add(blobMap{size: 100}.encode())
	f.Add(blobMap{size: 100, verified: true, have: ranges{{0, 100}}}.encode())
	f.Add(blobMap{size: 1 << 40, boot: boot{1, 2, 3}, have: ranges{{1, 2}, {4, 5}, {1 << 39, 1 << 39}}}.encode())
	f.Add([]byte(mapMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= mapHeader {
			b = fixChecksum(b)
		}
		m, err := decodeMap(b)
		if err != nil {
			return
		}
		if !bytes.Equal(m.encode(), b) {
			t.Error("decoded map encodes to something else")
		}
		var again ranges
		for _, r := range m.have {
			if r.Off < 0 || r.Len <= 0 || r.End() > m.size || again.add(r.Off, r.End()) != r.Len {
				t.Errorf("range %v of %v", r, m.have)
			}
		}
		if len(again) != len(m.have) {
			t.Errorf("ranges touch: %v", m.have)
		}
	})
}

// fixChecksum lets the fuzzer get past the checksum.
func fixChecksum(b []byte) []byte {
	return append(bytes.Clone(b), checksum(b)...)
}
