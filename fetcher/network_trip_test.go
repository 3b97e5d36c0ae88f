package fetcher_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

// TestNetworkTrips holds that a host which wants a blob that a seed is just
// fetching waits for nothing but the network. The first bytes are on their way as
// soon as the seed has them: half a round trip.
func TestNetworkTrips(t *testing.T) {
	for _, c := range []struct {
		name  string
		lazy  bool
		trips float64
	}{{"read lazily", true, 0.5}, {"whole", false, 0.5}} {
		t.Run(c.name, func(t *testing.T) {
			var tries []float64
			for range 10 { // the machine may have other things to do
				trips := firstBytes(t, c.lazy)
				if trips < c.trips+0.4 {
					t.Logf("%.2f round trips after the seed has them", trips)
					return
				}
				tries = append(tries, trips)
			}
			t.Errorf("first bytes come after %.2f round trips, want about %.1f", tries, c.trips)
		})
	}
}

// firstBytes returns how many round trips after the origin has given a seed a
// piece the first bytes of it are on a host that waits for them.
func firstBytes(t *testing.T, lazy bool) float64 {
	const oneWay = 100 * time.Millisecond
	data := content(512*kib, 17)
	gate := make(chan struct{})
	registry := newFake(func(int, request) fault { <-gate; return fault{} }, data)
	s := startScheduler(t)
	way := far{oneWay: oneWay, used: make(chan struct{}, 1)}
	startHostWith(t, "seed-1", s, func(c *fetcher.Config) {
		c.Sources, c.Network.Self.Seed = []fetcher.Source{registry}, true
		c.Network.Self.Addr = way.to(t, c.Network.Self.Addr)
	})
	h := startHost(t, "host0", false, s, registry)
	connected(t, s, 1)
	n, prio := int64(len(data)), fetcher.Prefetch
	if lazy {
		n, prio = 64*kib, fetcher.OnDemand
	}
	r, err := openBlob(t, h.Fetcher, ref(data)).Range(t.Context(), 0, n, prio)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	began := make(chan time.Time, 1)
	go func() {
		<-way.used
		time.AfterFunc(4*oneWay, func() { // what the host has to say has been said
			began <- time.Now()
			close(gate)
		})
	}()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return float64(time.Since(<-began)) / float64(2*oneWay)
}

// far makes a host one that is far away.
type far struct {
	oneWay time.Duration
	used   chan struct{} // something was sent
}

// to returns an address from which what is sent there gets to addr, late.
func (f far) to(t *testing.T, addr string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", addr)
			if err != nil {
				_ = near.Close()
				continue
			}
			go f.carry(there, near)
			go f.carry(near, there)
		}
	}()
	return ln.Addr().String()
}

// carry brings bytes from one connection to another.
func (f far) carry(to, from net.Conn) {
	type parcel struct {
		at   time.Time
		data []byte
	}
	way := make(chan parcel, 1024)
	go func() {
		defer to.Close()
		for p := range way {
			time.Sleep(time.Until(p.at)) // this is the distance
			if _, err := to.Write(p.data); err != nil {
				_ = from.Close()
			}
		}
	}()
	defer close(way)
	for {
		buf := make([]byte, 64*kib)
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case f.used <- struct{}{}:
		default:
		}
		way <- parcel{time.Now().Add(f.oneWay), buf[:n]}
	}
}
