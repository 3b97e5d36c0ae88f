package mirror_test

import (
	"encoding/binary"
	"io"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

// BenchmarkFirstByte measures how long the first byte of a blob that nobody has
// takes: from the registry, and through the mirror, with what comes before a blob in
// a pull done before.
func BenchmarkFirstByte(b *testing.B) {
	reg := origintest.New(b, origintest.Options{})
	f := open(b, reg.URL(), nil)
	for name, at := range map[string]string{"directly": reg.URL(), "mirror": f.url} {
		b.Run(name, func(b *testing.B) {
			for i := range b.N {
				b.StopTimer()
				content := data(1, 4*mib)
				binary.LittleEndian.PutUint64(content, uint64(i))
				content[8] = at[len(at)-1]
				d := reg.AddBlob("a", content)
				firstOf(b, f.client, at, d, http.MethodHead)
				b.StartTimer()
				firstOf(b, f.client, at, d, http.MethodGet)
			}
		})
	}
}

// firstOf makes a request for a blob and reads its first byte, then the rest without
// the timer.
func firstOf(b *testing.B, client *http.Client, at string, d digest.Digest, method string) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), method, at+blobPath("a", d), nil)
	if err != nil {
		b.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if method == http.MethodGet {
		if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		b.Fatal(err)
	}
	b.StartTimer()
}
