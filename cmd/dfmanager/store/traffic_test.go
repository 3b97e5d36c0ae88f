package store_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
)

func TestTraffic(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx, now := t.Context(), time.Now()
		a, b := newCluster(t, db, "a"), newCluster(t, db, "b")
		var wg sync.WaitGroup
		for range 10 { // managers that say so at once
			wg.Go(func() {
				err := db.AddTraffic(ctx, now, map[store.Mover]store.Traffic{
					{Cluster: a.ID, Role: "host"}: {Origin: 1, Peers: 1 << 40, Store: 3, Sent: 4},
					{Cluster: a.ID, Role: "seed"}: {Origin: 5},
					{Cluster: 99, Role: "host"}:   {Origin: 1},
				}, nil)
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := db.AddTraffic(ctx, now.Add(-time.Hour), map[store.Mover]store.Traffic{{Cluster: b.ID, Role: "host"}: {Origin: 7}}, nil); err != nil {
			t.Fatal(err)
		}
		start := now.UTC().Truncate(time.Hour)
		hosts, seeds := store.Traffic{Origin: 10, Peers: 10 << 40, Store: 30, Sent: 40}, store.Traffic{Origin: 50}
		for cluster, want := range map[int64][]store.TrafficHour{
			a.ID: {{Start: start.Add(-time.Hour)}, {Start: start, Hosts: hosts, Seeds: seeds}},
			0:    {{Start: start.Add(-time.Hour), Hosts: store.Traffic{Origin: 7}}, {Start: start, Hosts: hosts, Seeds: seeds}},
		} {
			got, err := db.TrafficHours(ctx, cluster, now, 2)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("cluster %d: %v %s", cluster, err, diff)
			}
		}
		if err := db.DeleteCluster(ctx, by, b.ID); err != nil {
			t.Fatal(err)
		}
		if got, err := db.TrafficHours(ctx, 0, now, 2); err != nil || got[0].Hosts.Origin != 0 {
			t.Errorf("of a cluster that is no more: %+v, %v", got, err)
		}
	})
}

func TestLoads(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		c := newCluster(t, db, "a")
		k := newToken(t, db, store.JoinToken{})
		n, err := db.Join(ctx, by, k, node(c, "n", "key"))
		if err != nil {
			t.Fatal(err)
		}
		want := store.Load{Node: n.ID, At: time.UnixMilli(1_800_000_000_000).UTC(), Origin: 1, Peers: 2, Sent: 3, Kept: 4 << 40, Uploads: 5, Waiting: 6}
		for _, l := range []store.Load{{Node: n.ID}, {Node: 99}, want} {
			if err := db.AddTraffic(ctx, time.Now(), nil, []store.Load{l}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := db.Loads(ctx, c.ID, n.ID, n.ID)
		if diff := cmp.Diff(map[int64]store.Load{n.ID: want}, got); diff != "" || err != nil {
			t.Error(err, diff)
		}
		for _, r := range [][3]int64{{c.ID + 1, 0, 99}, {c.ID, n.ID + 1, 99}, {c.ID, 0, n.ID - 1}} {
			if got, err := db.Loads(ctx, r[0], r[1], r[2]); err != nil || len(got) != 0 {
				t.Errorf("%v: %v, %v", r, got, err)
			}
		}
	})
}

// BenchmarkAddTraffic shows what it costs to write down the loads of five thousand
// busy nodes, which is every five seconds where there are ten thousand.
func BenchmarkAddTraffic(b *testing.B) {
	db := storetest.Open(b, storetest.SQLite(b))
	ctx := b.Context()
	c, err := db.CreateCluster(ctx, by, store.Cluster{Name: "a", CA: []byte{1}, Key: []byte{2}})
	if err != nil {
		b.Fatal(err)
	}
	k, err := db.CreateJoinToken(ctx, by, store.JoinToken{Role: "host", Hash: "h", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		b.Fatal(err)
	}
	loads := make([]store.Load, 5000)
	for i := range loads {
		n, err := db.Join(ctx, by, k, node(c, fmt.Sprint("n", i), "key"))
		if err != nil {
			b.Fatal(err)
		}
		loads[i] = store.Load{Node: n.ID, Kept: 1 << 30}
	}
	moved := map[store.Mover]store.Traffic{{Cluster: c.ID, Role: "host"}: {Peers: 1}}
	for b.Loop() {
		now := time.Now()
		for i := range loads {
			loads[i].At, loads[i].Peers = now, now.Unix()
		}
		if err := db.AddTraffic(ctx, now, moved, loads); err != nil {
			b.Fatal(err)
		}
	}
}
