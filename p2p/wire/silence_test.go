package wire_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// wires is a way to a server that can go dead: then connections stay open, and
// nothing comes through any more.
type wires struct {
	addr string
	dead atomic.Bool
}

func wiresTo(t *testing.T, addr string) *wires {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wires{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				_ = a.Close()
				return
			}
			mu.Lock()
			conns = append(conns, a, b)
			mu.Unlock()
			for from, to := range map[net.Conn]net.Conn{a: b, b: a} {
				wg.Go(func() { w.carry(from, to) })
			}
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return w
}

func (w *wires) carry(from io.Reader, to net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if w.dead.Load() {
			if err != nil {
				return // and the other end does not hear of it
			}
			continue
		}
		if err != nil {
			_ = to.Close()
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestSilence has the network between a host and its scheduler swallow all
// packets while neither has anything to say.
func TestSilence(t *testing.T) {
	t.Parallel()
	heard, gone := make(chan struct{}), make(chan error, 1)
	w := wiresTo(t, scheduler(t, nil, func(s *wire.HostStream) error {
		_, err := s.Recv()
		close(heard)
		if err == nil {
			<-s.Context().Done()
			err = s.Context().Err()
		}
		gone <- err
		return err
	}))
	s := link(t, w.addr, nil)
	if err := s.Send(p2p.Announce{Host: host("a")}); err != nil {
		t.Fatal(err)
	}
	<-heard
	w.dead.Store(true)
	began := time.Now()
	lost := make(chan error, 1)
	go func() {
		_, err := s.Recv()
		lost <- err
	}()
	for what, ch := range map[string]chan error{"the host": gone, "the scheduler": lost} {
		if err := <-ch; err == nil {
			t.Errorf("the other end missed nothing of %s", what)
		}
		// 10 s and 15 s, on an idle machine.
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("%s was missed after %v", what, took)
		}
	}
	t.Logf("both ends know after %v", time.Since(began))
}
