package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
)

func newCluster(t *testing.T, db *store.DB, name string) store.Cluster {
	t.Helper()
	c, err := db.CreateCluster(t.Context(), by, store.Cluster{Name: name, CA: []byte("ca of " + name), Key: []byte("sealed")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newToken(t *testing.T, db *store.DB, k store.JoinToken) store.JoinToken {
	t.Helper()
	if k.Expires.IsZero() {
		k.Expires = time.Now().Add(time.Hour)
	}
	if k.Role == "" {
		k.Role = "host"
	}
	k, err := db.CreateJoinToken(t.Context(), by, k)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func node(c store.Cluster, name, key string) store.Node {
	return store.Node{Cluster: c.ID, Name: name, Role: "host", Key: key, Until: time.Now().Add(time.Hour), Hostname: name}
}

func TestFirstClusterIsCreatedOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		created := make(chan bool, 8)
		var wg sync.WaitGroup
		for range cap(created) {
			db := storetest.Open(t, url)
			wg.Go(func() {
				ok, err := db.FirstCluster(t.Context(), store.Cluster{Name: "default", CA: []byte{1}, Key: []byte{2}})
				if err != nil {
					t.Error(err)
				}
				created <- ok
			})
		}
		wg.Wait()
		close(created)
		n := 0
		for ok := range created {
			if ok {
				n++
			}
		}
		all, err := storetest.Open(t, url).AllClusters(t.Context())
		if err != nil || n != 1 || len(all) != 1 || !all[0].Standard {
			t.Errorf("created %d times: %+v, %v", n, all, err)
		}
	})
}

func TestClusters(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		if _, err := db.FirstCluster(t.Context(), store.Cluster{Name: "default", CA: []byte{1}, Key: []byte{2}}); err != nil {
			t.Fatal(err)
		}
		c := newCluster(t, db, "fra")
		if _, err := db.CreateCluster(t.Context(), by, store.Cluster{Name: "fra", CA: []byte{1}, Key: []byte{1}}); !errors.Is(err, store.ErrExists) {
			t.Errorf("the same name again: %v", err)
		}
		change := store.ClusterChange{
			Scope:    &store.Scope{CIDRs: []string{"10.0.0.0/8"}},
			Settings: &store.Settings{Upload: 1 << 20, Blocked: []string{"bad"}},
			Standard: true,
		}
		changed, err := db.ChangeCluster(t.Context(), by, c.ID, change)
		if err != nil || changed.Version != c.Version+1 || !changed.Standard || changed.Updated.Before(c.Updated) {
			t.Errorf("%+v, %v", changed, err)
		}
		got, err := db.ClusterByName(t.Context(), "fra")
		if diff := cmp.Diff(changed, got); err != nil || diff != "" {
			t.Error(err, diff)
		}
		if diff := cmp.Diff(*change.Scope, got.Scope); diff != "" {
			t.Error(diff)
		}
		all, err := db.Clusters(t.Context(), store.Page{Limit: 9})
		if err != nil || len(all) != 2 || all[0].Standard {
			t.Errorf("%+v, %v", all, err)
		}
		if err := db.DeleteCluster(t.Context(), by, c.ID); !errors.Is(err, store.ErrState) {
			t.Errorf("the standard one was deleted: %v", err)
		}
		newToken(t, db, store.JoinToken{Cluster: all[0].ID, Hash: "x"})
		if err := db.DeleteCluster(t.Context(), by, all[0].ID); err != nil {
			t.Error(err)
		}
		if left, err := db.JoinTokens(t.Context(), store.Page{Limit: 9}); err != nil || len(left) != 0 {
			t.Errorf("%+v, %v", left, err)
		}
	})
}

func TestJoin(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newCluster(t, db, "a")
		once := newToken(t, db, store.JoinToken{Hash: "once", Once: true, Cluster: c.ID})
		many := newToken(t, db, store.JoinToken{Hash: "many"})
		old := newToken(t, db, store.JoinToken{Hash: "old", Expires: time.Now().Add(-time.Second)})
		for _, step := range []struct {
			what string
			k    store.JoinToken
			n    store.Node
			want error
		}{
			{"the first", once, node(c, "n1", "k1"), nil},
			{"the answer was lost", once, node(c, "n1", "k1"), nil},
			{"a second with a one-time token", once, node(c, "n2", "k2"), store.ErrNotFound},
			{"its own name with another key", once, node(c, "n1", "k9"), store.ErrExists},
			{"another", many, node(c, "n2", "k2"), nil},
			{"and another", many, node(c, "n3", "k3"), nil},
			{"a name that is taken", many, node(c, "n1", "k4"), store.ErrExists},
			{"a token that expired", old, node(c, "n4", "k4"), store.ErrNotFound},
		} {
			if _, err := db.Join(t.Context(), by, step.k, step.n); !errors.Is(err, step.want) || step.want == nil && err != nil {
				t.Errorf("%s: %v, want %v", step.what, err, step.want)
			}
		}
		if k, err := db.JoinTokenByHash(t.Context(), "many"); err != nil || k.Uses != 2 || k.Used.IsZero() {
			t.Errorf("%+v, %v", k, err)
		}
		if _, err := db.JoinTokenByHash(t.Context(), "old"); !errors.Is(err, store.ErrNotFound) {
			t.Error(err)
		}
		if err := db.DeleteCluster(t.Context(), by, c.ID); err == nil {
			t.Error("a cluster with nodes was deleted")
		}
	})
}

func TestOneTimeTokenIsUsedOnce(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newCluster(t, db, "a")
		k := newToken(t, db, store.JoinToken{Hash: "once", Once: true})
		joined := make(chan bool, 8)
		var wg sync.WaitGroup
		for i := range cap(joined) {
			wg.Go(func() {
				_, err := db.Join(t.Context(), by, k, node(c, fmt.Sprint("n", i), fmt.Sprint("k", i)))
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
				}
				joined <- err == nil
			})
		}
		wg.Wait()
		close(joined)
		n := 0
		for ok := range joined {
			if ok {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d nodes joined with it", n)
		}
	})
}

func TestRevoke(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c, k := newCluster(t, db, "a"), newToken(t, db, store.JoinToken{Hash: "many"})
		n, err := db.Join(t.Context(), by, k, node(c, "n1", "k1"))
		if err != nil {
			t.Fatal(err)
		}
		until := time.Now().Add(2 * time.Hour).Truncate(time.Millisecond)
		if err := db.RenewNode(t.Context(), c.ID, "n1", "host", "k2", until); err != nil {
			t.Error(err)
		}
		if err := db.RenewNode(t.Context(), c.ID, "n1", "seed", "k2", until); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("renewed as a seed: %v", err)
		}
		n, err = db.RevokeNode(t.Context(), by, n.ID)
		if err != nil || n.State() != "revoked" || !n.Until.Equal(until) {
			t.Errorf("%+v, %v", n, err)
		}
		if v, err := db.Versions(t.Context()); err != nil || v[c.ID] != c.Version+1 {
			t.Errorf("%v, %v", v, err)
		}
		if err := db.RenewNode(t.Context(), c.ID, "n1", "host", "k3", until); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("renewed: %v", err)
		}
		if _, err := db.Join(t.Context(), by, k, node(c, "n1", "k1")); !errors.Is(err, store.ErrState) {
			t.Errorf("joined: %v", err)
		}
		if names, err := db.Revoked(t.Context(), c.ID); err != nil || cmp.Diff([]string{"n1"}, names) != "" {
			t.Errorf("%v, %v", names, err)
		}
		if err := db.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := db.Node(t.Context(), n.ID); err != nil {
			t.Errorf("it was forgotten while its certificate was good: %v", err)
		}
	})
}

func TestPresence(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c, k := newCluster(t, db, "a"), newToken(t, db, store.JoinToken{Hash: "many"})
		n := node(c, "s1", "k1")
		n.Role, n.Until = "scheduler", time.Now().Add(-time.Second)
		n, err := db.Join(t.Context(), by, k, n)
		if err != nil {
			t.Fatal(err)
		}
		state := func(want string) {
			t.Helper()
			if got, err := db.Node(t.Context(), n.ID); err != nil || got.State() != want {
				t.Errorf("%+v, %v: want %s", got, err, want)
			}
		}
		set := func(manager string, stream int64, present bool) {
			t.Helper()
			p := n
			p.Address = "192.0.2.1:8002"
			if err := db.SetPresence(t.Context(), manager, []store.Presence{{Node: p, Stream: stream, Present: present}}); err != nil {
				t.Fatal(err)
			}
		}
		state("dead")
		set("m1", 1, true)
		state("dead") // nobody has heard of m1
		for _, want := range []bool{false, true} {
			if was, err := db.KeepManager(t.Context(), "m1", time.Hour); err != nil || was != want {
				t.Fatal(was, err)
			}
		}
		state("alive")
		set("m2", 1, true)
		set("m1", 1, false) // it has moved
		if _, err := db.KeepManager(t.Context(), "m2", time.Hour); err != nil {
			t.Fatal(err)
		}
		state("alive")
		set("m2", 2, true)
		set("m2", 1, false) // another stream of it
		state("alive")
		if got, err := db.Schedulers(t.Context(), c.ID, time.Now().Add(time.Hour)); err != nil || cmp.Diff([]string{"192.0.2.1:8002"}, got) != "" {
			t.Errorf("%v, %v", got, err)
		}
		if counts, err := db.Census(t.Context()); err != nil || cmp.Diff([]store.Census{{Cluster: c.ID, Role: "scheduler", All: 1, Alive: 1}}, counts) != "" {
			t.Errorf("%+v, %v", counts, err)
		}
		if err := db.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		state("alive")
		if err := db.ForgetManager(t.Context(), "m2"); err != nil {
			t.Fatal(err)
		}
		state("dead")
		if got, err := db.Schedulers(t.Context(), c.ID, time.Now().Add(time.Hour)); err != nil || len(got) != 0 {
			t.Errorf("%v, %v", got, err)
		}
		if got, err := db.Schedulers(t.Context(), c.ID, time.Now().Add(-time.Hour)); err != nil || len(got) != 1 {
			t.Errorf("%v, %v", got, err)
		}
		if err := db.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Node(t.Context(), n.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a dead node without a certificate is still there: %v", err)
		}
	})
}
