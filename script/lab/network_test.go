package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

func TestMain(m *testing.M) {
	if os.Getenv("LAB_ABANDON") != "" {
		if err := abandon(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// abandon opens a lab with a network, says where it is, and waits to be killed.
func abandon() error {
	l, err := lab.Open("../..")
	if err != nil {
		return err
	}
	n, err := l.Network(false)
	if err != nil {
		return err
	}
	h, err := n.Host("a", lab.Link{})
	if err != nil {
		return err
	}
	if _, err := h.Registry(context.Background()); err != nil {
		return err
	}
	fmt.Println(l.Dir)
	select {}
}

// network opens a network of a lab's own.
func network(t *testing.T, ipv6 bool) *lab.Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
	l, err := lab.Open("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := leftOf(l.Dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	n, err := l.Network(ipv6)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// leftOf returns the namespaces and links of the lab that was in dir.
func leftOf(dir string) []string {
	name := strings.Replace(filepath.Base(dir), "dflab", "dfl", 1)
	namespaces, _ := filepath.Glob("/run/netns/" + name + "*")
	links, _ := filepath.Glob("/sys/class/net/" + name + "*")
	return append(namespaces, links...)
}

func host(t *testing.T, n *lab.Network, name string, l lab.Link) *lab.Host {
	t.Helper()
	h, err := n.Host(name, l)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// serve sends size bytes to whoever connects to a port of h, and then waits for
// a byte and sends one back, again and again.
func serve(t *testing.T, h *lab.Host, size int) {
	t.Helper()
	ln, err := h.Listen(h.Addr("7"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := c.Write(make([]byte, size)); err == nil {
					_, _ = io.Copy(c, c)
				}
			}()
		}
	}()
}

// echo sends a byte on c and waits until it comes back, at most for limit.
func echo(c net.Conn, b byte, limit time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{b}); err != nil {
		return err
	}
	for got := []byte{0}; got[0] != b; {
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
	}
	return nil
}

func TestNetwork(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(fmt.Sprint("ipv6=", ipv6), func(t *testing.T) {
			const size = 2 << 20
			n := network(t, ipv6)
			a, b := host(t, n, "a", lab.Symmetric("40mbit")), host(t, n, "b", lab.Symmetric("400mbit"))
			serve(t, a, size)
			c, err := b.Dial(t.Context(), "tcp", a.Addr("7"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			began := time.Now()
			if _, err := io.ReadFull(c, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			// Less than the link's burst and what is in sockets it cannot be.
			if took, least := time.Since(began), 200*time.Millisecond; took < least {
				t.Errorf("2 MiB took %s over 40 Mbit/s", took)
			}
			out, err := a.Traffic()
			if err != nil || out.Sent < size || out.Sent > size+size/10 {
				t.Errorf("a sent %+v, %v", out, err)
			}
			in, err := b.Traffic()
			if err != nil || in.Received < size || in.Received > size+size/10 {
				t.Errorf("b received %+v, %v", in, err)
			}

			for i, fault := range []struct {
				name string
				do   func() error
			}{
				{"silence", a.Silence},
				{"split", func() error { return n.Split(a) }},
			} {
				if err := fault.do(); err != nil {
					t.Fatal(err)
				}
				var timeout net.Error
				if err := echo(c, byte(2*i+1), 300*time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("%s: %v, not a timeout", fault.name, err)
				}
				if err := n.Heal(a); err != nil {
					t.Fatal(err)
				}
				if err := echo(c, byte(2*i+2), 10*time.Second); err != nil {
					t.Errorf("after %s: %v", fault.name, err)
				}
			}
			// Those on the same side reach each other.
			if err := n.Split(a, b); err != nil {
				t.Fatal(err)
			}
			if err := echo(c, 9, 10*time.Second); err != nil {
				t.Errorf("together on an island: %v", err)
			}
			if _, err := net.DialTimeout("tcp", a.Addr("7"), 300*time.Millisecond); err == nil {
				t.Error("the machine reaches the island")
			}
		})
	}
}

// TestAbandoned finds nothing left of a lab with a network whose owner was
// killed.
func TestAbandoned(t *testing.T) {
	network(t, false) // skips where there can be none
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "LAB_ABANDON=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir := make([]byte, 100)
	n, err := out.Read(dir)
	if err = errors.Join(err, cmd.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	gone := strings.TrimSpace(string(dir[:n]))
	if len(leftOf(gone)) < 3 {
		t.Errorf("of %s there is %v before the sweep", gone, leftOf(gone))
	}
	network(t, false)
	if left := leftOf(gone); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", gone, err)
	}
}
