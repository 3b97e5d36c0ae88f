package origin_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

func TestBlobRanges(t *testing.T) {
	for _, o := range []struct {
		name string
		opts origintest.Options
	}{
		{"plain", origintest.Options{}},
		{"tls", origintest.Options{TLS: true}},
		{"redirected", origintest.Options{Redirect: true}},
	} {
		t.Run(o.name, func(t *testing.T) {
			reg := origintest.New(t, o.opts)
			want := data(1, 300_000)
			d := reg.AddBlob(repoPath, want)
			c := client(t, origin.Config{})
			for _, tt := range []struct {
				name   string
				off, n int64
				want   []byte
			}{
				{"all", 0, -1, want},
				{"first byte", 0, 1, want[:1]},
				{"middle", 1000, 70_000, want[1000:71_000]},
				{"to the end", 299_000, -1, want[299_000:]},
				{"beyond the end", 299_000, 5000, want[299_000:]},
			} {
				t.Run(tt.name, func(t *testing.T) {
					body, err := c.Blob(t.Context(), repo(reg), d, tt.off, tt.n)
					if err != nil {
						t.Fatal(err)
					}
					defer body.Close()
					if body.Off != tt.off || body.Size != 300_000 {
						t.Errorf("Off, Size = %d, %d, want %d, 300000", body.Off, body.Size, tt.off)
					}
					got, err := io.ReadAll(body)
					if err != nil || string(got) != string(tt.want) {
						t.Errorf("got %d bytes, %v; want %d", len(got), err, len(tt.want))
					}
				})
			}
			for _, q := range reg.Requests() {
				if q.Header.Get("Accept-Encoding") != "identity" {
					t.Errorf("%s %s had Accept-Encoding %q", q.Kind, q.URL, q.Header.Get("Accept-Encoding"))
				}
				if o.opts.TLS && q.Proto != "HTTP/2.0" {
					t.Errorf("%s by %s, want HTTP/2.0", q.URL, q.Proto)
				}
			}
		})
	}
}

func TestBlobArguments(t *testing.T) {
	reg := origintest.New(t, origintest.Options{})
	d := reg.AddBlob(repoPath, data(1, 10))
	c := client(t, origin.Config{})
	for _, tt := range []struct {
		name   string
		repo   origin.Repo
		digest string
		off, n int64
	}{
		{"no digest", repo(reg), "", 0, 1},
		{"digest with a path", repo(reg), "sha256:../../x", 0, 1},
		{"repository that climbs", origin.Repo{Host: reg.Host(), Path: "a/../../b"}, string(d), 0, 1},
		{"repository with a query", origin.Repo{Host: reg.Host(), Path: "a?b"}, string(d), 0, 1},
		{"host with a path", origin.Repo{Host: reg.Host() + "/a", Path: "b"}, string(d), 0, 1},
		{"no host", origin.Repo{Path: "b"}, string(d), 0, 1},
		{"negative offset", repo(reg), string(d), -1, 1},
		{"nothing", repo(reg), string(d), 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := c.Blob(t.Context(), tt.repo, digest.Digest(tt.digest), tt.off, tt.n); err == nil {
				t.Error("no error")
			}
		})
	}
	if n := len(reg.Requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// TestBlobFaults has a row for each way in which a registry answers wrongly
// before the body.
func TestBlobFaults(t *testing.T) {
	in90s := time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)
	for _, tt := range []struct {
		name  string
		fault origintest.Fault
		check func(error) bool
	}{
		{"429 with seconds", origintest.Fault{Status: 429, RetryAfter: "7"}, unavailable(429, 7*time.Second, 7*time.Second)},
		{"429 with a date", origintest.Fault{Status: 429, RetryAfter: in90s}, unavailable(429, 60*time.Second, 90*time.Second)},
		{"429 for ever", origintest.Fault{Status: 429, RetryAfter: "99999999999"}, unavailable(429, time.Hour, time.Hour)},
		{"429 in the past", origintest.Fault{Status: 429, RetryAfter: "-5"}, unavailable(429, 0, 0)},
		{"429 with nonsense", origintest.Fault{Status: 429, RetryAfter: "soon"}, unavailable(429, 0, 0)},
		{"500", origintest.Fault{Status: 500}, unavailable(500, 0, 0)},
		{"503 with seconds", origintest.Fault{Status: 503, RetryAfter: "2"}, unavailable(503, 2*time.Second, 2*time.Second)},
		{"404", origintest.Fault{Status: 404}, is(origin.ErrNotFound)},
		{"403", origintest.Fault{Status: 403}, is(origin.ErrUnauthorized)},
		{"401 without a challenge", origintest.Fault{Status: 401}, is(origin.ErrUnauthorized)},
		{"400", origintest.Fault{Status: 400}, is(origin.ErrResponse)},
		{"304", origintest.Fault{Status: 304}, is(origin.ErrResponse)},
		{"206 without Content-Range", origintest.Fault{ContentRange: "-"}, is(origin.ErrResponse)},
		{"another start", origintest.Fault{ContentRange: "bytes 0-999/300000"}, is(origin.ErrResponse)},
		{"another length", origintest.Fault{ContentRange: "bytes 1000-1998/300000"}, is(origin.ErrResponse)},
		{"more than asked", origintest.Fault{ContentRange: "bytes 1000-2000/300000"}, is(origin.ErrResponse)},
		{"other units", origintest.Fault{ContentRange: "pages 1000-1999/300000"}, is(origin.ErrResponse)},
		{"size below the range", origintest.Fault{ContentRange: "bytes 1000-1999/1500"}, is(origin.ErrResponse)},
		{"no answer", origintest.Fault{Hang: true}, unavailable(0, 0, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := origintest.New(t, origintest.Options{})
			d := reg.AddBlob(repoPath, data(1, 300_000))
			reg.Fail(d, tt.fault)
			c := client(t, origin.Config{HeaderTimeout: 200 * time.Millisecond})
			_, err := get(c, repo(reg), d, 1000, 1000)
			if err == nil || !tt.check(err) {
				t.Fatalf("got %v", err)
			}
			for _, part := range []string{reg.Host(), repoPath} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not name %s", err, part)
				}
			}
			if n := reg.Count("blob"); n != 1 {
				t.Errorf("%d requests, want one attempt", n)
			}
		})
	}
}

func TestBlobRangeIgnored(t *testing.T) {
	reg := origintest.New(t, origintest.Options{})
	want := data(1, 300_000)
	d := reg.AddBlob(repoPath, want)
	reg.Fail(d, origintest.Fault{IgnoreRange: true})
	body, err := client(t, origin.Config{}).Blob(t.Context(), repo(reg), d, 1000, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if body.Off != 0 || body.Size != 300_000 || err != nil || string(got) != string(want) {
		t.Errorf("Off %d, Size %d, %d bytes, %v; want all from 0", body.Off, body.Size, len(got), err)
	}
}

func TestBlobPastEnd(t *testing.T) {
	reg := origintest.New(t, origintest.Options{})
	d := reg.AddBlob(repoPath, data(1, 100))
	if _, err := get(client(t, origin.Config{}), repo(reg), d, 100, 10); !errors.Is(err, origin.ErrResponse) {
		t.Errorf("got %v, want ErrResponse", err)
	}
}

func TestBlobCutOff(t *testing.T) {
	for _, o := range []origintest.Options{{}, {TLS: true}} {
		reg := origintest.New(t, o)
		want := data(1, 300_000)
		d := reg.AddBlob(repoPath, want)
		reg.Fail(d, origintest.Fault{CutAfter: 100_000})
		got, err := get(client(t, origin.Config{}), repo(reg), d, 1000, 200_000)
		if !unavailable(0, 0, 0)(err) {
			t.Errorf("TLS %v: got %v, want *UnavailableError", o.TLS, err)
		}
		if string(got) != string(want[1000:101_000]) {
			t.Errorf("TLS %v: got %d bytes before the end, want the 100000 sent", o.TLS, len(got))
		}
	}
}

func TestBlobGone(t *testing.T) {
	reg := origintest.New(t, origintest.Options{})
	d := reg.AddBlob(repoPath, data(1, 100))
	reg.Close()
	if _, err := get(client(t, origin.Config{}), repo(reg), d, 0, 10); !unavailable(0, 0, 0)(err) {
		t.Errorf("got %v, want *UnavailableError", err)
	}
}

func TestBlobContextEndsBody(t *testing.T) {
	reg := origintest.New(t, origintest.Options{})
	d := reg.AddBlob(repoPath, data(1, 300_000))
	reg.Fail(d, origintest.Fault{HangAfter: 1000})
	c := client(t, origin.Config{})
	why := errors.New("reader has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	body, err := c.Blob(ctx, repo(reg), d, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel(why)
	if _, err := body.Read(make([]byte, 1)); !errors.Is(err, why) {
		t.Errorf("got %v, want the reason of the context's end", err)
	}
}

func TestBlobContextEndsRequest(t *testing.T) {
	reg := origintest.New(t, origintest.Options{})
	d := reg.AddBlob(repoPath, data(1, 100))
	reg.Fail(d, origintest.Fault{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := client(t, origin.Config{}).Blob(ctx, repo(reg), d, 0, -1)
	if !errors.Is(err, context.DeadlineExceeded) || unavailable(0, 0, 0)(err) {
		t.Errorf("got %v, want the context's end", err)
	}
}

func is(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }

// unavailable checks for an *UnavailableError with a status and a wait.
func unavailable(status int, least, most time.Duration) func(error) bool {
	return func(err error) bool {
		var e *origin.UnavailableError
		return errors.As(err, &e) && e.Status == status && e.RetryAfter >= least && e.RetryAfter <= most
	}
}
