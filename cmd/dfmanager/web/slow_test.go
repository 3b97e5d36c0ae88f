package web_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// Who sends a request slowly, or not at all, does not keep a connection for long.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	var s *web.Server
	newEnv(t, func(c *web.Config) {
		other := *c
		var err error
		if s, err = web.New(other); err != nil {
			t.Fatal(err)
		}
		c.Registerer = prometheus.NewRegistry()
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := s.HTTP()
	served := make(chan error, 1)
	go func() { served <- h.Serve(ln) }()
	t.Cleanup(func() {
		_ = h.Close() // who is late is cut off
		<-served
	})
	for name, text := range map[string]string{
		"nothing":      "",
		"half a line":  "GET /heal",
		"half of them": "GET /healthz HTTP/1.1\r\nHost: x\r\n",
		"large header": "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 128<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte(text)) // which may be refused before its end
			got, err := io.ReadAll(c)
			var late net.Error
			if errors.As(err, &late) && late.Timeout() || strings.Contains(string(got), "200 OK") {
				t.Errorf("the connection stays: %v %q", err, got)
			}
		})
	}
}
