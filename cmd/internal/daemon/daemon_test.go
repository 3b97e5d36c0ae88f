package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type config struct {
	Name string     `toml:"name"`
	Size int        `toml:"size"`
	TLS  daemon.TLS `toml:"tls"`
}

// run runs a daemon's command line and returns what it printed, and with which
// configuration and file the daemon ran; nil: it did not.
func run(t *testing.T, file string, args ...string) (out string, ran *config, used string, err error) {
	t.Helper()
	p := &daemon.Program[config]{
		Name: "d", Version: "1", File: file,
		Default: func() config { return config{Name: "default", Size: 1} },
		Validate: func(c config) error {
			var errs []error
			if c.Name == "" {
				errs = append(errs, errors.New("name: is empty"))
			}
			if c.Size < 0 {
				errs = append(errs, errors.New("size: is negative"))
			}
			return errors.Join(errs...)
		},
		Probe: func(c config, _ *slog.Logger) error {
			if c.Size > 5 {
				return errors.New("size: there is no room")
			}
			return nil
		},
	}
	p.Run = func(_ context.Context, c config, _ *slog.Logger) error {
		ran, used = &c, p.Used()
		return nil
	}
	var b bytes.Buffer
	cmd := p.Command()
	cmd.SetOut(&b)
	cmd.SetErr(&b)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return b.String(), ran, used, err
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProgram(t *testing.T) {
	t.Parallel()
	there, absent := write(t, "name = 'there'\n"), filepath.Join(t.TempDir(), "absent")
	other, large := write(t, "name = 'other'\n"), write(t, "size = 6\n")
	bad := write(t, "name = ''\nsize = -1\n")
	for name, c := range map[string]struct {
		file string // that is read if there is one
		args []string
		ran  string // name in the configuration; "": it must not run
		used string
		says []string // in what is printed, or in the error
	}{
		"no file":          {absent, nil, "default", "", nil},
		"the usual file":   {there, nil, "there", there, nil},
		"another file":     {there, []string{"--config", other}, "other", other, nil},
		"missing file":     {there, []string{"--config", absent}, "", "", []string{"configuration file: ", absent}},
		"bad file":         {bad, nil, "", "", []string{bad + ": name: is empty\n" + bad + ": size: is negative"}},
		"level":            {there, []string{"--log-level", "loud"}, "", "", []string{"--log-level", "loud"}},
		"unknown flag":     {there, []string{"--konfig", "x"}, "", "", []string{"--konfig", "usage: d [flags]"}},
		"argument":         {there, []string{"config", "default", "x"}, "", "", []string{"usage: d config default"}},
		"check":            {there, []string{"config", "check"}, "", "", []string{there + ": ok\n"}},
		"check of nothing": {absent, []string{"config", "check"}, "", "", []string{"no " + absent + ", so the defaults hold: ok"}},
		"check of a file":  {there, []string{"config", "check", other}, "", "", []string{other + ": ok"}},
		"check finds":      {there, []string{"config", "check", bad}, "", "", []string{"size: is negative"}},
		"check probes":     {there, []string{"config", "check", large}, "", "", []string{large + ": size: there is no room"}},
		"default":          {there, []string{"config", "default"}, "", "", []string{"name = 'default'"}},
		"version":          {there, []string{"--version"}, "", "", []string{"d version 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, ran, used, err := run(t, c.file, c.args...)
			if (ran != nil) != (c.ran != "") || ran != nil && (ran.Name != c.ran || used != c.used) {
				t.Errorf("it ran with %+v of %q", ran, used)
			}
			if err != nil {
				out += err.Error()
			}
			for _, part := range c.says {
				if !strings.Contains(out, part) {
					t.Errorf("it does not say %q: %s", part, out)
				}
			}
		})
	}
}

// TestMan has a daemon write its pages, which are an administrator's.
func TestMan(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir := t.TempDir()
	if out, _, _, err := run(t, "", "man", dir); err != nil {
		t.Fatal(err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "d-config-check.8"))
	if err != nil || !strings.Contains(string(text), `.TH "D-CONFIG-CHECK" "8" "Nov 2023" "d 1" "dfsnapshotter"`) {
		t.Errorf("%v: %.400s", err, text)
	}
	if _, err := os.Stat(filepath.Join(dir, "d-man.8")); err == nil {
		t.Error("there is a page for the command that makes them")
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	type is struct{ HostPort, Dialable bool }
	want := map[string]is{
		"node-1:8002":     {true, true},
		"10.0.0.1:8002":   {true, true},
		"[fd00::1]:8002":  {true, true},
		"127.0.0.1:1":     {true, true},
		":8002":           {true, false},
		"0.0.0.0:8002":    {true, false},
		"[::]:8002":       {true, false},
		"node-1:0":        {true, false},
		"node-1:00":       {true, false},
		"node-1:65536":    {},
		"node-1:-1":       {},
		"node-1:http":     {},
		"node-1":          {},
		"8002":            {},
		"fd00::1:8002":    {},
		"http://node-1:1": {},
		"":                {},
	}
	got := map[string]is{}
	for s := range want {
		got[s] = is{daemon.IsHostPort(s), daemon.IsDialable(s)}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func get(t *testing.T, network, addr, path string) (int, string) {
	t.Helper()
	var d net.Dialer
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, addr)
	}}}
	resp, err := c.Get("http://daemon" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestDebug(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "some_total"}))
	d, err := daemon.OpenDebug("127.0.0.1:0", reg, func(mux *http.ServeMux) {
		mux.HandleFunc("GET /more", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "more") })
	})
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		Code int
		Text string
	}
	look := func() map[string]answer {
		got := map[string]answer{}
		for _, path := range []string{"/healthz", "/readyz", "/more", "/debug/pprof/"} {
			code, text := get(t, "tcp", d.Addr(), path)
			got[path] = answer{code, strings.TrimSpace(text)}
		}
		return got
	}
	want := map[string]answer{
		"/healthz": {200, "ok"}, "/readyz": {503, "not ready"}, "/more": {200, "more"}, "/debug/pprof/": {404, "404 page not found"},
	}
	if diff := cmp.Diff(want, look()); diff != "" {
		t.Error(diff)
	}
	d.SetReady(true)
	want["/readyz"] = answer{200, "ok"}
	if diff := cmp.Diff(want, look()); diff != "" {
		t.Error(diff)
	}
	if _, text := get(t, "tcp", d.Addr(), "/metrics"); !strings.Contains(text, "some_total 0") {
		t.Errorf("/metrics says %s", text)
	}
	if _, err := daemon.OpenDebug(d.Addr(), reg, nil); err == nil || !strings.Contains(err.Error(), "debug.listen") {
		t.Errorf("where another one listens: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	off, err := daemon.OpenDebug("", reg, nil)
	if err != nil || off.Addr() != "" {
		t.Errorf("without an address it listens on %q, %v", off.Addr(), err)
	}
	off.SetReady(true)
	if err := off.Close(); err != nil {
		t.Error(err)
	}
}

// TestUnix makes a socket where a dead one lies, and none where there is
// something else.
func TestUnix(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	ln, err := daemon.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	s := daemon.Serve(ln, http.NotFoundHandler())
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", fi, err)
	}
	if code, _ := get(t, "unix", path, "/"); code != http.StatusNotFound {
		t.Errorf("it answers %d", code)
	}
	if _, err := daemon.ListenUnix(path); err == nil || !strings.Contains(err.Error(), "in use by a live process") {
		t.Errorf("where another one listens: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := daemon.FreeSocket(path); err != nil {
		t.Errorf("nothing is there: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := daemon.FreeSocket(path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("a file lies there: %v", err)
	}
}
