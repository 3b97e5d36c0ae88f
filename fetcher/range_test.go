package fetcher_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// first returns an answer that is faulty for the first n requests.
func first(n int, f fault) func(int, request) fault {
	return func(i int, _ request) fault {
		if i < n {
			return f
		}
		return fault{}
	}
}

func always(f fault) func(int, request) fault {
	return func(int, request) fault { return f }
}

// TestFaults reads a blob in several ways from sources with every fault that
// heals or can be worked around: the bytes are right all the same.
func TestFaults(t *testing.T) {
	data := content(10*mib+123, 1)
	size := int64(len(data))
	down := &origin.UnavailableError{Status: 503, Err: errors.New("busy")}
	faults := map[string]func(int, request) fault{
		"none":                       nil,
		"error then well":            first(2, fault{err: down}),
		"network error then well":    first(3, fault{err: errors.New("connection refused")}),
		"no answer then well":        first(1, fault{mute: true}),
		"hangs then well":            first(2, fault{hang: 40 * kib}),
		"cut off again and again":    always(fault{cut: 700*kib + 1}),
		"cut off at once, then well": first(5, fault{cut: 1}),
		"ignores ranges":             always(fault{whole: true}),
		"ignores ranges and cuts":    first(3, fault{whole: true, cut: 9 * mib}),
		"ignores ranges at times":    first(2, fault{whole: true}),
		"sends more than asked":      always(fault{extra: 5000}),
		"begins too late, then well": first(2, fault{late: 10}),
		"does not know the size":     always(fault{size: -1}),
		"small blocks":               always(fault{block: 999}),
		"answers 429 with retry":     first(2, fault{err: &origin.UnavailableError{Status: 429, RetryAfter: 3 * time.Second, Err: errors.New("slow down")}}),
		"hangs whole, then cut whole": func(i int, _ request) fault {
			return []fault{{whole: true, hang: mib}, {whole: true, cut: 2 * mib}, {}}[min(i, 2)]
		},
	}
	reads := map[string]func(t *testing.T, b *fetcher.Blob){
		"whole":  func(t *testing.T, b *fetcher.Blob) { want(t, b, data, 0, size, fetcher.Prefetch) },
		"small":  func(t *testing.T, b *fetcher.Blob) { want(t, b, data, 5*mib+7, 100*kib, fetcher.OnDemand) },
		"end":    func(t *testing.T, b *fetcher.Blob) { want(t, b, data, size-1000, 5000, fetcher.OnDemand) },
		"empty":  func(t *testing.T, b *fetcher.Blob) { want(t, b, data, size, 10, fetcher.OnDemand) },
		"middle": func(t *testing.T, b *fetcher.Blob) { want(t, b, data, mib, 8*mib, fetcher.Background) },
		"several": func(t *testing.T, b *fetcher.Blob) {
			for off := int64(0); off < size; off += 3 * mib {
				want(t, b, data, off, 10*kib, fetcher.OnDemand)
			}
			want(t, b, data, 0, size, fetcher.Prefetch)
		},
	}
	for fn, answer := range faults {
		for rn, fn2 := range reads {
			t.Run(fn+"/"+rn, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newFake(answer, data)
					b := openBlob(t, newFetcher(t, s), ref(data))
					fn2(t, b)
					fn2(t, b) // again, from the store
				})
			})
		}
	}
}

// TestRequests holds which requests a read makes.
func TestRequests(t *testing.T) {
	small, large := content(3*mib, 1), content(40*mib+100*kib, 2)
	type span struct{ Off, N int64 }
	tests := []struct {
		name string
		data []byte
		have []span // read before
		read span
		want []span
	}{
		{"a small blob is one request", small, nil, span{0, 3 * mib}, []span{{0, 3 * mib}}},
		{"a range is one request", large, nil, span{7 * mib, 4 * mib}, []span{{7 * mib, 4 * mib}}},
		{"what is there is not asked for", large, []span{{0, mib}}, span{100, 1000}, nil},
		{"only the gap is asked for", large, []span{{0, mib}, {2 * mib, mib}}, span{0, 3 * mib}, []span{{mib, mib}}},
		{"small islands are bridged", large, []span{{mib, 64 * kib}}, span{mib - 100, 66 * kib}, []span{{mib - 100, 66 * kib}}},
		{"large islands are not", large, []span{{mib, 65 * kib}}, span{mib - 100, 66 * kib}, []span{{mib - 100, 100}, {mib + 65*kib, kib - 100}}},
		{"a blob is read in ranges, the rest with the last", large, nil, span{0, 41 * mib}, []span{
			{0, 6 * mib}, {6 * mib, 6 * mib}, {12 * mib, 6 * mib}, {18 * mib, 6 * mib},
			{24 * mib, 6 * mib}, {30 * mib, 6 * mib}, {36 * mib, 4*mib + 100*kib},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFake(always(fault{delay: time.Millisecond}), tt.data)
				b := openBlob(t, newFetcher(t, s), ref(tt.data))
				for _, h := range tt.have {
					want(t, b, tt.data, h.Off, h.N, fetcher.OnDemand)
				}
				before := len(s.seen())
				want(t, b, tt.data, tt.read.Off, tt.read.N, fetcher.Prefetch)
				got := map[span]int{}
				for _, r := range s.seen()[before:] {
					got[span{r.Off, r.N}]++
				}
				all := map[span]int{}
				for _, w := range tt.want {
					all[w]++
				}
				if diff := cmp.Diff(all, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestReadAhead holds that a long read has one request under way until its first
// byte is here and then four, that they do not run ahead of a reader that stops,
// and that what it gets is in order.
func TestReadAhead(t *testing.T) {
	data := content(64*mib, 1)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(nil, data)
		b := openBlob(t, newFetcher(t, s), ref(data))
		r, err := b.Range(t.Context(), 0, 64*mib, fetcher.Prefetch)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		synctest.Wait()
		if n := len(s.seen()); n != 1 {
			t.Errorf("%d requests before the first byte, want 1", n)
		}
		buf := make([]byte, mib)
		if _, err := io.ReadFull(r, buf); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(s.seen()); n != 4 {
			t.Errorf("%d requests for a reader in the first range, want 4", n)
		}
		rest, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(append(buf, rest...), data) {
			t.Errorf("wrong bytes, or %v", err)
		}
		if n := len(s.seen()); n != 8 {
			t.Errorf("%d requests for the blob, want 8", n)
		}
	})
}

// TestReadAt holds io.ReaderAt's rule for the end of the blob, and that
// ranges outside it are refused.
func TestReadAt(t *testing.T) {
	data := content(10000, 1)
	b := openBlob(t, newFetcher(t, newFake(nil, data)), ref(data))
	for _, tt := range []struct {
		off, n int64
		got    int
		err    error
	}{{0, 100, 100, nil}, {9950, 100, 50, io.EOF}, {9900, 100, 100, nil}, {10000, 1, 0, io.EOF}, {10000, 0, 0, nil}} {
		p := make([]byte, tt.n)
		n, err := b.ReadAt(t.Context(), p, tt.off, fetcher.OnDemand)
		if n != tt.got || !errors.Is(err, tt.err) || !bytes.Equal(p[:n], data[tt.off:tt.off+int64(n)]) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v; want %d, %v", tt.n, tt.off, n, err, tt.got, tt.err)
		}
	}
	for _, r := range [][2]int64{{-1, 5}, {10001, 5}, {5, -1}} {
		if _, err := b.Range(t.Context(), r[0], r[1], fetcher.OnDemand); err == nil {
			t.Errorf("Range(%d, %d): no error", r[0], r[1])
		}
	}
	if _, err := b.Range(t.Context(), 0, 5, 3); err == nil {
		t.Error("Range with no such priority: no error")
	}
}

// TestEmptyBlob reads and verifies a blob of no bytes.
func TestEmptyBlob(t *testing.T) {
	b := openBlob(t, newFetcher(t), ref(nil))
	if got, err := read(t.Context(), b, 0, 10, fetcher.OnDemand); err != nil || len(got) != 0 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if err := b.Verify(t.Context(), fetcher.OnDemand); err != nil || !b.Verified() {
		t.Errorf("Verify: %v, verified %v", err, b.Verified())
	}
}

// TestStats holds that bytes are counted by where they came from.
func TestStats(t *testing.T) {
	data := content(mib, 1)
	b := openBlob(t, newFetcher(t, newFake(nil, data)), ref(data))
	want(t, b, data, 0, 100*kib, fetcher.OnDemand)
	want(t, b, data, 50*kib, 100*kib, fetcher.OnDemand)
	s := fetcher.Stats{Stored: 50 * kib, Fetched: map[string]int64{"fake": 150 * kib}, Requests: 2}
	if diff := cmp.Diff(s, b.Stats()); diff != "" {
		t.Error(diff)
	}
}

// TestKept holds that a later Fetcher finds what an earlier one fetched.
func TestKept(t *testing.T) {
	data := content(5*mib, 1)
	dir := tempDir(t)
	for i, sources := range [][]fetcher.Source{{newFake(nil, data)}, nil} {
		f, err := fetcher.New(fetcher.Config{Dir: dir, Sources: sources})
		if err != nil {
			t.Fatal(err)
		}
		b, err := f.Blob(ref(data))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprint("run ", i), func(t *testing.T) {
			want(t, b, data, 0, 5*mib, fetcher.OnDemand)
			if err := b.Verify(t.Context(), fetcher.OnDemand); err != nil {
				t.Error(err)
			}
		})
		if err := errors.Join(b.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
