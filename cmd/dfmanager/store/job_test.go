package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
)

func mustJob(t *testing.T, db *store.DB, url string) store.Job {
	t.Helper()
	j, err := db.CreateJob(t.Context(), by, store.Job{
		Kind: "image", URL: url, Platforms: []string{"linux/amd64", "linux/arm64"}, Secret: []byte{0, 1, 255}, Deadline: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func claim(t *testing.T, db *store.DB, owner string, lease time.Duration) store.Job {
	t.Helper()
	j, err := db.ClaimJob(t.Context(), owner, lease)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJobRuns(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		created := mustJob(t, db, "https://r/v2/a/manifests/1")
		j := claim(t, db, "me", time.Minute)
		want := created
		want.State, want.Owner, want.Run = store.Running, "me", 1
		if diff := cmp.Diff(want, j, cmpopts.IgnoreFields(store.Job{}, "Started", "Updated")); diff != "" || j.Started.IsZero() {
			t.Errorf("claimed: %s", diff)
		}
		if _, err := db.ClaimJob(ctx, "other", time.Minute); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("somebody else got it, too: %v", err)
		}
		if waiting, running, err := db.JobCounts(ctx); waiting != 0 || running != 1 || err != nil {
			t.Errorf("counts %d, %d, %v", waiting, running, err)
		}
		blobs := []store.JobBlob{{Digest: "sha256:a", Kind: "layer", Size: 10}, {Digest: "sha256:b", Kind: "config", Size: 20}}
		gone := append([]store.JobBlob{{Digest: "sha256:gone", Kind: "layer", Size: 7}}, blobs...)
		if err := errors.Join(db.SetJobBlobs(ctx, j, "sha256:before", gone), db.SetJobHosts(ctx, j, []store.JobHost{{Digest: "sha256:gone", Host: "h", State: store.Running}})); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time it changes nothing
			if err := db.SetJobBlobs(ctx, j, "sha256:m", blobs); err != nil {
				t.Fatal(err)
			}
			if err := db.UpdateJobBlob(ctx, j, store.JobBlob{Digest: "sha256:a", Got: 10, Host: "seed-0", Address: "192.0.2.1:65002", State: store.Succeeded}); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.EndJob(ctx, j, store.Failed, "because"); err != nil {
			t.Fatal(err)
		}
		got, err := db.JobBlobs(ctx, j.ID)
		wantBlobs := []store.JobBlob{
			{Digest: "sha256:b", Kind: "config", Size: 20, State: store.Failed},
			{Digest: "sha256:a", Kind: "layer", Size: 10, Got: 10, Host: "seed-0", Address: "192.0.2.1:65002", State: store.Succeeded},
		}
		if diff := cmp.Diff(wantBlobs, got, cmpopts.IgnoreFields(store.JobBlob{}, "Updated")); err != nil || diff != "" {
			t.Errorf("blobs: %v %s", err, diff)
		}
		end, err := db.Job(ctx, j.ID)
		if err != nil || end.State != store.Failed || end.Error != "because" || end.Secret != nil || end.Finished.IsZero() || end.Digest != "sha256:m" || end.Owner != "" {
			t.Errorf("%+v, %v", end, err)
		}
		if err := db.ForgetJobs(ctx, time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if left, err := db.JobBlobs(ctx, j.ID); err != nil || len(left) != 0 {
			t.Errorf("blobs of a forgotten job: %v, %v", left, err)
		}
	})
}

func TestJobIsLostWithItsLease(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		mustJob(t, db, "u")
		old := claim(t, db, "me", -time.Second)
		if _, err := db.KeepJob(ctx, old, -time.Second); err != nil {
			t.Errorf("nobody else has it: %v", err)
		}
		now := claim(t, db, "me", time.Minute) // even of the same name
		for name, err := range map[string]error{
			"keep":   func() error { _, err := db.KeepJob(ctx, old, time.Minute); return err }(),
			"end":    db.EndJob(ctx, old, store.Succeeded, ""),
			"back":   db.PutBackJob(ctx, old, time.Now(), true, ""),
			"blobs":  db.SetJobBlobs(ctx, old, "x", nil),
			"blob":   db.UpdateJobBlob(ctx, old, store.JobBlob{Digest: "x"}),
			"no job": db.EndJob(ctx, store.Job{ID: 99, Owner: "me", Run: 1}, store.Succeeded, ""),
		} {
			if !errors.Is(err, store.ErrLost) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if now.Run != 2 || !now.Started.Equal(old.Started) {
			t.Errorf("%+v", now)
		}
		if err := db.EndJob(ctx, now, store.Succeeded, ""); err != nil {
			t.Error(err)
		}
		if err := db.EndJob(ctx, now, store.Failed, ""); !errors.Is(err, store.ErrLost) {
			t.Errorf("it ended twice: %v", err)
		}
	})
}

func TestJobIsPutBack(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		mustJob(t, db, "u")
		j := claim(t, db, "me", time.Minute)
		if err := db.PutBackJob(ctx, j, time.Now().Add(time.Hour), true, "registry is away"); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ClaimJob(ctx, "me", time.Minute); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("it is not due: %v", err)
		}
		got, err := db.Job(ctx, j.ID)
		if err != nil || got.State != store.Waiting || got.Tries != 1 || got.Error != "registry is away" || got.Secret == nil {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		first, second := mustJob(t, db, "1"), mustJob(t, db, "2")
		running := claim(t, db, "me", time.Minute)
		if running.ID != first.ID {
			t.Fatalf("claimed %d before %d", running.ID, first.ID)
		}
		if j, err := db.CancelJob(ctx, by, second.ID); err != nil || j.State != store.Cancelled || j.Secret != nil {
			t.Errorf("a job that waits: %+v, %v", j, err)
		}
		if j, err := db.CancelJob(ctx, by, first.ID); err != nil || j.State != store.Running || !j.Cancel {
			t.Errorf("a job that runs: %+v, %v", j, err)
		}
		if cancel, err := db.KeepJob(ctx, running, time.Minute); !cancel || err != nil {
			t.Errorf("its runner hears: %v, %v", cancel, err)
		}
		if _, err := db.CancelJob(ctx, by, second.ID); !errors.Is(err, store.ErrState) {
			t.Errorf("a job that has ended: %v", err)
		}
		if _, err := db.CancelJob(ctx, by, 99); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("no job: %v", err)
		}
		all, err := db.Jobs(ctx, store.Cancelled, store.Page{Limit: 9})
		if err != nil || len(all) != 1 || all[0].ID != second.ID {
			t.Errorf("%+v, %v", all, err)
		}
		if all, err = db.Jobs(ctx, "", store.Page{Limit: 1}); err != nil || len(all) != 1 || all[0].ID != second.ID {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// Several managers with several runners each take every job once.
func TestJobsAreClaimedOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		dbs := []*store.DB{storetest.Open(t, url), storetest.Open(t, url)}
		const jobs = 60
		for i := range jobs {
			mustJob(t, dbs[0], fmt.Sprint(i))
		}
		var mu sync.Mutex
		seen := map[int64]int{}
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				for {
					j, err := dbs[i%2].ClaimJob(t.Context(), fmt.Sprint("runner ", i), time.Minute)
					if errors.Is(err, store.ErrNotFound) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					seen[j.ID]++
					mu.Unlock()
					if err := dbs[i%2].EndJob(t.Context(), j, store.Succeeded, ""); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if len(seen) != jobs {
			t.Errorf("%d of %d jobs were claimed", len(seen), jobs)
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("job %d was claimed %d times", id, n)
			}
		}
	})
}
