package peer_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
)

// Connections of a listener are made as it is.
func TestLineIsSharedEvenly(t *testing.T) {
	known, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err != nil || !strings.Contains(string(known), "cubic") {
		t.Skipf("the kernel allows %q, and not cubic (%v)", known, err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	set := func(how string) (err error) {
		if cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, how)
		}); cerr != nil {
			return cerr
		}
		return err
	}
	if err := set("reno"); err != nil {
		t.Skipf("the kernel has no other way: %v", err)
	}
	s, err := peer.Serve(ln, peer.ServerConfig{Blobs: newShelf()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var how string
	if cerr := raw.Control(func(fd uintptr) {
		how, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	if how = strings.TrimRight(how, "\x00"); how != "cubic" {
		t.Errorf("connections share the line by %s, want cubic", how)
	}
}
