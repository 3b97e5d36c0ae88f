package fetcher_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// TestBudget holds how long reads go on when no source gives the bytes, and
// that the error names the blob, the range and the cause.
func TestBudget(t *testing.T) {
	data := content(mib, 1)
	cause := errors.New("the cable is cut")
	down := &origin.UnavailableError{Err: cause}
	tests := []struct {
		name   string
		answer func(int, request) fault
		prio   fetcher.Priority
		took   time.Duration
		cause  string
	}{
		{"on demand", always(fault{err: down}), fetcher.OnDemand, time.Minute, "the cable is cut"},
		{"prefetch", always(fault{err: down}), fetcher.Prefetch, time.Minute, "the cable is cut"},
		{"background", always(fault{err: down}), fetcher.Background, 10 * time.Minute, "the cable is cut"},
		{"no answer", always(fault{mute: true}), fetcher.OnDemand, time.Minute, "source sends nothing"},
		{"far too late a retry", always(fault{err: &origin.UnavailableError{RetryAfter: time.Hour, Err: cause}}), fetcher.OnDemand, time.Minute, "the cable is cut"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFake(tt.answer, data)
				b := openBlob(t, newFetcher(t, s), ref(data))
				start := time.Now()
				_, err := read(t.Context(), b, 1000, 500, tt.prio)
				if took := time.Since(start).Round(time.Second); took != tt.took {
					t.Errorf("gave up after %s, want %s", took, tt.took)
				}
				if !errors.Is(err, fetcher.ErrUnavailable) {
					t.Fatalf("error %v", err)
				}
				for _, part := range []string{string(b.Digest()), "1000-1499", tt.cause} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("error %q does not say %q", err, part)
					}
				}
				if n := len(s.seen()); n > 60 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

// TestSlowIsNotDead holds that a read goes on beyond its budget as long as
// bytes on the way to its own come.
func TestSlowIsNotDead(t *testing.T) {
	data := content(2*mib, 1)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(always(fault{whole: true, delay: 5 * time.Second}), data)
		b := openBlob(t, newFetcher(t, s), ref(data))
		start := time.Now()
		want(t, b, data, mib, 100, fetcher.OnDemand)
		if took := time.Since(start); took < 2*time.Minute {
			t.Errorf("took %s: the fake is not slow", took)
		}
	})
}

// TestStall holds that a silent request is abandoned after 10 s and only the
// rest asked for.
func TestStall(t *testing.T) {
	data := content(mib, 1)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(first(1, fault{hang: 64 * kib}), data)
		b := openBlob(t, newFetcher(t, s), ref(data))
		start := time.Now()
		want(t, b, data, 0, mib, fetcher.OnDemand)
		if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("took %s, want 10 s", took)
		}
		if got := s.seen(); len(got) != 2 || got[1].Off != 64*kib || got[1].N != mib-64*kib {
			t.Errorf("requests %v", got)
		}
	})
}

// TestRetryAfter holds that nobody asks a registry before the time it named: a
// blob's own reads after any such answer, all others after a 429.
func TestRetryAfter(t *testing.T) {
	one, two := content(mib, 1), content(mib, 2)
	for _, tt := range []struct {
		status     int
		first, all time.Duration
	}{{429, 20 * time.Second, 20 * time.Second}, {503, 20 * time.Second, 0}} {
		synctest.Test(t, func(t *testing.T) {
			s := newFake(first(1, fault{err: &origin.UnavailableError{Status: tt.status, RetryAfter: 20 * time.Second, Err: errors.New("busy")}}), one, two)
			f := newFetcher(t, s)
			start := time.Now()
			r, err := openBlob(t, f, ref(one)).Range(t.Context(), 0, 100, fetcher.OnDemand)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			synctest.Wait()
			want(t, openBlob(t, f, ref(two)), two, 0, 100, fetcher.OnDemand)
			if took := time.Since(start); took != tt.all {
				t.Errorf("%d: the other blob took %s, want %s", tt.status, took, tt.all)
			}
			if _, err := io.ReadAll(r); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took < tt.first {
				t.Errorf("%d: asked again after %s, want %s", tt.status, took, tt.first)
			}
		})
	}
}

// TestFinal holds that what a repository will not give is asked of the blob's
// others, and that the read then fails at once.
func TestFinal(t *testing.T) {
	data := content(mib, 1)
	second := ref(data)
	second.Repo.Path = "c/d"
	for _, cause := range []error{origin.ErrNotFound, origin.ErrUnauthorized, fetcher.ErrSize} {
		refuse := fault{err: cause}
		if errors.Is(cause, fetcher.ErrSize) {
			refuse = fault{size: mib + 1}
		}
		t.Run(cause.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFake(func(_ int, r request) fault {
					if r.Repo == repo {
						return refuse
					}
					return fault{}
				}, data)
				f := newFetcher(t, s)
				b := openBlob(t, f, ref(data))
				start := time.Now()
				if _, err := read(t.Context(), b, 0, 100, fetcher.Background); !errors.Is(err, cause) {
					t.Errorf("read: %v", err)
				}
				before := len(s.seen())
				openBlob(t, f, second)
				want(t, b, data, 0, 100, fetcher.OnDemand)
				want(t, b, data, 500*kib, 100, fetcher.OnDemand)
				if took := time.Since(start); took > 0 {
					t.Errorf("took %s", took)
				}
				if n := len(s.seen()) - before; n != 3 { // the repository that answered is asked first from then on
					t.Errorf("%d requests, want 3", n)
				}
			})
		})
	}
}

// TestSources holds that sources are asked in their order, the next when one
// fails.
func TestSources(t *testing.T) {
	data := content(mib, 1)
	synctest.Test(t, func(t *testing.T) {
		peers := newFake(first(1, fault{cut: 64 * kib}), data)
		registry := newFake(nil, data)
		b := openBlob(t, newFetcher(t, peers, registry), ref(data))
		start := time.Now()
		want(t, b, data, 0, 512*kib, fetcher.OnDemand)
		want(t, b, data, 512*kib, 512*kib, fetcher.OnDemand)
		if time.Since(start) > 0 || len(peers.seen()) != 2 || len(registry.seen()) != 1 {
			t.Errorf("after %s the first source got %v, the second %v", time.Since(start), peers.seen(), registry.seen())
		}
	})
}

// TestSizes holds that one blob is not open with two sizes at once.
func TestSizes(t *testing.T) {
	data := content(1000, 1)
	f := newFetcher(t, newFake(nil, data))
	b := openBlob(t, f, ref(data))
	wrong := ref(data)
	wrong.Size++
	if _, err := f.Blob(wrong); err == nil {
		t.Error("opened with a second size")
	}
	b.Close()
	if b, err := f.Blob(wrong); err != nil {
		t.Errorf("nobody has it open, nor was it verified: %v", err)
	} else {
		b.Close()
	}
	for _, r := range []fetcher.Ref{{Digest: "sha256:12", Size: 1}, {Digest: digest.FromString("x"), Size: -1}, {}} {
		if _, err := f.Blob(r); err == nil {
			t.Errorf("opened %v", r)
		}
	}
}
