package console_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Where an image is to go, and what is to go, in the form for a job.
func TestWhereTo(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	operator := e.session("operator")
	form := url.Values{"image": {"registry.example/team/app:v1"}, "scope": {"hosts"}, "hosts": {"node-1, 192.0.2.7:65002"}, "concurrent_hosts": {"7"}, "timeout_minutes": {"3"}}
	if r := e.do("/jobs/new", form, operator); r.to() != "/jobs/1" {
		t.Fatalf("%d to %q: %s", r.status, r.to(), r.text)
	}
	j, err := e.db.Job(t.Context(), 1)
	want := job.Scope{Kind: job.Listed, Hosts: []string{"node-1", "192.0.2.7:65002"}, Concurrent: 7, Seconds: 180}
	if diff := cmp.Diff(want, job.ScopeOf(j.Scope)); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if took := j.Deadline.Sub(j.Created).Minutes(); took < 2.9 || took > 3.1 {
		t.Errorf("it is tried for %v minutes", took)
	}
	e.shows(e.do("/jobs/new?from=1", nil, operator), 200, `value="hosts" selected`, `value="node-1 192.0.2.7:65002"`, `value="7"`, `value="3"`)
	for name, values := range map[string]url.Values{
		"goes with all": {"image": {"a"}, "percentage": {"5"}}, "must name some": {"image": {"a"}, "scope": {"hosts"}}, "from 1 to 1000": {"image": {"a"}, "concurrent_hosts": {"x"}},
		"must be one of": {"image": {"a"}, "scope": {"some"}}, "from 1 to 86400": {"image": {"a"}, "timeout_minutes": {"-1"}},
	} {
		e.shows(e.do("/jobs/new", values, operator), 400, name)
	}

	j, err = e.db.ClaimJob(t.Context(), "test", 1e12)
	if err == nil {
		err = e.db.SetJobHosts(t.Context(), j, []store.JobHost{
			{Digest: "sha256:a", Host: "node-1", Address: "192.0.2.1:65002", State: store.Succeeded}, {Digest: "sha256:b", Host: "node-1", State: store.Running},
			{Digest: "sha256:a", Host: "node-2", State: store.Failed, Error: "no <room>"},
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	r := e.do("/jobs/1", nil, e.session("guest"))
	e.shows(r, 200, "1 of 2", "node-1", "192.0.2.1:65002", "no &lt;room&gt;", "hosts</dd>")
	if strings.Index(r.text, ">node-2<") > strings.Index(r.text, ">node-1<") {
		t.Error("where it failed is not first")
	}

	d := digest.FromString("x").String()
	r = e.do("/jobs/new?remove="+d+"&cluster=0", nil, operator)
	e.shows(r, 200, `name="kind" value="remove"`, `value="`+d+`"`, "Remove from all hosts")
	if strings.Contains(r.text, `name="image"`) || strings.Contains(r.text, `name="scope"`) {
		t.Error("the form for removing a blob asks for an image")
	}
	if r := e.do("/jobs/new", url.Values{"kind": {"remove"}, "blob": {d}}, operator); r.to() != "/jobs/2" {
		t.Fatalf("%d to %q: %s", r.status, r.to(), r.text)
	}
	e.shows(e.do("/jobs", nil, operator), 200, d, "remove")
	e.shows(e.do("/jobs/new", url.Values{"kind": {"remove"}, "blob": {"sha256:x"}}, operator), 400, `id="image-error"`)
}
