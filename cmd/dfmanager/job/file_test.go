package job_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// shelf is a web server with a file, of which there is another version each time that
// turn is called.
type shelf struct {
	*httptest.Server
	version atomic.Int64
	away    atomic.Int64 // requests that are not answered
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.away.Add(-1) >= 0:
			w.WriteHeader(http.StatusBadGateway)
		case r.URL.Path == "/private" && r.Header.Get("Authorization") != "Basic amFuZTpzZXNhbWU=":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/none":
			http.NotFound(w, r)
		default:
			if r.URL.Path != "/versionless" {
				w.Header().Set("ETag", fmt.Sprintf(`"%d"`, s.version.Load()))
			}
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader("0123456789"))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// files has a runner ask web servers.
func (e *env) files() func(*job.Config) {
	c, err := origin.New(origin.Config{})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(c.Close)
	return func(k *job.Config) { k.Files = c }
}

func (e *env) file(r *job.Runner, o job.Order) store.Job {
	e.t.Helper()
	o.Kind = job.File
	q, err := o.Request()
	if err != nil {
		e.t.Fatal(err)
	}
	return e.create(r, q)
}

func TestFiles(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		web, gone := newShelf(e.t), newShelf(e.t)
		gone.Close()
		c := newCluster()
		var asked warm.Order
		c.fail = func(o warm.Order, _ int) error {
			asked = o
			return nil
		}
		r := e.runner(c, e.files())
		open := e.ends(e.file(r, job.Order{URL: web.URL + "/a?b=1&X-Amz-Signature=hush"}).ID, store.Succeeded)
		blobs, err := e.db.JobBlobs(e.t.Context(), open.ID)
		if err != nil || len(blobs) != 1 || blobs[0].Kind != "file" || blobs[0].Size != 10 || !p2p.IsName(digest.Digest(blobs[0].Digest)) || open.Digest != blobs[0].Digest {
			e.t.Errorf("%+v, %v", blobs, err)
		}
		if open.URL != web.URL+"/a?b=1" || !asked.Private || asked.Registry != web.URL || !strings.HasPrefix(asked.Repository, "a?b=1#etag=") {
			e.t.Errorf("%q is asked for as %+v", open.URL, asked)
		}
		// Who signs its address another way means the same file; another tag, another one.
		again := e.ends(e.file(r, job.Order{URL: web.URL + "/a?b=1&X-Amz-Signature=other&ts=3", Filter: []string{"ts"}}).ID, store.Succeeded)
		tagged := e.ends(e.file(r, job.Order{URL: web.URL + "/a?b=1", Tag: "t"}).ID, store.Succeeded)
		if again.Digest != open.Digest || tagged.Digest == open.Digest || asked.Private {
			e.t.Errorf("%s, %s, %s", open.Digest, again.Digest, tagged.Digest)
		}
		sum := digest.FromString("0123456789")
		if j := e.ends(e.file(r, job.Order{URL: web.URL + "/versionless", Digest: sum.String()}).ID, store.Succeeded); j.Digest != sum.String() || job.FileOf(j).Digest != sum {
			e.t.Errorf("%+v", j)
		}
		secret := job.Order{URL: web.URL + "/private", Headers: map[string]string{"Authorization": "Basic amFuZTpzZXNhbWU="}}
		e.ends(e.file(r, secret).ID, store.Succeeded)
		with := e.ends(e.file(r, job.Order{URL: strings.Replace(web.URL, "://", "://jane:sesame@", 1) + "/private"}).ID, store.Succeeded)
		if strings.Contains(with.URL, "sesame") || !asked.Private || strings.Contains(fmt.Sprintf("%+v", asked.Registry+asked.Repository), "sesame") {
			e.t.Errorf("%+v", with)
		}
		for _, k := range []struct{ url, say string }{
			{web.URL + "/none", "its server has none"},
			{web.URL + "/private", "refuses the headers of the job, or wants some"},
			{web.URL + "/versionless", "no ETag and no Last-Modified"},
		} {
			if j := e.ends(e.file(r, job.Order{URL: k.url}).ID, store.Failed); !strings.Contains(j.Error, k.say) || j.Tries != 0 {
				e.t.Errorf("%s: %+v", k.url, j)
			}
		}
		if j := e.ends(e.file(r, job.Order{URL: gone.URL + "/a"}).ID, store.Failed); !strings.Contains(j.Error, "does not answer") || j.Tries != 3 {
			e.t.Errorf("a server that is not there: %+v", j)
		}
		web.away.Store(2)
		if j := e.ends(e.file(r, job.Order{URL: web.URL + "/a"}).ID, store.Succeeded); j.Tries != 2 {
			e.t.Errorf("a server that was away: %+v", j)
		}
	})
}

// A file that has changed between two tries is another blob, and the job is about that.
func TestFileChanges(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		web := newShelf(e.t)
		c := newCluster()
		c.fail = func(warm.Order, int) error {
			if web.version.Add(1) == 1 {
				return warm.ErrStalled
			}
			return nil
		}
		j := e.ends(e.file(e.runner(c, e.files()), job.Order{URL: web.URL + "/a"}).ID, store.Succeeded)
		blobs, err := e.db.JobBlobs(e.t.Context(), j.ID)
		if err != nil || len(blobs) != 1 || blobs[0].Digest != j.Digest || blobs[0].State != store.Succeeded || j.Tries != 1 {
			e.t.Errorf("%+v of %+v, %v", blobs, j, err)
		}
	})
}

// What is secret of a file does not go to seeds in plain text.
func TestFileInPlainText(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		c := newCluster()
		c.fail = func(warm.Order, int) error { return warm.ErrPlain }
		j := e.ends(e.file(e.runner(c, e.files()), job.Order{URL: newShelf(e.t).URL + "/a?sig=x&sv=y"}).ID, store.Failed)
		if !strings.Contains(j.Error, "no certificates") || j.Tries != 0 {
			e.t.Errorf("%+v", j)
		}
	})
}

func TestFileOrders(t *testing.T) {
	t.Parallel()
	const url = "https://files.example/a"
	for name, k := range map[string]struct {
		order job.Order
		wrong []string
	}{
		"good":             {job.Order{URL: url, Digest: digest.FromString("x").String(), Tag: "t", Filter: []string{"a"}, Headers: map[string]string{"X-A": "b"}}, nil},
		"no URL":           {job.Order{}, []string{"url"}},
		"a registry's":     {job.Order{URL: "oci://r/a@" + digest.FromString("x").String()}, []string{"url"}},
		"no digest":        {job.Order{URL: url, Digest: "md5:1"}, []string{"digest"}},
		"odd headers":      {job.Order{URL: url, Headers: map[string]string{"X A": "b"}}, []string{"headers"}},
		"odd value":        {job.Order{URL: url, Headers: map[string]string{"X-A": "b\r\nX-B: c"}}, []string{"headers"}},
		"large headers":    {job.Order{URL: url, Headers: map[string]string{"X-A": strings.Repeat("b", 20_000)}}, []string{"headers"}},
		"long":             {job.Order{URL: url + strings.Repeat("b", 5000)}, []string{"url"}},
		"odd tag":          {job.Order{URL: url, Tag: "\x00"}, []string{"tag"}},
		"what images have": {job.Order{URL: url, Image: "a", Platforms: []string{"linux/amd64"}, User: "jane", Token: "t"}, []string{"image", "platforms", "registry_token", "registry_user"}},
	} {
		k.order.Kind = job.File
		_, err := k.order.Request()
		wrong := field.Errors{}
		errors.As(err, &wrong)
		var names []string
		for n := range wrong {
			names = append(names, n)
		}
		if slices.Sort(names); !slices.Equal(names, k.wrong) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (job.Order{Image: "a", Headers: map[string]string{"A": "b"}}).Request(); err == nil {
		t.Error("headers of an image are taken")
	}
}
