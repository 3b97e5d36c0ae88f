package fetcher_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/bucket"
)

// limited opens a fetcher that may take so many bytes per second from anywhere,
// and from the origin.
func limited(t *testing.T, download, origin int64, s fetcher.Source) *fetcher.Fetcher {
	t.Helper()
	c := fetcher.Config{Dir: tempDir(t), Sources: []fetcher.Source{s}}
	if download > 0 {
		c.Download = bucket.New(download)
	}
	if origin > 0 {
		c.Origin = bucket.New(origin)
	}
	return open(t, c)
}

// TestRate holds what comes of a source to the limits of the host.
func TestRate(t *testing.T) {
	data := content(8*mib, 1)
	for name, c := range map[string]struct {
		download, origin int64
		want             time.Duration
	}{
		"none":              {0, 0, 0},
		"download":          {mib, 0, 8 * time.Second},
		"origin":            {0, mib, 8 * time.Second},
		"origin is lower":   {4 * mib, mib, 8 * time.Second},
		"download is lower": {mib, 4 * mib, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := openBlob(t, limited(t, c.download, c.origin, newFake(nil, data)), ref(data))
				began := time.Now()
				want(t, b, data, 0, 8*mib, fetcher.Prefetch)
				if took := time.Since(began); took < c.want*9/10 || took > c.want*11/10 {
					t.Errorf("it took %v, not %v", took, c.want)
				}
			})
		})
	}
}

// TestRatePriority has somebody wait for bytes while all that the limit
// allows is wanted in the background.
func TestRatePriority(t *testing.T) {
	large, small := content(64*mib, 1), content(10*mib, 2)
	synctest.Test(t, func(t *testing.T) {
		f := limited(t, 0, mib, newFake(nil, large, small))
		done := make(chan struct{})
		go func() {
			defer close(done)
			want(t, openBlob(t, f, ref(large)), large, 0, 64*mib, fetcher.Prefetch)
		}()
		time.Sleep(10 * time.Second)
		b := openBlob(t, f, ref(small))
		for i := range int64(5) {
			began := time.Now()
			want(t, b, small, 2*i*mib, 128*kib, fetcher.OnDemand)
			if took := time.Since(began); took > time.Second/2 {
				t.Errorf("a small read took %v", took)
			}
			time.Sleep(time.Second)
		}
		<-done
	})
}

// TestRateStarved keeps others off the line for a minute: that their bytes do
// not come is not the source's fault, which must not be asked again and again.
func TestRateStarved(t *testing.T) {
	large, small := content(64*mib, 1), content(4*mib, 2)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(nil, large, small)
		f := limited(t, 0, mib, s)
		done := make(chan struct{})
		b := openBlob(t, f, ref(large))
		go func() {
			defer close(done)
			want(t, b, large, 0, 64*mib, fetcher.OnDemand)
		}()
		time.Sleep(time.Second)
		want(t, openBlob(t, f, ref(small)), small, 0, 4*mib, fetcher.Prefetch)
		<-done
		for _, r := range s.seen() {
			if r.N%mib != 0 {
				t.Errorf("a request was repeated: %+v", r)
			}
		}
	})
}

// TestRateRaised has somebody wait for bytes that are under way in the background,
// where they get nothing of the limit.
func TestRateRaised(t *testing.T) {
	busy, data := content(30*mib, 1), content(10*mib, 2)
	synctest.Test(t, func(t *testing.T) {
		f := limited(t, 0, mib, newFake(nil, busy, data))
		done := make(chan struct{}, 2)
		b := openBlob(t, f, ref(data))
		go func() {
			want(t, b, data, 0, 10*mib, fetcher.Prefetch)
			done <- struct{}{}
		}()
		time.Sleep(time.Second)
		go func() {
			want(t, openBlob(t, f, ref(busy)), busy, 0, 30*mib, fetcher.OnDemand)
			done <- struct{}{}
		}()
		time.Sleep(time.Second)
		began := time.Now()
		want(t, b, data, 0, 600*kib, fetcher.OnDemand) // some is there, the next bytes wait for the limit
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a small read took %v", took)
		}
		<-done
		<-done
	})
}
