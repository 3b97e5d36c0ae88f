package console_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A file is ordered with a form of its own; what is secret of it is not shown again.
func TestFileForm(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	operator := e.session("operator")
	e.shows(e.do("/jobs/new?kind=file", nil, operator), 200, "Preheat a file", `name="url"`, `name="headers"`)
	e.shows(e.do("/find?kind=file", nil, operator), 200, "Find a file", `name="url"`)
	const address = "https://files.example/model.bin?v=1"
	form := url.Values{
		"kind": {"file"}, "url": {address + "&X-Amz-Signature=hush"}, "tag": {"nightly"}, "filter": {"ts, token"}, "scope": {"all_seed_peers"},
		"digest": {digest.FromString("x").String()}, "headers": {"Authorization: Bearer hush\r\n\r\nX-A: b:c\n"},
	}
	if r := e.do("/jobs/new", form, operator); r.to() != "/jobs/1" {
		t.Fatalf("%d to %q: %s", r.status, r.to(), r.text)
	}
	j, err := e.db.Job(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	want := &job.FileOptions{Digest: digest.FromString("x"), Tag: "nightly", Filter: []string{"ts", "token"}}
	if diff := cmp.Diff(want, job.FileOf(j)); diff != "" || j.URL != address || j.Kind != job.File || len(j.Secret) == 0 {
		t.Errorf("%+v %s", j, diff)
	}
	again := e.do("/jobs/new?from=1", nil, operator)
	e.shows(again, 200, `value="nightly"`, `value="ts token"`, digest.FromString("x").String(), "model.bin?v=1", `value="all_seed_peers" selected`)
	j, err = e.db.ClaimJob(t.Context(), "test", 1e12)
	name := string(p2p.Name(p2p.Sum{1}))
	if err == nil {
		err = e.db.SetJobBlobs(t.Context(), j, name, []store.JobBlob{{Digest: name, Kind: job.File, Size: 1 << 20}})
	}
	if err == nil {
		err = e.db.EndJob(t.Context(), j, store.Succeeded, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	r := e.do("/jobs/1", nil, operator)
	e.shows(r, 200, "model.bin?v=1", "nightly", "remove="+url.QueryEscape(name))
	for _, page := range []reply{again, r, e.do("/jobs", nil, operator), e.do("/audit", nil, e.session("root"))} {
		if strings.Contains(page.text, "hush") {
			t.Errorf("it shows what is secret: %s", page.text)
		}
	}
	e.shows(e.do("/jobs/new?remove="+url.QueryEscape(name), nil, operator), 200, strings.Replace(name, "+", "&#43;", 1))
	form.Set("url", "ftp://files.example/a")
	form.Set("headers", "X A: b")
	e.shows(e.do("/jobs/new", form, operator), 400, "URLs begin with", "must be names and printable values")
	form.Set("url", address)
	form.Set("headers", "X-A: b")
	form.Set("cron", "@daily")
	if r := e.do("/jobs/new", form, operator); r.to() != "/schedules" {
		t.Errorf("%d to %q: %s", r.status, r.to(), r.text)
	}
	e.shows(e.do("/schedules", nil, operator), 200, "model.bin?v=1")
}
