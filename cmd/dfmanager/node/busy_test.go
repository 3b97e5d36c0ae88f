package node_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// worker is what a node says of its work.
type worker struct {
	mu    sync.Mutex // guards what follows
	load  manage.Load
	asked int
	news  chan struct{} // closed when it is asked
}

func (w *worker) busy() manage.Load {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	close(w.news)
	w.news = make(chan struct{})
	return w.load
}

// says has the node say something, and returns when the manager has noted it.
func (w *worker) says(l manage.Load) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.load = l
	for noted := w.asked + 2; w.asked < noted; { // it is asked anew when what it said is noted
		news := w.news
		w.mu.Unlock()
		<-news
		w.mu.Lock()
	}
}

// What is moved is counted once, whoever starts anew.
func TestTrafficIsCounted(t *testing.T) {
	each(t, func(e *env) {
		c, err := e.db.ClusterByName(e.t.Context(), cluster.Standard)
		if err != nil {
			e.t.Fatal(err)
		}
		m := e.manager("m-1", "127.0.0.1:0")
		w := &worker{news: make(chan struct{})}
		token := e.token(store.JoinToken{Role: "host"})
		h := e.joinBusy(m.addr, token, "", host, manage.Place{}, w.busy)
		h.until(e.t, "at first", any)
		w.says(manage.Load{Moved: manage.Traffic{Origin: 100, Peers: 50}})
		w.says(manage.Load{Moved: manage.Traffic{Origin: 130, Peers: 50, Sent: 7}, Kept: 1 << 40, Uploads: 2, Waiting: 1})
		n := e.state(c, "h-1", "alive")
		m.stop()
		m = e.manager("m-2", m.addr)
		h.until(e.t, "of another manager", any)
		w.says(manage.Load{Moved: manage.Traffic{Origin: 130, Peers: 60, Store: 9, Sent: 7}, Kept: 1 << 40, Uploads: 3})
		h.Close()
		w = &worker{news: make(chan struct{})}
		h = e.joinBusy(m.addr, token, h.dir, host, manage.Place{}, w.busy)
		h.until(e.t, "started anew", any)
		w.says(manage.Load{Moved: manage.Traffic{Origin: 1}, Kept: 1 << 40, Uploads: 4})
		h.Close()
		m.stop()

		hours, err := e.db.TrafficHours(e.t.Context(), c.ID, time.Now(), 2)
		if err != nil {
			e.t.Fatal(err)
		}
		var sum store.Traffic
		for _, hour := range hours {
			sum.Add(hour.Hosts)
			if hour.Seeds != (store.Traffic{}) {
				e.t.Errorf("there is no seed: %+v", hour)
			}
		}
		if diff := cmp.Diff(store.Traffic{Origin: 131, Peers: 60, Store: 9, Sent: 7}, sum); diff != "" {
			e.t.Error(diff)
		}
		loads, err := e.db.Loads(e.t.Context(), c.ID, 0, n.ID)
		if err != nil {
			e.t.Fatal(err)
		}
		want := map[int64]store.Load{n.ID: {Node: n.ID, Kept: 1 << 40, Uploads: 4}}
		if diff := cmp.Diff(want, loads, cmpopts.IgnoreFields(store.Load{}, "At", "Origin")); diff != "" {
			e.t.Error(diff)
		}
	})
}
