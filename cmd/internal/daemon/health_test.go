package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCheckReady(t *testing.T) {
	t.Parallel()
	d, err := OpenDebug("127.0.0.1:0", prometheus.NewRegistry(), nil)
	if err != nil {
		t.Fatal(err)
	}
	addr := d.Addr()
	if err := CheckReady(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("before it is ready: %v", err)
	}
	d.SetReady(true)
	_, port, _ := net.SplitHostPort(addr)
	for _, a := range []string{addr, ":" + port, "0.0.0.0:" + port} {
		if err := CheckReady(t.Context(), a); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{addr, ""} {
		if err := CheckReady(t.Context(), a); err == nil {
			t.Errorf("%q is ready", a)
		}
	}
}

func TestWriteFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a/b")
	for _, c := range []struct {
		mode, want os.FileMode
	}{{0o600, 0o600}, {0o644, 0o600}} { // a file keeps its mode
		if err := WriteFile(path, []byte("x"), c.mode); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != c.want {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	if all, err := os.ReadDir(filepath.Dir(path)); err != nil || len(all) != 1 {
		t.Errorf("%d files, %v", len(all), err)
	}
}
