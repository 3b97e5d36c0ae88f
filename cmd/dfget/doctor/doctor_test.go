package doctor_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfget/doctor"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
)

// listen runs an agent that says s of itself, and returns its socket.
func listen(t *testing.T, s agent.Status) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(s); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewUnstartedServer(mux)
	_ = server.Listener.Close() // another takes its place
	server.Listener = ln
	server.Start()
	t.Cleanup(server.Close)
	return socket
}

// clock is a server whose clock is off.
func clock(t *testing.T, off time.Duration) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func cluster(change func(c *agent.Cluster)) agent.Status {
	c := &agent.Cluster{
		Host: "h", TLS: true, Expires: time.Now().Add(100 * 24 * time.Hour), Manager: "manager:65003", Linked: true,
		Schedulers: map[string]bool{"a:8002": true, "b:8002": true},
	}
	change(c)
	return agent.Status{Version: "v1", Cluster: c, Cache: agent.Cache{Free: 50, Disk: 100}}
}

// TestCheck holds what is found where there is no containerd.
func TestCheck(t *testing.T) {
	t.Parallel()
	same := func(*agent.Cluster) {}
	full := cluster(same)
	full.Cache.Free = 10
	for name, c := range map[string]struct {
		status agent.Status
		off    time.Duration
		want   string // check: state: text
	}{
		"well":                {status: cluster(same), want: "scheduler: ok: a:8002, b:8002"},
		"well, the manager":   {status: cluster(same), want: "manager: ok: manager:65003"},
		"well, the clock":     {status: cluster(same), want: "clock: ok: "},
		"alone":               {status: agent.Status{}, want: "cluster: ok: "},
		"a scheduler is down": {status: cluster(func(c *agent.Cluster) { c.Schedulers["a:8002"] = false }), want: "scheduler: warning: a:8002 cannot"},
		"all are":             {status: cluster(func(c *agent.Cluster) { c.Schedulers = map[string]bool{"a:8002": false} }), want: "scheduler: failed: none"},
		"none is known":       {status: cluster(func(c *agent.Cluster) { c.Schedulers = nil }), want: "scheduler: failed: no scheduler"},
		"not joined":          {status: cluster(func(c *agent.Cluster) { c.Linked, c.Expires = false, time.Time{} }), want: "manager: failed: has not joined"},
		"the manager is down": {status: cluster(func(c *agent.Cluster) { c.Linked = false }), want: "manager: warning: goes on"},
		"expired":             {status: cluster(func(c *agent.Cluster) { c.Expires = time.Now().Add(-time.Hour) }), want: "certificate: failed: was good"},
		"expires":             {status: cluster(func(c *agent.Cluster) { c.Expires = time.Now().Add(time.Hour) }), want: "certificate: warning: "},
		"plain":               {status: cluster(func(c *agent.Cluster) { c.TLS, c.Expires = false, time.Time{} }), want: "certificate: warning: plain"},
		"no room":             {status: full, want: "disk: warning: 10 %"},
		"late":                {status: cluster(same), off: 30 * time.Second, want: "clock: warning: 30s off"},
		"too late":            {status: cluster(same), off: -time.Hour, want: "clock: failed: off that of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := doctor.Doctor{Socket: listen(t, c.status), Manager: clock(t, c.off)}
			all := d.Check(t.Context())
			check, rest, _ := strings.Cut(c.want, ": ")
			state, text, _ := strings.Cut(rest, ": ")
			for _, f := range all {
				if f.State == doctor.Failed && f.Fix == "" {
					t.Errorf("nothing is said of what to do about %+v", f)
				}
				if f.Check == check && string(f.State) == state && strings.Contains(f.Text, text) {
					return
				}
			}
			t.Errorf("%q is not in %+v", c.want, all)
		})
	}
}

func TestWorst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		states []doctor.State
		want   doctor.State
	}{
		{nil, doctor.OK},
		{[]doctor.State{doctor.OK, doctor.Skipped}, doctor.OK},
		{[]doctor.State{doctor.Warning, doctor.OK}, doctor.Warning},
		{[]doctor.State{doctor.Failed, doctor.Warning}, doctor.Failed},
	} {
		var all []doctor.Finding
		for _, s := range c.states {
			all = append(all, doctor.Finding{State: s})
		}
		if got := doctor.Worst(all); got != c.want {
			t.Errorf("%v: %s, want %s", c.states, got, c.want)
		}
	}
}
