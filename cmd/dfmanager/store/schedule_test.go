package store_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// However many managers look, each time of a schedule makes one job.
func TestSchedulesFireOnce(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx, now := t.Context(), time.Now()
		const n = 5
		for i := range n {
			_, err := db.CreateSchedule(ctx, by, store.Schedule{Cron: "@daily", Kind: "image", URL: string(rune('a' + i)), Platforms: []string{"linux/amd64"}, Cluster: 2, Secret: []byte("sealed"), Due: now.Add(-time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
		}
		later, err := db.CreateSchedule(ctx, by, store.Schedule{Cron: "@daily", URL: "later", Due: now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		tomorrow := now.Add(24 * time.Hour).Truncate(time.Millisecond)
		var wg sync.WaitGroup
		var mu sync.Mutex
		fired := map[string]int{}
		for range 4 {
			wg.Go(func() {
				for {
					j, err := db.Fire(ctx, now, func(store.Schedule) time.Time { return now.Add(time.Hour) }, func(store.Schedule) time.Time { return tomorrow })
					if errors.Is(err, store.ErrNotFound) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					fired[j.URL]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if diff := cmp.Diff(map[string]int{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, fired); diff != "" {
			t.Error(diff)
		}
		jobs, err := db.Jobs(ctx, store.Waiting, store.Page{Limit: 99})
		if err != nil || len(jobs) != n || jobs[0].Actor != by.Actor || jobs[0].Cluster != 2 || string(jobs[0].Secret) != "sealed" || len(jobs[0].Platforms) != 1 {
			t.Fatalf("%+v, %v", jobs, err)
		}
		all, err := db.Schedules(ctx, store.Page{Limit: 99})
		if err != nil || len(all) != n+1 {
			t.Fatalf("%+v, %v", all, err)
		}
		for _, k := range all[:n] {
			if !k.Due.Equal(tomorrow) || k.Job == 0 || string(k.Secret) != "sealed" {
				t.Errorf("%+v", k)
			}
		}
		if diff := cmp.Diff(later, all[n], cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		if err := db.DeleteSchedule(ctx, by, later.ID); err != nil {
			t.Fatal(err)
		}
		if err := db.DeleteSchedule(ctx, by, later.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("deleted twice: %v", err)
		}
	})
}
