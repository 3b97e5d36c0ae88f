package fetcher_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

// TestOutpaced has the origin give one request hardly anything while the others
// of its blob run: it is ended, and the rest of it asked for again. On a fast line the
// others are over before it can be said to be slow.
func TestOutpaced(t *testing.T) {
	data := content(32*mib, 1)
	for _, block := range []time.Duration{time.Millisecond, 10 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			s := newFake(func(i int, _ request) fault {
				if i == 1 {
					return fault{delay: 500 * time.Millisecond, block: 8 * kib} // minutes for all of it
				}
				return fault{delay: block}
			}, data)
			b := openBlob(t, newFetcher(t, s), ref(data))
			start := time.Now()
			want(t, b, data, 0, 32*mib, fetcher.Prefetch)
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			if seen := s.seen(); len(seen) != 9 {
				t.Errorf("%d requests, want one for each span and one more: %v", len(seen), seen)
			}
			if n := s.bytesSent(); n > 32*mib+64*kib {
				t.Errorf("the origin sent %d bytes more than there are", n-32*mib)
			}
		})
	}
}

// TestOutpacedAlways has one range be slow however often it is asked for: it is
// left alone after some requests.
func TestOutpacedAlways(t *testing.T) {
	data := content(64*mib, 1)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(func(_ int, r request) fault {
			if 8*mib <= r.Off && r.Off < 16*mib {
				return fault{delay: 100 * time.Millisecond, block: 8 * kib}
			}
			return fault{delay: 10 * time.Millisecond}
		}, data)
		b := openBlob(t, newFetcher(t, s), ref(data))
		want(t, b, data, 0, 64*mib, fetcher.Prefetch)
		if n := len(s.seen()); n < 9 || n > 8+3 {
			t.Errorf("%d requests, want at most three more than there are spans", n)
		}
	})
}

// TestPaceEven has all requests be slow, some twice as slow as others: none is
// ended.
func TestPaceEven(t *testing.T) {
	data := content(32*mib, 1)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(func(i int, _ request) fault {
			return fault{delay: time.Duration(100+50*(i%3)) * time.Millisecond}
		}, data)
		b := openBlob(t, newFetcher(t, s), ref(data))
		want(t, b, data, 0, 32*mib, fetcher.Prefetch)
		if n := len(s.seen()); n != 8 {
			t.Errorf("%d requests, want 8", n)
		}
	})
}
