package fetcher_test

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

// BenchmarkWarm reads ranges that are in the store.
func BenchmarkWarm(b *testing.B) {
	data := content(16*mib, 1)
	blob := openBlob(b, newFetcher(b, newFake(nil, data)), ref(data))
	want(b, blob, data, 0, 16*mib, fetcher.OnDemand)
	for _, n := range []int64{4 * kib, 128 * kib, mib} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(n)
			p := make([]byte, n)
			for i := int64(0); b.Loop(); i++ {
				if _, err := blob.ReadAt(context.Background(), p, i*n%(16*mib), fetcher.OnDemand); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCold reads a whole blob from a source in memory, once and by many
// readers at a time.
func BenchmarkCold(b *testing.B) {
	data := content(32*mib, 1)
	for _, readers := range []int{1, 16} {
		b.Run(fmt.Sprint(readers, " readers"), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			f := newFetcher(b, newFake(nil, data))
			blob := openBlob(b, f, ref(data))
			for b.Loop() {
				var wg sync.WaitGroup
				for range readers {
					wg.Go(func() { drain(b, blob) })
				}
				wg.Wait()
				if err := blob.Discard(0, blob.Size()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func drain(b *testing.B, blob *fetcher.Blob) {
	r, err := blob.Range(context.Background(), 0, blob.Size(), fetcher.Prefetch)
	if err != nil {
		b.Error(err)
		return
	}
	defer r.Close()
	buf := make([]byte, 128*kib)
	if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf); err != nil || n != blob.Size() {
		b.Errorf("read %d bytes: %v", n, err)
	}
}
