package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

func TestBlob(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]origintest.Options{"plain": {}, "redirects": {Redirect: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := origintest.New(t, o)
			f := open(t, reg.URL(), nil)
			for _, size := range []int{0, 1, 128<<10 - 1, 128 << 10, 128<<10 + 1, 5*mib + 7, 20 * mib} {
				want := data(uint64(size), size)
				d := reg.AddBlob("a/b", want)
				r := f.do("GET", blobPath("a/b", d))
				f.want(r, 200, want)
				for k, v := range map[string]string{
					"Content-Length": fmt.Sprint(size), "Docker-Content-Digest": d.String(), "Accept-Ranges": "bytes",
					"Etag": `"` + d.String() + `"`, "X-Dragonfly-Task-Id": d.Encoded(),
				} {
					if got := r.header.Get(k); got != v {
						t.Errorf("%d bytes: %s is %q, want %q", size, k, got, v)
					}
				}
				reg.Reset()
				r = f.do("GET", blobPath("a/b", d))
				f.want(r, 200, want)
				if n := reg.Sent(d); n != 0 {
					t.Errorf("%d bytes: the registry sent %d bytes once more", size, n)
				}
				if s := r.header.Get("Server-Timing"); !strings.Contains(s, `first;desc="store"`) || !strings.Contains(s, `auth;desc="known"`) {
					t.Errorf("Server-Timing: %s", s)
				}
				eventually(t, func() error { // it is said when the client has it all
					if s := fmt.Sprintf("task=%s", d.Encoded()); strings.Count(f.log.String(), s) != 2 {
						return fmt.Errorf("%d bytes: no two lines say %s", size, s)
					}
					return nil
				})
			}
			eventually(t, func() error {
				if n, m := f.metric("dfsnapshotter_mirror_sent_bytes_total", "source", "store"), f.metric("dfsnapshotter_mirror_sent_bytes_total", "source", "origin"); n < 25*mib || m < 25*mib {
					return fmt.Errorf("metrics say %.0f bytes of the store, %.0f of the origin", n, m)
				}
				return nil
			})
			if !strings.Contains(f.log.String(), `msg="peer task done" cost=`) || !strings.Contains(f.log.String(), "peer=this-host") {
				t.Error("no line says that a task is done")
			}
		})
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	want := data(1, 3*mib)
	d := reg.AddBlob("a", want)
	tag := `"` + d.String() + `"`
	f.want(f.do("GET", blobPath("a", d), "If-None-Match", tag), 304, []byte{})
	f.want(f.do("GET", blobPath("a", d), "Range", "bytes=5-9", "If-Range", tag), 206, want[5:10])
	f.want(f.do("GET", blobPath("a", d), "Range", "bytes=5-9", "If-Range", `"other"`), 200, want)
	f.want(f.do("HEAD", blobPath("a", d)), 200, []byte{})
}

// TestRanges asks as a lazy snapshotter does: the end of the blob first, then here
// and there, several at once.
func TestRanges(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	want := data(2, 12*mib)
	d := reg.AddBlob("a", want)
	n := len(want)
	for header, part := range map[string][]byte{
		"bytes=-100":                 want[n-100:],
		"bytes=0-0":                  want[:1],
		"bytes=1000000-1999999":      want[1000000:2000000],
		fmt.Sprintf("bytes=%d-", 5):  want[5:],
		fmt.Sprintf("bytes=%d-", n):  nil,
		fmt.Sprintf("bytes=0-%d", n): want,
	} {
		r := f.do("GET", blobPath("a", d), "Range", header)
		if part == nil {
			f.refused(r, http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID")
			if got := r.header.Get("Content-Range"); got != fmt.Sprintf("bytes */%d", n) {
				t.Errorf("Content-Range: %s", got)
			}
			continue
		}
		f.want(r, 206, part)
	}
}

func TestSmallRangeCostsItself(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	want := data(2, 12*mib)
	d := reg.AddBlob("a", want)
	f.want(f.do("GET", blobPath("a", d), "Range", "bytes=6000000-6009999"), 206, want[6000000:6010000])
	if sent := reg.Sent(d); sent != 10000 {
		t.Errorf("the registry sent %d bytes for 10,000", sent)
	}
	f.want(f.do("GET", blobPath("a", d)), 200, want)
	const again = 64 << 10 // fetched twice, to save a request
	if sent := reg.Sent(d); sent > int64(len(want))+again {
		t.Errorf("the registry sent %d bytes of %d", sent, len(want))
	}
}

func TestMultipleRanges(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	want := data(3, 12*mib)
	d := reg.AddBlob("a", want)
	r := f.do("GET", blobPath("a", d), "Range", "bytes=0-9,5000000-5999999,-7")
	f.want(r, 206, nil)
	if got := r.header.Get("Content-Length"); got != fmt.Sprint(len(r.body)) {
		t.Errorf("Content-Length is %s of %d", got, len(r.body))
	}
	kind, params, err := mime.ParseMediaType(r.header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		t.Fatalf("Content-Type %q, %v", r.header.Get("Content-Type"), err)
	}
	n := len(want)
	parts := multipart.NewReader(bytes.NewReader(r.body), params["boundary"])
	for _, s := range [][2]int{{0, 10}, {5000000, 6000000}, {n - 7, n}} {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := p.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", s[0], s[1]-1, n); got != want {
			t.Errorf("Content-Range: %s, want %s", got, want)
		}
		if body, err := io.ReadAll(p); err != nil || !bytes.Equal(body, want[s[0]:s[1]]) {
			t.Errorf("part %v: %d bytes, %v", s, len(body), err)
		}
	}
	if _, err := parts.NextPart(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last part: %v", err)
	}
}

// TestWrongBytes has a registry that sends other bytes than it should: no client
// may take them for the blob.
func TestWrongBytes(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	large, small := data(4, 6*mib), data(5, 1000)
	d, e := reg.AddBlob("a", large), reg.AddBlob("a", small)
	reg.Fail("", origintest.Fault{Corrupt: true})
	r := f.do("GET", blobPath("a", d))
	if r.status == 200 && r.err == nil || len(r.body) >= len(large) {
		t.Errorf("the client got %d bytes of %d, %v", len(r.body), len(large), r.err)
	}
	f.refused(f.do("GET", blobPath("a", e)), http.StatusBadGateway, "DIGEST_INVALID")
	if n := f.metric("dfsnapshotter_mirror_corrupt_total"); n != 2 {
		t.Errorf("the metric counts %.0f", n)
	}
	reg.Heal()
	f.want(f.do("GET", blobPath("a", d)), 200, large)
	f.want(f.do("GET", blobPath("a", e)), 200, small)
}

// TestStreams reads the beginning of a blob whose end the registry does not send
// yet.
func TestStreams(t *testing.T) {
	t.Parallel()
	for _, sent := range []int{100, mib} {
		t.Run(fmt.Sprint(sent), func(t *testing.T) {
			t.Parallel()
			reg := origintest.New(t, origintest.Options{})
			f := open(t, reg.URL(), nil)
			want := data(6, 3*mib)
			d := reg.AddBlob("a", want)
			f.want(f.do("HEAD", blobPath("a", d)), 200, nil)
			reg.Fail(d, origintest.Fault{HangAfter: int64(sent)})
			resp := f.get(t.Context(), blobPath("a", d))
			defer resp.Body.Close()
			got := make([]byte, sent)
			if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, want[:sent]) {
				t.Fatalf("the first %d bytes: %v", sent, err)
			}
			reg.Heal()
			rest, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(rest, want[sent:]) {
				t.Errorf("the rest: %d bytes, %v", len(rest), err)
			}
		})
	}
}

// TestClientGoes ends a client amid a blob: the registry is not asked for what
// nobody waits for, and the next client gets it all.
func TestClientGoes(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	want := data(7, 64*mib)
	d := reg.AddBlob("a", want)
	reg.Fail(d, origintest.Fault{Delay: 5 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	resp := f.get(ctx, blobPath("a", d))
	if _, err := io.ReadFull(resp.Body, make([]byte, mib)); err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	eventually(t, func() error {
		if n := f.metric("dfsnapshotter_mirror_requests_total", "kind", "blob", "code", "cut"); n != 1 {
			return fmt.Errorf("%.0f answers were cut", n)
		}
		return nil
	})
	reg.Heal()
	f.want(f.do("GET", blobPath("a", d)), 200, want)
	if sent := reg.Sent(d); sent > int64(len(want))*11/10 {
		t.Errorf("the registry sent %d bytes of %d", sent, len(want))
	}
}

// eventually waits until f returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for range 400 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal(err)
}

func TestPriority(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	want := data(8, mib)
	d := reg.AddBlob("a", want)
	f.refused(f.do("GET", blobPath("a", d), "X-Dragonfly-Priority", "1"), http.StatusForbidden, "DENIED")
	f.refused(f.do("GET", blobPath("a", d), "X-Dragonfly-Priority", "7"), http.StatusBadRequest, "UNSUPPORTED")
	f.refused(f.do("GET", blobPath("a", d), "X-Dragonfly-Priority", "2"), http.StatusNotFound, "BLOB_UNKNOWN")
	if n := reg.Sent(d); n != 0 {
		t.Errorf("the registry sent %d bytes to who wants those of peers only", n)
	}
	for _, p := range []string{"3", "0", "4", "5", "6", "2"} { // with the last, from the store
		f.want(f.do("GET", blobPath("a", d), "X-Dragonfly-Priority", p), 200, want)
	}
	if n := gets(reg, d); n != 1 {
		t.Errorf("the registry was asked %d times", n)
	}
}

// TestFaults has the registry fail; the client is told in the registry's own form.
func TestFaults(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	d := reg.AddBlob("a", data(9, 1000))
	f.refused(f.do("GET", blobPath("a", digest.FromString("none"))), http.StatusNotFound, "UNKNOWN")
	reg.Fail(d, origintest.Fault{Status: 429, RetryAfter: "7"})
	if r := f.do("GET", blobPath("a", d)); r.status != 429 || r.header.Get("Retry-After") != "7" {
		t.Errorf("status %d, Retry-After %q", r.status, r.header.Get("Retry-After"))
	}
	reg.Heal()
	f.refused(f.do("GET", blobPath("a", d)+"?ns=no.such.host.invalid"), http.StatusBadGateway, "UNAVAILABLE")
	reg.Close()
	f.refused(f.do("GET", blobPath("a", d)), http.StatusBadGateway, "UNAVAILABLE")
	f.refused(f.do("GET", "/v2/a/manifests/latest"), http.StatusBadGateway, "UNAVAILABLE")
}

// TestLie has a manifest name a blob with another size.
func TestLie(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	want := data(10, mib)
	d := reg.AddBlob("a", want)
	m := reg.AddManifest("a", "application/vnd.oci.image.manifest.v1+json", fmt.Appendf(nil, `{"layers":[{"digest":%q,"size":%d}]}`, d, 2*mib))
	f.want(f.do("GET", "/v2/a/manifests/"+m.String()), 200, nil)
	f.want(f.do("GET", blobPath("a", d)), 200, want)
}
